// Every code point has the class that the tokenizer needs, and malformed bytes are replaced.
#include "text/unicode_class.h"

#include <vector>

#include "text/tokenizer_test_data.h"

namespace kvasir {
namespace {

TEST(UnicodeClass, EveryCodePointHasTheClassesThatHuggingFaceTokenizersGivesIt) {
  const nlohmann::json golden = golden_json("hf_classes.json");
  std::vector<uint8_t> expected(0x110001, 0);
  const std::pair<const char*, uint8_t> patterns[] = {{"\\p{L}", kLetter},
                                                      {"\\p{M}", kMark},
                                                      {"\\p{N}", kNumber},
                                                      {"\\p{P}", kPunctuation},
                                                      {"\\p{S}", kSymbol},
                                                      {"\\s", kSpace},
                                                      {"[一-龥぀-ゟ゠-ヿ]", kHanKana}};
  for (const auto& [pattern, flag] : patterns) {
    ASSERT_GT(golden.at(pattern).size(), 1u) << pattern;
    for (const auto& run : golden.at(pattern)) {
      for (uint32_t c = run.at(0); c <= run.at(1).get<uint32_t>(); ++c) {
        if (c < 0xd800 || c > 0xdfff) expected[c] |= flag;  // a run may go on beyond the surrogates
      }
    }
  }
  expected['\r'] |= kNewline;
  expected['\n'] |= kNewline;
  for (uint32_t c = 0; c <= kNotACodePoint; ++c) {
    ASSERT_EQ(int{unicode_flags(c)}, int{expected[c]}) << "code point " << c;
  }
}

TEST(UnicodeClass, DecodesEveryCodePoint) {
  for (uint32_t c = 0; c < 0x110000; ++c) {
    std::string s;
    if (c < 0x80) {
      s = {static_cast<char>(c)};
    } else if (c < 0x800) {
      s = {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
    } else if (c < 0x10000) {
      s = {static_cast<char>(0xe0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)),
           static_cast<char>(0x80 | (c & 63))};
    } else {
      s = {static_cast<char>(0xf0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 63)),
           static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63))};
    }
    const bool surrogate = c >= 0xd800 && c <= 0xdfff;
    const Utf8Char seen = decode_utf8(s, 0);
    ASSERT_EQ(seen.code, surrogate ? kNotACodePoint : c);
    ASSERT_EQ(seen.bytes, surrogate ? 1 : s.size());
    for (size_t cut = 1; cut < s.size() && !surrogate; ++cut) {
      ASSERT_EQ(decode_utf8(std::string_view(s).substr(0, cut), 0).code, kNotACodePoint) << c << " cut";
    }
  }
}

// Examples of the Unicode standard, 3.9, tables 3-8 to 3-11.
TEST(UnicodeClass, ReplacesMaximalMalformedParts) {
  const std::string r = "\xef\xbf\xbd";
  EXPECT_EQ(replace_malformed_utf8("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41"),
            r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(replace_malformed_utf8("\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41"),
            r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(replace_malformed_utf8("\xf4\x91\x92\x93\xff\x41\x80\xbf\x42"),
            r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(replace_malformed_utf8("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41"), r + r + r + r + "A");
  EXPECT_EQ(replace_malformed_utf8("é\xe4\xb8"), "é" + r);
}

}  // namespace
}  // namespace kvasir
