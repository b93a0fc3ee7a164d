// Two passes over the text: read_new_tags() looks for strict closing tags as text comes in, and what lies
// before one is then read from start to end with everything known. Each byte is read once by the second pass.
#include "text/dsml_block.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "text/special_text.h"

namespace kvasir {
namespace {

constexpr std::string_view kBlanks = " \t\r\n";
using Name = DsmlTag::Name;

}  // namespace

size_t DsmlBlock::push_plain(std::string_view text) {
  KVASIR_CHECK(!closed_, "text after the block's closing tag");
  text_ += text;
  read_new_tags();
  if (!closed_) return text.size();
  const size_t excess = text_.size() - rest_begin_;
  text_.resize(rest_begin_);
  return text.size() - excess;
}

void DsmlBlock::push_dsml() {
  marks_.push_back(text_.size());
  push_special(kDsmlText);
}

void DsmlBlock::push_special(std::string_view text) {
  KVASIR_CHECK(!closed_, "text after the block's closing tag");
  specials_.push_back({text_.size(), text_.size() + text.size()});
  text_ += text;
}

void DsmlBlock::fail(std::string reason) {
  if (!unusable()) reason_ = std::move(reason);
}

DsmlBlock::Read DsmlBlock::broken(std::string reason) {
  fail(std::move(reason));
  return Read::kBroken;
}

size_t DsmlBlock::skip_blanks(size_t at, size_t limit) const {
  while (at < limit && kBlanks.find(text_[at]) != std::string_view::npos) ++at;
  return at;
}

// Looks for strict closing tags that the new text has completed. Opening tags wait for their closing one.
void DsmlBlock::read_new_tags() {
  while (next_mark_ < marks_.size() && !closed_) {
    const size_t mark = marks_[next_mark_];
    DsmlTag tag;
    if (mark >= 2 && text_[mark - 2] == '<' && text_[mark - 1] == '/') {
      const TagRead read = read_dsml_tag(view(), mark - 2, text_.size(), tag);
      if (read == TagRead::kPartial && next_mark_ + 1 == marks_.size()) return;  // the rest is still to come
      if (read == TagRead::kTag) on_closing_tag(tag);
    }
    ++next_mark_;
  }
}

void DsmlBlock::on_closing_tag(const DsmlTag& tag) {
  if (tag.name == Name::kParameter) return;
  if (!unusable()) {
    const size_t limit = tag.name == Name::kInvoke ? tag.end : tag.begin;
    const Read read = read_invokes(limit);
    if (read == Read::kEnd) fail("an invoke is not closed before the block's closing tag");
    if (read == Read::kOk && rest_begin_ == limit) read_from_ = limit;
  }
  if (tag.name == Name::kToolCalls) {
    closed_ = true;
    rest_begin_ = tag.end;
  }
}

// Reads from read_from_ up to `limit`; leaves rest_begin_ where it stopped if nothing was missing.
DsmlBlock::Read DsmlBlock::read_invokes(size_t limit) {
  size_t at = read_from_;
  if (at == 0) {
    if (const Read r = read_header(at, limit); r != Read::kOk) return r;
  }
  for (;;) {
    at = skip_blanks(at, limit);
    rest_begin_ = at;
    if (at == limit) return Read::kOk;
    DsmlTag tag;
    const TagRead what = read_dsml_tag(view(), at, limit, tag);
    if (what == TagRead::kTag && tag.opens(Name::kInvoke)) {
      at = tag.end;
      if (const Read r = read_invoke(tag, at, limit); r != Read::kOk) return r;
      accepted_end_ = at;
    } else if (what == TagRead::kTag && tag.closes(Name::kToolCalls)) {
      rest_begin_ = tag.end;  // a look-alike, or the strict one would have closed the block
      return Read::kOk;
    } else {
      const size_t before = at;
      if (const Read r = read_between(at, limit, tag, what); r != Read::kOk || at == before) return r;
    }
  }
}

// The outer opening tag. A block without one is accepted too: its first invoke is read next.
DsmlBlock::Read DsmlBlock::read_header(size_t& at, size_t limit) {
  DsmlTag tag;
  const TagRead what = read_dsml_tag(view(), 0, limit, tag);
  if (what == TagRead::kPartial) return Read::kEnd;
  if (what == TagRead::kTag && tag.opens(Name::kToolCalls)) {
    at = tag.end;
    return Read::kOk;
  }
  if (what != TagRead::kTag || !tag.opens(Name::kInvoke))
    return broken("the block's first tag cannot be read");
  return Read::kOk;
}

// Something else than an invoke where one could begin. Moves `at` if it can be skipped; leaves it and says
// kOk if the block is over there.
DsmlBlock::Read DsmlBlock::read_between(size_t& at, size_t limit, const DsmlTag& tag, TagRead what) {
  if (what == TagRead::kTag && tag.closing) {  // MAL-11: a closing tag of nothing
    at = tag.end;
    return Read::kOk;
  }
  if (what == TagRead::kPartial) {
    // The start of a closing tag takes nothing away (MAL-1); the start of an invoke does.
    const bool may_close = limit == at + 1 || text_[at + 1] == '/';
    if (may_close) rest_begin_ = limit;
    return may_close ? Read::kOk : Read::kEnd;
  }
  // Text after the last invoke, if no tag follows: the model went on without closing the block.
  const bool tags_follow = std::lower_bound(marks_.begin(), marks_.end(), at) != marks_.end();
  if (what == TagRead::kNone && accepted_end_ > 0 && !tags_follow) return Read::kOk;
  return broken(what == TagRead::kBad ? "a tag's attributes cannot be read"
                                      : "text where an invoke should begin");
}

// `at` stands after the opening tag; a call is added when the closing one is reached.
DsmlBlock::Read DsmlBlock::read_invoke(const DsmlTag& open, size_t& at, size_t limit) {
  std::vector<Parameter> parameters;
  for (;;) {
    at = skip_blanks(at, limit);
    if (at == limit) return Read::kEnd;
    DsmlTag tag;
    const TagRead what = read_dsml_tag(view(), at, limit, tag);
    if (what == TagRead::kPartial) return Read::kEnd;
    if (what == TagRead::kBad) return broken("a tag's attributes cannot be read");
    if (what == TagRead::kNone) return broken("text in an invoke outside its parameters");
    at = tag.end;
    if (tag.closes(Name::kInvoke)) break;
    if (tag.closes(Name::kParameter) && !parameters.empty()) continue;  // MAL-11
    if (!tag.opens(Name::kParameter)) return broken("a tag in an invoke that is no parameter");
    Parameter parameter{.key = tag.value, .text = {}, .is_string = tag.is_string};
    if (const Read r = read_value(tag, at, limit, parameter.text); r != Read::kOk) return r;
    parameters.push_back(parameter);
  }
  const auto offered = std::find_if(tools_->begin(), tools_->end(), [&](const JsonValue& tool) {
    const JsonValue* name = tool.find("name");
    return name != nullptr && name->is_string() && name->as_string() == open.value;
  });
  calls_.push_back(
      {std::string(open.value), arguments_text(parameters, offered == tools_->end() ? nullptr : &*offered)});
  return Read::kOk;
}

// A value ends at the next strict tag if that closes a parameter; if it is another one, the closing tag was a
// look-alike before it. After an opening look-alike a closing one is more likely than not, and goes first.
DsmlBlock::Read DsmlBlock::read_value(const DsmlTag& open, size_t& at, size_t limit,
                                      std::string_view& value) {
  const auto mark = std::lower_bound(marks_.begin(), marks_.end(), at);
  const bool has_tag = mark != marks_.end() && *mark < limit;
  DsmlTag tag;
  size_t end = limit;
  if (has_tag) {
    const std::string_view before = std::string_view(text_).substr(at, *mark - at);
    if (!before.ends_with('<') && !before.ends_with("</")) return broken("｜DSML｜ inside a value");
    end = *mark - (before.ends_with('<') ? 1 : 2);
    const TagRead what = read_dsml_tag(view(), end, limit, tag);
    if (what == TagRead::kPartial) return Read::kEnd;
    if (what != TagRead::kTag) return broken("｜DSML｜ inside a value");
  }
  const bool closes = has_tag && tag.closes(Name::kParameter);
  if ((!closes || !open.strict) && read_loosely_closed_value(at, end, value)) return Read::kOk;
  if (!has_tag) return Read::kEnd;
  if (!closes) return broken("a parameter is not closed");
  value = std::string_view(text_).substr(at, end - at);
  at = tag.end;
  return Read::kOk;
}

// MAL-4: the first look-alike after which nothing is left over counts; text that merely contains one does
// not.
bool DsmlBlock::read_loosely_closed_value(size_t& at, size_t limit, std::string_view& value) const {
  for (size_t close = text_.find("</", at); close < limit; close = text_.find("</", close + 1)) {
    DsmlTag tag;
    if (read_dsml_tag(view(), close, limit, tag) != TagRead::kTag || !tag.closes(Name::kParameter)) continue;
    const size_t next = skip_blanks(tag.end, limit);
    DsmlTag follower;
    const bool follows = next < limit && read_dsml_tag(view(), next, limit, follower) == TagRead::kTag &&
                         (follower.opens(Name::kParameter) || follower.closes(Name::kInvoke));
    if (next != limit && !follows) continue;
    value = std::string_view(text_).substr(at, close - at);
    at = tag.end;
    return true;
  }
  return false;
}

DsmlBlock::End DsmlBlock::finish() {
  KVASIR_CHECK(!closed_, "finish() after the closing tag");
  rest_begin_ = text_.size();
  if (unusable()) return End::kIncomplete;
  const Read read = read_invokes(text_.size());
  if (read != Read::kOk) {
    rest_begin_ = text_.size();
    return End::kIncomplete;
  }
  // An opening tag alone announces calls that never came; with a closing look-alike it is an empty block.
  const bool only_opened =
      calls_.empty() && is_blank(rest_begin_, text_.size()) && text_.find("</") == std::string::npos;
  return only_opened ? End::kIncomplete : End::kComplete;
}

void DsmlBlock::cut_back() {
  text_.resize(accepted_end_);
  read_from_ = accepted_end_;
  std::erase_if(marks_, [&](size_t mark) { return mark >= accepted_end_; });
  std::erase_if(specials_, [&](const ByteRange& r) { return r.begin >= accepted_end_; });
  next_mark_ = marks_.size();
  closed_ = false;
  reason_.clear();
}

std::string DsmlBlock::visible_text(size_t begin, size_t& dropped) const {
  std::string out;
  for (const ByteRange& special : specials_) {
    if (special.begin < begin) continue;
    out += text_.substr(begin, special.begin - begin);
    dropped += special.end - special.begin;
    begin = special.end;
  }
  return out + text_.substr(begin);
}

}  // namespace kvasir
