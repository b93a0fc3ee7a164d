// PieceReader: the closed form of protocol 1.2. The numbers (1) to (6) are the alternatives of split 3.
#include "text/pretokenizer.h"

#include "text/unicode_class.h"

namespace kvasir {
namespace {

struct Char {
  uint32_t bytes;
  uint8_t flags;
};

// Almost all text is ASCII, whose flags are the table's first block.
inline Char char_at(std::string_view text, size_t pos) {
  const uint8_t first = static_cast<uint8_t>(text[pos]);
  if (first < 0x80) [[likely]]
    return {1, kUnicodeFlags[0][first]};
  const Utf8Char c = decode_utf8(text, pos);
  return {c.bytes, unicode_flags(c.code)};
}

inline bool is_ascii_letter(char c) { return static_cast<uint8_t>((c | 0x20) - 'a') < 26; }

}  // namespace

bool PieceReader::next(std::string_view& piece) {
  if (pos_ == text_.size()) return false;
  if (pos_ == region_end_) enter_region();
  const size_t end = region_is_number_ ? digits_end() : piece_end();
  piece = text_.substr(pos_, end - pos_);
  pos_ = end;
  return true;
}

void PieceReader::enter_region() {
  constexpr uint8_t kKind = kNumber | kHanKana;  // no number is Han or kana in the sense of split 2
  const Char first = char_at(text_, pos_);
  const uint8_t kind = first.flags & kKind;
  region_is_number_ = kind == kNumber;
  region_end_ = pos_ + first.bytes;
  while (region_end_ < text_.size()) {
    const Char c = char_at(text_, region_end_);
    if ((c.flags & kKind) != kind) break;
    region_end_ += c.bytes;
  }
}

size_t PieceReader::skip(size_t pos, uint8_t flags) const {
  while (pos < region_end_) {
    const Char c = char_at(text_, pos);
    if ((c.flags & flags) == 0) break;
    pos += c.bytes;
  }
  return pos;
}

size_t PieceReader::digits_end() const {
  size_t end = pos_;
  for (int i = 0; i < 3 && end < region_end_; ++i) end += char_at(text_, end).bytes;
  return end;
}

size_t PieceReader::piece_end() const {
  constexpr uint8_t kWord = kLetter | kMark;
  constexpr uint8_t kPunct = kPunctuation | kSymbol;
  const Char c = char_at(text_, pos_);
  size_t after = pos_ + c.bytes;
  const Char next = after < region_end_ ? char_at(text_, after) : Char{0, 0};

  if ((c.flags & kPunct) && c.bytes == 1 && next.bytes == 1 && is_ascii_letter(text_[after])) {  // (1)
    do ++after;
    while (after < region_end_ && is_ascii_letter(text_[after]));
    return after;
  }
  if (c.flags & kWord) return skip(after, kWord);                                           // (2), no prefix
  if (!(c.flags & (kNewline | kPunct)) && (next.flags & kWord)) return skip(after, kWord);  // (2)
  if ((c.flags & kPunct) || (text_[pos_] == ' ' && (next.flags & kPunct))) {                // (3)
    return skip(skip(after, kPunct), kNewline);
  }
  if (c.flags & kSpace) return space_end();  // (4) to (6)

  // No alternative matches here: the stretch goes on to where one does. It starts at any letter, mark,
  // punctuation, symbol or space, and at any other character that (2) takes as a prefix.
  size_t end = pos_;
  Char at = c;
  while (true) {
    end += at.bytes;
    if (end == region_end_) return end;
    const Char following = char_at(text_, end);
    if (following.flags & (kWord | kPunct | kSpace)) return end;
    const size_t beyond = end + following.bytes;
    if (beyond < region_end_ && (char_at(text_, beyond).flags & kWord)) return end;
    at = following;
  }
}

size_t PieceReader::space_end() const {
  size_t end = pos_, last = pos_, after_newline = pos_;
  while (end < region_end_) {
    const Char c = char_at(text_, end);
    if (!(c.flags & kSpace)) break;
    last = end;
    end += c.bytes;
    if (c.flags & kNewline) after_newline = end;
  }
  if (after_newline > pos_) return after_newline;  // (4)
  if (end == region_end_) return end;              // (5): the look-ahead sees the end of the region
  return last > pos_ ? last : end;                 // (5) leaves the last blank to the next word; (6)
}

}  // namespace kvasir
