// Detokenizer: only the last character of what has come can be unfinished.
#include "text/detokenizer.h"

#include <utility>

#include "text/unicode_class.h"

namespace kvasir {

std::string Detokenizer::push(TokenId id) {
  held_ += tokenizer_.token_bytes(id);
  size_t complete = 0;
  while (complete < held_.size()) {
    const Utf8Step step = step_utf8(held_, complete);
    if (!step.complete) break;
    complete += step.bytes;
  }
  std::string text = replace_malformed_utf8(std::string_view(held_).substr(0, complete));
  held_.erase(0, complete);
  return text;
}

std::string Detokenizer::finish() { return replace_malformed_utf8(std::exchange(held_, {})); }

}  // namespace kvasir
