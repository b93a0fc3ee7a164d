// The `format` keyword: formats of strings as patterns, and of numbers as bounds. Pure functions.
//
// Strings: email, hostname, ipv4, ipv6, uuid, date, time, date-time, uri. They follow the RFCs that JSON
// Schema names, with this reading: local parts of an email address without quotes; times with seconds 00 to
// 59 (a leap second is valid only on dates that a pattern cannot know). Numbers: int32, int64; float and
// double add nothing.
#pragma once

#include <optional>
#include <string_view>

#include "grammar/number_dfa.h"

namespace kvasir {

// Empty: no such format of strings.
std::string_view format_pattern(std::string_view format);
// Nothing: no such format of numbers.
std::optional<NumberBounds> format_bounds(std::string_view format);

}  // namespace kvasir
