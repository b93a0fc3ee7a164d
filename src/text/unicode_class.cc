// unicode_class: the table and the UTF-8 readings. See the header.
#include "text/unicode_class.h"

namespace kvasir {

#include "text/unicode_table.inc"

namespace {

// Table 3-7 of the Unicode standard: how long a sequence is by its first byte, and what its second
// byte may be. Length 0: no sequence begins so.
struct Lead {
  uint8_t length;
  uint8_t second_min;
  uint8_t second_max;
};

Lead lead_of(uint8_t b) {
  if (b < 0x80) return {1, 0, 0};
  if (b < 0xc2) return {0, 0, 0};
  if (b < 0xe0) return {2, 0x80, 0xbf};
  if (b == 0xe0) return {3, 0xa0, 0xbf};
  if (b == 0xed) return {3, 0x80, 0x9f};
  if (b < 0xf0) return {3, 0x80, 0xbf};
  if (b == 0xf0) return {4, 0x90, 0xbf};
  if (b < 0xf4) return {4, 0x80, 0xbf};
  if (b == 0xf4) return {4, 0x80, 0x8f};
  return {0, 0, 0};
}

}  // namespace

Utf8Step step_utf8(std::string_view text, size_t pos) {
  const Lead lead = lead_of(static_cast<uint8_t>(text[pos]));
  if (lead.length == 0) return {1, false, true};
  for (size_t i = 1; i < lead.length; ++i) {
    if (pos + i == text.size()) return {i, false, false};
    const uint8_t b = static_cast<uint8_t>(text[pos + i]);
    const bool fits = i == 1 ? b >= lead.second_min && b <= lead.second_max : (b & 0xc0) == 0x80;
    if (!fits) return {i, false, true};
  }
  return {lead.length, true, true};
}

Utf8Char decode_utf8(std::string_view text, size_t pos) {
  const uint8_t first = static_cast<uint8_t>(text[pos]);
  if (first < 0x80) return {first, 1};
  const Utf8Step step = step_utf8(text, pos);
  if (!step.valid) return {kNotACodePoint, 1};
  uint32_t code = first & (0x7fu >> step.bytes);
  for (size_t i = 1; i < step.bytes; ++i) code = code << 6 | (static_cast<uint8_t>(text[pos + i]) & 0x3f);
  return {code, static_cast<uint32_t>(step.bytes)};
}

std::string replace_malformed_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Step step = step_utf8(text, pos);
    if (step.valid) {
      out.append(text, pos, step.bytes);
    } else {
      out += "\xef\xbf\xbd";
    }
    pos += step.bytes;
  }
  return out;
}

}  // namespace kvasir
