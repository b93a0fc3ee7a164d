// The closed form against PCRE2 with the literal patterns of protocol 1.2, split after split.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/pretokenizer.h"

#include <gtest/gtest.h>
#include <pcre2.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "text/unicode_class.h"

namespace kvasir {
namespace {

class Regex {
 public:
  explicit Regex(std::string_view pattern) {
    int error = 0;
    size_t offset = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                              PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr));
    EXPECT_TRUE(code_) << pattern << " at " << offset;
    pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);
    match_.reset(pcre2_match_data_create(1, nullptr));
  }

  // First match at or after `from`, as [begin, end).
  bool find(std::string_view text, size_t from, size_t& begin, size_t& end) const {
    const int found = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                                  PCRE2_NO_UTF_CHECK, match_.get(), nullptr);
    if (found < 0) return false;
    begin = pcre2_get_ovector_pointer(match_.get())[0];
    end = pcre2_get_ovector_pointer(match_.get())[1];
    return true;
  }

  // Behaviour "isolated": matches and the stretches between them.
  std::vector<std::string_view> isolate(const std::vector<std::string_view>& pieces) const {
    std::vector<std::string_view> out;
    for (std::string_view piece : pieces) {
      size_t pos = 0, begin = 0, end = 0;
      while (pos < piece.size() && find(piece, pos, begin, end)) {
        if (begin > pos) out.push_back(piece.substr(pos, begin - pos));
        out.push_back(piece.substr(begin, end - begin));
        pos = end;
      }
      if (pos < piece.size()) out.push_back(piece.substr(pos));
    }
    return out;
  }

 private:
  struct Free {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
    void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
  };
  std::unique_ptr<pcre2_code, Free> code_;
  std::unique_ptr<pcre2_match_data, Free> match_;
};

std::vector<std::string_view> oracle(std::string_view segment) {
  static const Regex digits(R"(\p{N}{1,3})");
  static const Regex han_kana("[一-龥぀-ゟ゠-ヿ]+");
  static const Regex words(
      "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
      " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+");
  return words.isolate(han_kana.isolate(digits.isolate({segment})));
}

std::vector<std::string_view> pieces_of(std::string_view segment) {
  std::vector<std::string_view> out;
  PieceReader reader(segment);
  for (std::string_view piece; reader.next(piece);) out.push_back(piece);
  return out;
}

std::string utf8(uint32_t c) {
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
  if (c < 0x10000) {
    return {static_cast<char>(0xe0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)),
            static_cast<char>(0x80 | (c & 63))};
  }
  return {static_cast<char>(0xf0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 63)),
          static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63))};
}

TEST(PieceReader, CutsEveryCodePointAsTheRegexDoes) {
  // PCRE2 10.42 knows Unicode 14, so what was assigned later is compared in unicode_class_test only. Its \s
  // has U+180E, which lost White_Space in Unicode 6.3.
  const Regex unassigned("\\p{Cn}");
  size_t compared = 0, begin = 0, end = 0;
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if ((c >= 0xd800 && c <= 0xdfff) || c == 0x180e) continue;
    const std::string p = utf8(c);
    if (unassigned.find(p, 0, begin, end) && unicode_flags(c) != 0) continue;  // assigned after Unicode 14
    if (c >= 0x30000 && c < 0x10fffe && c % 64 != 0) continue;  // nothing but private use and gaps
    const std::string text = p + "a" + p + " " + p + "\n." + p + p + "x1" + p + "一" + p + "  " + p;
    ASSERT_EQ(pieces_of(text), oracle(text)) << "code point " << c;
    ++compared;
  }
  EXPECT_GT(compared, 180000u);
}

TEST(PieceReader, CutsRandomTextAsTheRegexDoes) {
  const std::vector<uint32_t> points = {
      'a',    'Z',    'b',    '0',     '9',     '7',     ' ',     ' ',     ' ',     '\t',   '\n',
      '\r',   '\n',   '\'',   '.',     ',',     '<',     '_',     '-',     '$',     '{',    '|',
      0,      7,      0x7f,   0x85,    0xa0,    0xad,    0xbd,    0xe9,    0x1c5,   0x2b0,  0x301,
      0x334,  0x378,  0x5d0,  0x661,   0x93e,   0x940,   0x1680,  0x200b,  0x200d,  0x2028, 0x2014,
      0x2019, 0x20ac, 0x216b, 0x3000,  0x3001,  0x3005,  0x3007,  0x300c,  0x3040,  0x3042, 0x3097,
      0x3099, 0x309b, 0x30a0, 0x30fb,  0x30fc,  0x3131,  0x4e00,  0x9fa5,  0x9fa6,  0xac00, 0xfeff,
      0xff5c, 0xff71, 0xe000, 0x1d400, 0x1f44d, 0x1f3fd, 0x20000, 0xe0041, 0x10ffff};
  std::mt19937 random(1);
  for (int round = 0; round < 60000; ++round) {
    std::string text;
    const uint32_t some = 2 + random() % 20;  // few kinds make long runs, many make many boundaries
    const uint32_t first = random() % points.size();
    for (uint32_t n = random() % 40; n > 0; --n)
      text += utf8(points[(first + random() % some * 7) % points.size()]);
    ASSERT_EQ(pieces_of(text), oracle(text)) << testing::PrintToString(text);
  }
}

TEST(PieceReader, LookAheadSeesTheEndOfThePieceNotOfTheText) {
  EXPECT_EQ(pieces_of(" 5"), (std::vector<std::string_view>{" ", "5"}));
  EXPECT_EQ(pieces_of("a   5"), (std::vector<std::string_view>{"a", "   ", "5"}));
  EXPECT_EQ(pieces_of("    int"), (std::vector<std::string_view>{"   ", " int"}));
  EXPECT_EQ(pieces_of(">;\n"), (std::vector<std::string_view>{">;\n"}));
}

TEST(PieceReader, PutsEveryByteOfMalformedTextInOnePiece) {
  std::mt19937 random(2);
  for (int round = 0; round < 2000; ++round) {
    std::string text(random() % 64, '\0');
    for (char& c : text) c = static_cast<char>(random() % 3 ? random() : "a 1.\n\xe4\xb8"[random() % 7]);
    std::string joined;
    for (std::string_view piece : pieces_of(text)) {
      ASSERT_FALSE(piece.empty());
      joined += piece;
    }
    ASSERT_EQ(joined, text);
  }
}

TEST(PieceReader, TakesAStrayByteForAnUnassignedCharacter) {
  EXPECT_EQ(pieces_of("\xff"
                      "ab \xe4\xb8"),
            (std::vector<std::string_view>{"\xff"
                                           "ab",
                                           " ", "\xe4\xb8"}));
}

}  // namespace
}  // namespace kvasir
