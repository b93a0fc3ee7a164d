// StopText: ends an answer before any of some strings, wherever tokens cut them.
//
// What push returns is safe to show: a tail that could begin a stop string is held back until it cannot.
// Once a string has been found nothing more comes out. Source: protocol 5.1 (stop).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace kvasir {

class StopText {
 public:
  // Empty strings are ignored.
  explicit StopText(std::vector<std::string> strings);

  // More text; what of the text so far may be shown and has not been.
  std::string push(std::string_view text);
  // The end: what was held back, unless a string was found.
  std::string finish();
  bool found() const { return found_ != kNone; }
  // The string that was found, or null.
  const std::string* found_string() const { return found() ? &strings_[found_] : nullptr; }

 private:
  static constexpr size_t kNone = static_cast<size_t>(-1);

  std::vector<std::string> strings_;
  std::string held_;
  size_t found_ = kNone;  // index in strings_
};

}  // namespace kvasir
