// Parsing, errors with their place, and Python-style output.
#include "text/json_value.h"

#include <gtest/gtest.h>

#include <cmath>

#include "text/golden_files_test.h"

namespace kvasir {
namespace {

std::string reprint(std::string_view text) {
  auto value = JsonValue::parse(text);
  return value ? value->dump() : "error: " + value.error().message;
}

TEST(JsonValue, WritesWhatPythonsJsonDumpsWrites) {
  const JsonValue golden = read_golden_json("json_dumps.json");
  const auto& cases = golden.find("cases")->as_array();
  ASSERT_GT(cases.size(), 600u);
  for (const JsonValue& c : cases) {
    EXPECT_EQ(reprint(c.find("in")->as_string()), c.find("out")->as_string()) << c.find("in")->as_string();
  }
}

TEST(JsonValue, KeepsKeyOrderAndADuplicateKeysFirstPlaceAndLastValue) {
  EXPECT_EQ(reprint(R"({"z":1,"a":2,"z":{"k":3},"m":4,"a":5})"), R"({"z": {"k": 3}, "a": 5, "m": 4})");
}

TEST(JsonValue, KeepsAllDigitsOfIntegersBeyond64Bits) {
  const std::string digits = "9" + std::string(400, '7');
  EXPECT_EQ(reprint("[1," + digits + ",2,-" + digits + ",{\"k\":" + digits + "}]"),
            "[1, " + digits + ", 2, -" + digits + ", {\"k\": " + digits + "}]");
  EXPECT_FALSE(JsonValue::parse("[" + digits + "x]"));
  EXPECT_FALSE(JsonValue::parse("[0" + digits + "]"));
  EXPECT_FALSE(JsonValue::parse("[--" + digits + "]"));
  EXPECT_FALSE(JsonValue::parse("[" + digits + " 1]"));
  EXPECT_FALSE(JsonValue::parse("true" + digits));
}

TEST(JsonValue, DoesNotTakeDigitsInsideStringsForNumbers) {
  EXPECT_EQ(reprint(R"(["\"18446744073709551616", "\\", 18446744073709551617, "18446744073709551618"])"),
            R"(["\"18446744073709551616", "\\", 18446744073709551617, "18446744073709551618"])");
}

TEST(JsonValue, RejectsWhatIsNotJson) {
  for (const char* text : {"",        " ",           "{",        "[1,]",         "{\"a\":1,}",
                           "{a:1}",   "'a'",         "nul",      "NaN",          "Infinity",
                           "01",      "1.",          ".5",       "+1",           "1e999",
                           "[1 2]",   "[1]]",        "{} {}",    "\"a",          "\"\n\"",
                           "\"\\x\"", "\"\\ud800\"", "\"\xff\"", "\"\xc0\xaf\"", "\xef\xbb\xbf{}",
                           "tru",     "[1]x",        "-",        "{\"a\"}"}) {
    EXPECT_FALSE(JsonValue::parse(text)) << text;
  }
}

TEST(JsonValue, BoundsDepthAndSize) {
  const auto nested = [](size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_TRUE(JsonValue::parse(nested(256)));
  EXPECT_FALSE(JsonValue::parse(nested(257)));
  EXPECT_FALSE(JsonValue::parse(nested(1000000)));
  EXPECT_TRUE(JsonValue::parse("[{}]", {.max_bytes = 4, .max_depth = 2}));
  EXPECT_FALSE(JsonValue::parse("[{}]", {.max_bytes = 4, .max_depth = 1}));
  EXPECT_FALSE(JsonValue::parse("[{}]", {.max_bytes = 3, .max_depth = 2}));
  EXPECT_TRUE(JsonValue::parse("1", {.max_bytes = 4, .max_depth = 0}));
}

TEST(JsonValue, KnowsIntegersFromFloats) {
  EXPECT_EQ(JsonValue::parse("-9223372036854775808")->as_int64(), INT64_MIN);
  EXPECT_FALSE(JsonValue::parse("9223372036854775808")->as_int64());
  EXPECT_TRUE(JsonValue::parse("9223372036854775808")->is_integer());
  EXPECT_FALSE(JsonValue::parse("1e5")->is_integer());
  EXPECT_FALSE(JsonValue::parse("1e20")->is_integer());
  EXPECT_EQ(JsonValue::parse("1e20")->as_double(), 1e20);
  EXPECT_EQ(JsonValue::parse("1" + std::string(400, '0'))->as_double(), HUGE_VAL);
  EXPECT_EQ(JsonValue(int64_t{-7}).dump(), "-7");
  EXPECT_EQ(JsonValue(2.0).dump(), "2.0");
}

TEST(JsonValue, SetReplacesInPlaceOrAppends) {
  JsonValue value = *JsonValue::parse(R"({"a":1,"b":2})");
  value.set("a", JsonValue("x"));
  value.set("c", JsonValue(true));
  EXPECT_EQ(value.dump(), R"({"a": "x", "b": 2, "c": true})");
  EXPECT_EQ(value.find("d"), nullptr);
  EXPECT_EQ(JsonValue("a").find("a"), nullptr);
}

TEST(JsonValue, WritesReplacementCharactersForBytesThatAreNotUtf8) {
  EXPECT_EQ(JsonValue("a\xff"
                      "b\xe4\xb8")
                .dump(),
            "\"a\xEF\xBF\xBD"
            "b\xEF\xBF\xBD\xEF\xBF\xBD\"");
  EXPECT_EQ(JsonValue("\xed\xa0\x80").dump(), "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\"");
  EXPECT_EQ(JsonValue("\xf4\x90\x80\x80\xc1\x81").dump().size(), 2u + 6 * 3);
}

}  // namespace
}  // namespace kvasir
