// AnswerText: the tokens of one answer to what a reader sees: whole characters; reasoning, content and calls
// apart; nothing of the markup; no content from a stop string on.
//
// Joins Detokenizer, OutputParser and StopText, for terminals and servers alike. One per answer; not for use
// by two threads at once.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "text/detokenizer.h"
#include "text/output_parser.h"
#include "text/stop_text.h"

namespace kvasir {

class AnswerText {
 public:
  // Without `format` the answer continues a raw prompt: everything is content, special tokens included. The
  // tokenizer outlives this. Stop strings apply to content (protocol 5.1).
  AnswerText(const Tokenizer& tokenizer, std::optional<OutputFormat> format, std::vector<std::string> stop);

  std::vector<Delta> push(TokenId id);
  // Generation has ended. Nothing more may be pushed.
  std::vector<Delta> finish(EndCause cause);

  // Nothing that could still come would be shown: a stop string was found, or the parser needs no more.
  bool is_done() const { return stop_.found() || (parser_ && (parser_->is_done() || parser_->unusable())); }
  // The stop string that ended the answer, or null.
  const std::string* stop_string() const { return stop_.found_string(); }
  // Null for a raw answer.
  const OutputParser* parser() const { return parser_ ? &*parser_ : nullptr; }

 private:
  void take(std::string_view text, TextKind kind, std::vector<Delta>& out);
  void show(std::vector<Delta> deltas, std::vector<Delta>& out);

  const Tokenizer& tokenizer_;
  Detokenizer detokenizer_;
  std::optional<OutputParser> parser_;
  StopText stop_;
};

}  // namespace kvasir
