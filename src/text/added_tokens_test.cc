// Which special tokens are found in a text, and where.
#include "text/added_tokens.h"

#include <gtest/gtest.h>

#include <string>

namespace kvasir {
namespace {

// Matches as "begin-end:id" words.
std::string matches(const AddedTokens& tokens, std::string_view text,
                    std::vector<ByteRange> client_text = {}) {
  std::span<const ByteRange> protect = client_text;
  std::string out;
  AddedTokens::Match m;
  for (size_t from = 0; tokens.find(text, from, protect, m); from = m.end) {
    out += std::to_string(m.begin) + "-" + std::to_string(m.end) + ":" + std::to_string(m.id) + " ";
  }
  return out;
}

AddedTokens sample() {
  AddedTokens tokens;
  int id = 1;
  for (const char* content : {"<a>", "<ab>", "<a", "a>b", "｜"}) tokens.add(content, id++);
  return tokens;
}

TEST(AddedTokens, MatchesLeftmostThenLongest) {
  EXPECT_EQ(matches(sample(), "x<a>b<ab>"), "1-4:1 5-9:2 ");
  EXPECT_EQ(matches(sample(), "<a"), "0-2:3 ");
  EXPECT_EQ(matches(sample(), "<abc"), "0-2:3 ");
  EXPECT_EQ(matches(sample(), "a>b<a>"), "0-3:4 3-6:1 ");
  EXPECT_EQ(matches(sample(), "｜｜"), "0-3:5 3-6:5 ");
  EXPECT_EQ(matches(sample(), "<\xef\xbd"), "");
}

TEST(AddedTokens, IgnoresAMatchThatOverlapsClientText) {
  EXPECT_EQ(matches(sample(), "<ab><ab><ab>", {{4, 8}}), "0-4:2 8-12:2 ");
  EXPECT_EQ(matches(sample(), "<ab>", {{3, 4}}), "0-2:3 ");  // the shorter match ends before the range
  EXPECT_EQ(matches(sample(), "<ab>", {{1, 2}}), "");
  EXPECT_EQ(matches(sample(), "<ab>", {{0, 1}}), "");
  EXPECT_EQ(matches(sample(), "<ab>", {{0, 0}, {2, 2}, {4, 4}}),
            "0-4:2 ");                                       // an empty range overlaps nothing
  EXPECT_EQ(matches(sample(), "<a>b", {{0, 1}}), "1-4:4 ");  // found once "<a>" is not
}

TEST(AddedTokens, FindsATokenByItsWholeContent) {
  EXPECT_EQ(sample().id_of("<ab>"), 2);
  EXPECT_EQ(sample().id_of("<a"), 3);
  EXPECT_EQ(sample().id_of("<"), -1);
  EXPECT_EQ(sample().id_of("<ab>x"), -1);
  EXPECT_EQ(sample().id_of(""), -1);
}

}  // namespace
}  // namespace kvasir
