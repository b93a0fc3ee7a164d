// From the parameters of a tool block to the JSON text of the call's arguments (protocol.md 3.1 and the
// rules MAL-3 and MAL-5 to MAL-8): types come from the tag, corrected by the schema where they disagree.
// Pure functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/json_value.h"

namespace kvasir {

// One parameter as the model wrote it. Borrows from the block's text.
struct Parameter {
  enum class IsString { kYes, kNo, kUnsaid };

  std::string_view key;
  std::string_view text;
  IsString is_string = IsString::kUnsaid;
};

// `function` is the offered tool's function object, null for a tool nobody offered (MAL-13). The result
// parses as a JSON object, whatever the parameters hold.
std::string arguments_text(const std::vector<Parameter>& parameters, const JsonValue* function);

}  // namespace kvasir
