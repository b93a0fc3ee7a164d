// The three steps one after the other; see answer_text.h.
#include "text/answer_text.h"

#include <iterator>
#include <utility>

namespace kvasir {

AnswerText::AnswerText(const Tokenizer& tokenizer, std::optional<OutputFormat> format,
                       std::vector<std::string> stop)
    : tokenizer_(tokenizer), detokenizer_(tokenizer), stop_(std::move(stop)) {
  if (format) parser_.emplace(*std::move(format));
}

std::vector<Delta> AnswerText::push(TokenId id) {
  std::vector<Delta> out;
  if (tokenizer_.is_added(id)) {
    take(detokenizer_.finish(), TextKind::kPlain, out);
    take(tokenizer_.token_bytes(id), TextKind::kSpecial, out);
  } else {
    take(detokenizer_.push(id), TextKind::kPlain, out);
  }
  return out;
}

std::vector<Delta> AnswerText::finish(EndCause cause) {
  std::vector<Delta> out;
  take(detokenizer_.finish(), TextKind::kPlain, out);
  if (parser_) show(parser_->finish(cause), out);
  if (std::string rest = stop_.finish(); !rest.empty())
    out.push_back({Delta::Kind::kContent, std::move(rest), -1});
  return out;
}

void AnswerText::take(std::string_view text, TextKind kind, std::vector<Delta>& out) {
  if (text.empty()) return;
  if (parser_) return show(parser_->push(text, kind), out);
  std::vector<Delta> content;
  content.push_back({Delta::Kind::kContent, std::string(text), -1});
  show(std::move(content), out);
}

void AnswerText::show(std::vector<Delta> deltas, std::vector<Delta>& out) {
  for (Delta& delta : deltas) {
    if (stop_.found() && delta.kind != Delta::Kind::kReasoning) continue;
    if (delta.kind == Delta::Kind::kContent) {
      delta.text = stop_.push(delta.text);
      if (delta.text.empty()) continue;
    } else if (delta.kind == Delta::Kind::kToolCall) {  // content ends where calls begin
      if (std::string rest = stop_.finish(); !rest.empty())
        out.push_back({Delta::Kind::kContent, std::move(rest), -1});
    }
    out.push_back(std::move(delta));
  }
}

}  // namespace kvasir
