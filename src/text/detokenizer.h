// Detokenizer: turns the tokens of one answer into text as they come (TOK-4).
//
// A token may end inside a character. What push returns is always whole characters: an unfinished one
// is held back until its other bytes come. Bytes that can no longer become UTF-8 turn into U+FFFD, at
// once and one per maximal malformed part, so that the chunks of an answer, finish() included, are
// together exactly replace_malformed_utf8(tokenizer.decode(ids)), whatever the tokens.
// One per answer; not for use by two threads at once.
#pragma once

#include <string>

#include "text/tokenizer.h"

namespace kvasir {

class Detokenizer {
 public:
  // `tokenizer` outlives this.
  explicit Detokenizer(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // The text that the token completes; often more or less than the token's own, and may be empty.
  std::string push(TokenId id);

  // The end: an unfinished character becomes U+FFFD. Afterwards the next answer can begin.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  std::string held_;  // an unfinished character: at most 3 bytes
};

}  // namespace kvasir
