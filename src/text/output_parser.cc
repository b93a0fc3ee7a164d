// The state machine of output_parser.h. Input is cut into bytes of ordinary text and meanings of special
// tokens, in order; each state says what one of them does in it. taken_ is the place in sampled_ of the byte
// or token at hand, which is how a block knows where it began.
#include "text/output_parser.h"

#include <array>
#include <utility>

#include "base/check.h"
#include "text/special_text.h"

namespace kvasir {
namespace {

constexpr std::string_view kBlanks = " \t\r\n";
constexpr std::string_view kBlockTag = "tool_calls";
constexpr std::string_view kBareTag = "invoke";  // a block whose outer tag is missing
constexpr size_t kStrayTagBytes = 64;            // a tag that is swallowed ends here even without a '>'

bool is_blank(char c) { return kBlanks.find(c) != std::string_view::npos; }

}  // namespace

OutputParser::OutputParser(OutputFormat format)
    : format_(std::move(format)), in_reasoning_(format_.in_reasoning) {}

std::vector<Delta> OutputParser::push(std::string_view text, TextKind kind) {
  sampled_ += text;
  if (kind == TextKind::kPlain) {
    if (!text.empty()) flush_partial_special();
    take_plain(text);
  } else {
    take_special(text);
  }
  return std::exchange(deltas_, {});
}

std::vector<Delta> OutputParser::finish(EndCause cause) {
  flush_partial_special();
  cause_ = cause;
  ended_ = true;
  switch (state_) {
    case State::kText:
    case State::kStrayTag:
      finish_text();
      break;
    case State::kMarker:
      finish_marker();
      break;
    case State::kBlock:
      finish_block();
      break;
    case State::kAfterBlock:
      if (in_reasoning_) finish_reasoning_block();
      break;
    case State::kUnusable:
      break;
  }
  return std::exchange(deltas_, {});
}

FinishReason OutputParser::finish_reason() const {
  if (cut_inside_call_) return FinishReason::kLength;
  if (next_call_ > 0) return FinishReason::kToolCalls;
  return cause_ == EndCause::kLength ? FinishReason::kLength : FinishReason::kStop;
}

void OutputParser::cut_back() {
  KVASIR_CHECK(unusable_.has_value(), "cut_back() without an unusable block");
  sampled_.resize(unusable_->cut_at);
  taken_ = sampled_.size();
  if (unusable_->cut_at > unusable_->block_begin) {
    block_->cut_back();
    state_ = State::kBlock;
  } else {
    block_.reset();
    state_ = State::kText;  // white space before the block is still held
  }
  unusable_.reset();
  special_.clear();
  ended_ = false;
}

// --- input ---

void OutputParser::take_plain(std::string_view text) {
  while (!text.empty()) {
    size_t used = text.size();
    if (ended_) {
      dropped_.after_block += used;
    } else {
      switch (state_) {
        case State::kText:
          used = plain_in_text(text);
          break;
        case State::kMarker:
          used = plain_in_marker(text);
          break;
        case State::kStrayTag:
          used = plain_in_stray_tag(text);
          break;
        case State::kBlock:
          used = plain_in_block(text);
          break;
        case State::kAfterBlock:
          used = plain_after_block(text);
          break;
        case State::kUnusable:
          break;
      }
    }
    taken_ += used;
    text.remove_prefix(used);
  }
}

// Special text is a row of token contents without boundaries: the ones with a meaning are found in it, every
// other byte is some token that has none here. No meaningful content begins another one.
void OutputParser::take_special(std::string_view text) {
  static constexpr std::array<std::pair<std::string_view, Special>, 4> kMeaningful = {
      {{kThinkText, Special::kThink},
       {kEndThinkText, Special::kEndThink},
       {kDsmlText, Special::kDsml},
       {kEosText, Special::kEos}}};
  special_ += text;
  while (!special_.empty()) {
    std::string_view content = std::string_view(special_).substr(0, 1);
    Special special = Special::kOther;
    for (const auto& [token, meaning] : kMeaningful) {
      if (special_.size() < token.size() && token.starts_with(special_)) return;  // the rest is still to come
      if (!special_.starts_with(token)) continue;
      content = token;
      special = meaning;
    }
    on_special(special, content);
    taken_ += content.size();
    special_.erase(0, content.size());
  }
}

void OutputParser::flush_partial_special() {
  if (special_.empty()) return;
  const std::string partial = std::exchange(special_, {});
  for (size_t i = 0; i < partial.size(); ++i, ++taken_) {
    on_special(Special::kOther, std::string_view(partial).substr(i, 1));
  }
}

void OutputParser::on_special(Special special, std::string_view text) {
  if (ended_) {
    dropped_.after_block += text.size();
    return;
  }
  if (special == Special::kEos) {
    ended_ = true;
    return;
  }
  if (state_ == State::kStrayTag) state_ = State::kText;
  if (state_ == State::kMarker && !(special == Special::kEndThink && in_reasoning_)) {
    // No tag goes on like this. With tools offered it is a block nobody can read.
    if (offers_tools()) {
      begin_block();
      block_->fail("a special token inside the block's first tag");
    } else {
      dropped_.stray_tags += 1 + kDsmlText.size() + tag_.size();
      state_ = State::kText;
    }
  }
  if (special == Special::kEndThink && in_reasoning_) {
    end_reasoning();
    return;
  }
  switch (state_) {
    case State::kText:
      on_special_in_text(special, text);
      break;
    case State::kBlock:
      special == Special::kDsml ? block_->push_dsml() : block_->push_special(text);
      drain_block();
      break;
    case State::kAfterBlock:
      in_reasoning_ ? on_special_in_text(special, text) : void(dropped_.after_block += text.size());
      break;
    case State::kMarker:
    case State::kStrayTag:
    case State::kUnusable:
      break;
  }
}

void OutputParser::on_special_in_text(Special special, std::string_view text) {
  if (special == Special::kDsml && !held_open_.empty()) {
    const bool closing = held_open_ == "</";
    block_begin_ = taken_ - held_open_.size();
    if (closing) dropped_.stray_tags += held_open_.size() + text.size();
    state_ = closing ? State::kStrayTag : State::kMarker;
    held_open_.clear();
    tag_.clear();
    return;
  }
  if (!held_open_.empty()) show_held();
  const bool think = special == Special::kThink || special == Special::kEndThink;
  (think ? dropped_.think_tokens : dropped_.special_tokens) += text.size();
}

// </think>: whatever was held back was reasoning.
void OutputParser::end_reasoning() {
  switch (state_) {
    case State::kText:
      show_held();
      break;
    case State::kMarker:
      show_held();
      show("<" + tag_);
      dropped_.special_tokens += kDsmlText.size();
      break;
    case State::kBlock:
    case State::kAfterBlock:
      block_was_reasoning();
      break;
    case State::kStrayTag:
    case State::kUnusable:
      break;
  }
  show_held();
  gap_.reset();
  state_ = State::kText;
  in_reasoning_ = false;
}

// --- ordinary text, by state ---

// PAR-2: white space and the '<' after it wait for what follows them.
size_t OutputParser::plain_in_text(std::string_view text) {
  std::string shown;
  for (const char c : text) {
    if (!held_open_.empty()) {
      if (held_open_ == "<" && c == '/') {
        held_open_ += c;
        continue;
      }
      shown += std::exchange(held_blank_, {}) + std::exchange(held_open_, {});
    }
    if (c == '<') {
      held_open_ = c;
    } else if (is_blank(c)) {
      held_blank_ += c;
    } else {
      shown += std::exchange(held_blank_, {});
      shown += c;
    }
  }
  show(shown);
  return text.size();
}

size_t OutputParser::plain_in_marker(std::string_view text) {
  tag_ += text[0];
  if (tag_ == kBlockTag || tag_ == kBareTag) {
    begin_block();
  } else if (!kBlockTag.starts_with(tag_) && !kBareTag.starts_with(tag_)) {
    if (offers_tools()) {
      begin_block();
      block_->fail("an unknown tag where a block should begin");
      drain_block();
    } else {
      dropped_.stray_tags += 1 + kDsmlText.size() + tag_.size() - 1;
      state_ = State::kStrayTag;
      tag_.pop_back();
      return 0;
    }
  }
  return 1;
}

size_t OutputParser::plain_in_stray_tag(std::string_view text) {
  const char c = text[0];
  if (c == '<' || c == '\n' || tag_.size() >= kStrayTagBytes) {
    state_ = State::kText;
    return 0;
  }
  tag_ += c;
  ++dropped_.stray_tags;
  if (c == '>') state_ = State::kText;
  return 1;
}

size_t OutputParser::plain_in_block(std::string_view text) {
  const size_t used = block_->push_plain(text);
  drain_block();
  return used;
}

// In content what follows an executed block is discarded (MAL-12). In reasoning the block is executed only
// if nothing follows it (PAR-4).
size_t OutputParser::plain_after_block(std::string_view text) {
  if (!in_reasoning_) {
    dropped_.after_block += text.size();
    return text.size();
  }
  size_t blanks = 0;
  while (blanks < text.size() && is_blank(text[blanks])) ++blanks;
  blank_after_block_ += text.substr(0, blanks);
  if (blanks < text.size()) block_was_reasoning();
  return blanks;
}

// --- blocks ---

void OutputParser::begin_block() {
  state_ = State::kBlock;
  block_.emplace(format_.tools);
  emitted_ = 0;
  block_->push_plain("<");
  block_->push_dsml();
  block_->push_plain(tag_);
}

// After new text in the block: surfaces what has become certain. In reasoning nothing is, until the end.
void OutputParser::drain_block() {
  if (!in_reasoning_ && offers_tools()) {
    emit_calls();
    if (block_->unusable()) {
      mark_unusable(block_->reason());
      return;
    }
  }
  if (block_->closed()) on_block_closed();
}

void OutputParser::on_block_closed() {
  const size_t end = block_begin_ + block_->size();
  if (!offers_tools()) {
    remove_block(end);
  } else if (in_reasoning_) {
    state_ = State::kAfterBlock;
  } else if (block_->calls().empty()) {
    remove_block(end);
  } else {
    execute_block(end);
  }
}

// MAL-10, PAR-7: as if the model had not written it. White space before it is shown if text follows.
void OutputParser::remove_block(size_t end) {
  dropped_.removed_blocks += end - block_begin_;
  gap_ = gap_.value_or("") + std::exchange(held_blank_, {});
  state_ = State::kText;
}

void OutputParser::execute_block(size_t end) {
  emit_calls();
  held_blank_.clear();
  blank_after_block_.clear();
  gap_.reset();
  executed_ = ByteRange{block_begin_, end};
  state_ = State::kAfterBlock;
}

// PAR-4: reasoning went on, so the block in it was text. Its special tokens are not.
void OutputParser::block_was_reasoning() {
  show_held();
  show(block_->visible_text(0, dropped_.special_tokens));
  held_blank_ = std::exchange(blank_after_block_, {});
  block_.reset();
  state_ = State::kText;
}

void OutputParser::mark_unusable(std::string reason) {
  const size_t accepted = block_ ? block_->accepted_end() : 0;
  unusable_ = UnusableBlock{block_begin_ + accepted, block_begin_, std::move(reason)};
  state_ = State::kUnusable;
}

// --- the end ---

// Held text arrives complete (PAR-2), but white space around a removed block goes with it.
void OutputParser::finish_text() {
  if (!gap_ || !held_open_.empty()) show_held();
}

void OutputParser::finish_marker() {
  if (!offers_tools()) {
    dropped_.stray_tags += 1 + kDsmlText.size() + tag_.size();
    return;
  }
  block_.reset();
  if (cause_ == EndCause::kLength) {
    cut_inside_call_ = true;
  } else {
    mark_unusable("generation ended inside the block's first tag");
  }
}

void OutputParser::finish_block() {
  if (in_reasoning_ && offers_tools()) {
    finish_reasoning_block();
    return;
  }
  const DsmlBlock::End end = block_->finish();
  const size_t rest_begin = block_->rest_begin();
  if (!offers_tools() || (end == DsmlBlock::End::kComplete && block_->calls().empty())) {
    const std::string rest = block_->visible_text(rest_begin, dropped_.special_tokens);
    remove_block(block_begin_ + rest_begin);
    plain_in_text(rest);
    finish_text();
    return;
  }
  emit_calls();
  if (block_->unusable()) {
    mark_unusable(block_->reason());
  } else if (end == DsmlBlock::End::kComplete) {
    dropped_.after_block += block_->size() - rest_begin;
    execute_block(block_begin_ + rest_begin);
  } else if (cause_ == EndCause::kLength) {
    cut_inside_call_ = true;
  } else {
    mark_unusable("generation ended inside an invoke");
  }
}

// PAR-4: generation ends and no </think> came. A complete block at the very end is executed.
void OutputParser::finish_reasoning_block() {
  const bool closed = block_->closed();
  const bool complete = closed || block_->finish() == DsmlBlock::End::kComplete;
  const size_t end = closed ? block_->size() : block_->rest_begin();
  size_t uncounted = 0;
  const std::string rest = block_->visible_text(end, uncounted);
  const bool text_follows = rest.find_first_not_of(kBlanks) != std::string::npos;
  if (text_follows || (cause_ == EndCause::kLength && !closed)) {
    block_was_reasoning();
    finish_text();
  } else if (block_->unusable() || !complete) {
    mark_unusable(block_->unusable() ? block_->reason() : "generation ended inside an invoke");
  } else if (block_->calls().empty()) {
    remove_block(block_begin_ + end);
  } else {
    execute_block(block_begin_ + end);
  }
}

// --- output ---

void OutputParser::show(std::string_view text) {
  if (text.empty()) return;
  const Delta::Kind kind = in_reasoning_ ? Delta::Kind::kReasoning : Delta::Kind::kContent;
  emit(kind, std::exchange(gap_, {}).value_or("") + std::string(text));
}

void OutputParser::show_held() { show(std::exchange(held_blank_, {}) + std::exchange(held_open_, {})); }

void OutputParser::emit_calls() {
  for (; emitted_ < block_->calls().size(); ++emitted_, ++next_call_) {
    const ParsedCall& call = block_->calls()[emitted_];
    emit(Delta::Kind::kToolCall, call.name, next_call_);
    emit(Delta::Kind::kArguments, call.arguments, next_call_);
  }
}

void OutputParser::emit(Delta::Kind kind, std::string_view text, int call) {
  const bool visible = kind == Delta::Kind::kReasoning || kind == Delta::Kind::kContent;
  if (visible && !deltas_.empty() && deltas_.back().kind == kind) {
    deltas_.back().text += text;
  } else {
    deltas_.push_back({kind, std::string(text), call});
  }
}

}  // namespace kvasir
