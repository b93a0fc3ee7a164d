// A hand-written reader, since a tag must be told from one that is still incomplete and from one that is bad.
#include "text/dsml_tag.h"

#include <algorithm>
#include <array>
#include <utility>

#include "text/special_text.h"

namespace kvasir {
namespace {

constexpr std::string_view kBlanks = " \t\r\n";
constexpr std::array<std::pair<std::string_view, DsmlTag::Name>, 3> kNames = {
    {{"tool_calls", DsmlTag::Name::kToolCalls},
     {"invoke", DsmlTag::Name::kInvoke},
     {"parameter", DsmlTag::Name::kParameter}}};

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

// Walks over one tag. Every step says kTag for "go on".
class TagReader {
 public:
  TagReader(const DsmlText& block, size_t at, size_t limit) : block_(block), at_(at), limit_(limit) {}

  TagRead read(DsmlTag& tag) {
    tag = DsmlTag{.begin = at_};
    if (TagRead r = expect('<'); r != TagRead::kTag) return r;
    if (at_end()) return TagRead::kPartial;
    if (peek() == '/') {
      tag.closing = true;
      ++at_;
    }
    skip_marker(tag);
    if (TagRead r = read_name(tag); r != TagRead::kTag) return r;
    const TagRead r =
        tag.closing || tag.name == DsmlTag::Name::kToolCalls ? read_end() : read_attributes(tag);
    tag.end = at_;
    return r;
  }

 private:
  bool at_end() const { return at_ >= limit_; }
  char peek() const { return block_.text[at_]; }
  std::string_view rest() const { return block_.text.substr(at_, limit_ - at_); }
  void skip_blanks() {
    while (!at_end() && kBlanks.find(peek()) != std::string_view::npos) ++at_;
  }

  TagRead expect(char c) {
    if (at_end()) return TagRead::kPartial;
    if (peek() != c) return TagRead::kNone;
    ++at_;
    return TagRead::kTag;
  }

  void skip_marker(DsmlTag& tag) {
    if (block_.is_mark(at_) && rest().starts_with(kDsmlText)) {
      tag.strict = true;
      at_ += kDsmlText.size();
    } else {
      for (std::string_view look_alike : {kDsmlText, std::string_view("|DSML|")}) {
        if (!rest().starts_with(look_alike)) continue;
        at_ += look_alike.size();
        return;
      }
    }
  }

  TagRead read_name(DsmlTag& tag) {
    for (const auto& [word, name] : kNames) {
      if (word.starts_with(rest())) return TagRead::kPartial;
      if (!rest().starts_with(word)) continue;
      if (rest().size() > word.size() && is_word(rest()[word.size()])) continue;
      tag.name = name;
      at_ += word.size();
      return TagRead::kTag;
    }
    const bool half_marker = kDsmlText.starts_with(rest()) || std::string_view("|DSML|").starts_with(rest());
    return !tag.strict && half_marker ? TagRead::kPartial : TagRead::kNone;
  }

  TagRead read_end() {
    skip_blanks();
    const TagRead r = expect('>');
    return r == TagRead::kNone ? TagRead::kBad : r;
  }

  TagRead read_attributes(DsmlTag& tag) {
    for (;;) {
      const size_t before = at_;
      skip_blanks();
      if (at_end()) return TagRead::kPartial;
      if (peek() == '>') {
        ++at_;
        return tag.value.empty() ? TagRead::kBad : TagRead::kTag;
      }
      if (at_ == before) return TagRead::kBad;  // `name="a"b"`: the name holds a quote (MAL-14)
      if (TagRead r = read_attribute(tag); r != TagRead::kTag) return r;
    }
  }

  TagRead read_attribute(DsmlTag& tag) {
    const size_t key_begin = at_;
    while (!at_end() && is_word(peek())) ++at_;
    const std::string_view key = block_.text.substr(key_begin, at_ - key_begin);
    for (char c : {'=', '"'}) {
      if (TagRead r = expect(c); r != TagRead::kTag) return r == TagRead::kNone ? TagRead::kBad : r;
    }
    const size_t begin = at_;
    for (; !at_end() && peek() != '"'; ++at_) {
      if (peek() == '<' || peek() == '>' || peek() == '\n' || block_.is_mark(at_))
        return TagRead::kBad;  // MAL-14
    }
    if (at_end()) return TagRead::kPartial;
    const std::string_view value = block_.text.substr(begin, at_ - begin);
    ++at_;
    if (key == "name") tag.value = value;
    if (key == "string" && value == "true") tag.is_string = Parameter::IsString::kYes;
    if (key == "string" && value == "false") tag.is_string = Parameter::IsString::kNo;
    return TagRead::kTag;
  }

  const DsmlText& block_;
  size_t at_;
  size_t limit_;
};

}  // namespace

bool DsmlText::is_mark(size_t at) const { return std::binary_search(marks.begin(), marks.end(), at); }

TagRead read_dsml_tag(const DsmlText& block, size_t at, size_t limit, DsmlTag& tag) {
  return TagReader(block, at, limit).read(tag);
}

}  // namespace kvasir
