// The tail that could still become a stop text; see stop_text.h.
#include "text/stop_text.h"

#include <algorithm>
#include <utility>

namespace kvasir {

StopText::StopText(std::vector<std::string> strings) : strings_(std::move(strings)) {
  std::erase_if(strings_, [](const std::string& s) { return s.empty(); });
}

std::string StopText::push(std::string_view text) {
  if (found()) return {};
  held_ += text;
  size_t first = std::string::npos;
  for (size_t i = 0; i < strings_.size(); ++i) {
    size_t at = held_.find(strings_[i]);
    if (at < first) first = at, found_ = i;
  }
  if (found()) {
    held_.resize(first);
    return std::exchange(held_, {});
  }
  // Keep the longest tail that begins a stop string; held_ is never longer than that plus the new text.
  size_t keep = 0;
  for (const std::string& s : strings_) {
    for (size_t n = std::min(s.size() - 1, held_.size()); n > keep; --n) {
      if (held_.compare(held_.size() - n, n, s, 0, n) == 0) {
        keep = n;
        break;
      }
    }
  }
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return out;
}

std::string StopText::finish() { return std::exchange(held_, {}); }

}  // namespace kvasir
