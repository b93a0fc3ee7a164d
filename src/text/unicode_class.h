// unicode_class: what the pre-tokeniser asks about a code point, and how bytes become code points.
//
// The table is Unicode 16.0.0, made by tools/unicode/make_table.mjs: the version that the original
// implementation (Hugging Face tokenizers 0.23.2, Oniguruma 6.9.10) classifies by. Immutable, any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace kvasir {

// Flags of a code point. The first five are general categories; an unassigned one has none.
inline constexpr uint8_t kLetter = 1;       // \p{L}
inline constexpr uint8_t kMark = 2;         // \p{M}
inline constexpr uint8_t kNumber = 4;       // \p{N}
inline constexpr uint8_t kPunctuation = 8;  // \p{P}
inline constexpr uint8_t kSymbol = 16;      // \p{S}
inline constexpr uint8_t kSpace = 32;       // White_Space
inline constexpr uint8_t kHanKana = 64;     // U+4E00-9FA5 and U+3040-30FF, the second split of protocol 1.2
inline constexpr uint8_t kNewline = 128;    // CR and LF

// Stands for a byte that begins no well-formed UTF-8 sequence; it has no flags.
inline constexpr uint32_t kNotACodePoint = 0x110000;

extern const uint8_t kUnicodeIndex[];
extern const uint8_t kUnicodeFlags[][128];

// `code` is a code point or kNotACodePoint.
inline uint8_t unicode_flags(uint32_t code) { return kUnicodeFlags[kUnicodeIndex[code >> 7]][code & 127]; }

struct Utf8Char {
  uint32_t code;   // kNotACodePoint for a stray byte
  uint32_t bytes;  // 1 to 4; 1 for a stray byte
};

// The character at text[pos], pos < text.size(). Strict: overlong forms, surrogates, values past
// U+10FFFF and cut sequences are stray bytes, one at a time.
Utf8Char decode_utf8(std::string_view text, size_t pos);

// How a byte sequence stands as UTF-8, from its start. `complete`: well-formed or surely malformed,
// so that no later byte can change the reading of these. Malformed parts follow the maximal-subpart
// practice of the Unicode standard (3.9, U+FFFD substitution), as Rust's from_utf8_lossy does.
struct Utf8Step {
  size_t bytes;   // of the character, or of the malformed part
  bool valid;     // false: becomes one U+FFFD
  bool complete;  // false: a well-formed beginning that the text ends in
};
Utf8Step step_utf8(std::string_view text, size_t pos);

// The text with each maximal malformed part replaced by U+FFFD.
std::string replace_malformed_utf8(std::string_view text);

}  // namespace kvasir
