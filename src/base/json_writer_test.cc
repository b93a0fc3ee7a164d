// What JsonWriter prints, character by character.
#include "base/json_writer.h"

#include <gtest/gtest.h>

#include <limits>

namespace kvasir {
namespace {

TEST(JsonWriter, KeepsTheOrderInWhichItIsTold) {
  JsonWriter json;
  json.begin_object().field("z", 1).field("a", true).begin_array("ids").value(7).value(-9).end_array();
  json.key("none").null().begin_object("empty").end_object().end_object();
  EXPECT_EQ(json.text(), R"({"z":1,"a":true,"ids":[7,-9],"none":null,"empty":{}})");
}

TEST(JsonWriter, IndentsWhenAskedTo) {
  JsonWriter json(JsonWriter::Layout::kIndented);
  json.begin_object()
      .field("a", 1)
      .begin_array("b")
      .value("x")
      .begin_array()
      .end_array()
      .end_array()
      .end_object();
  EXPECT_EQ(json.text(), "{\n  \"a\": 1,\n  \"b\": [\n    \"x\",\n    []\n  ]\n}");
}

TEST(JsonWriter, PrintsNumbersThatReadBackAsTheSameDouble) {
  JsonWriter json;
  json.begin_array().value(3514.25).value(141057982464.0).value(0.1).value(-0.0).value(1e300);
  json.value(std::numeric_limits<int64_t>::min()).value(std::numeric_limits<uint64_t>::max()).end_array();
  EXPECT_EQ(json.text(), "[3514.25,141057982464,0.1,-0,1e+300,-9223372036854775808,18446744073709551615]");
}

TEST(JsonWriter, HasNoNanAndNoInfinity) {
  JsonWriter json;
  json.begin_array().value(std::numeric_limits<double>::quiet_NaN());
  json.value(-std::numeric_limits<double>::infinity()).end_array();
  EXPECT_EQ(json.text(), "[null,null]");
}

TEST(JsonWriter, EscapesQuotesBackslashesAndControlCharacters) {
  EXPECT_EQ(json_quote("a\"b\\c\n\r\t\x01\x7f"), R"("a\"b\\c\n\r\t\u0001\u007f")");
  EXPECT_EQ(json_quote(std::string_view("\0", 1)), R"("\u0000")");
}

TEST(JsonWriter, KeepsUtf8AndReplacesWhatIsNot) {
  EXPECT_EQ(json_quote("é｜😀"), "\"é｜😀\"");
  EXPECT_EQ(json_quote("a\xFFz"), "\"a\xEF\xBF\xBDz\"");
  EXPECT_EQ(json_quote("\xC0\x80"), "\"\xEF\xBF\xBD\xEF\xBF\xBD\"");                  // overlong
  EXPECT_EQ(json_quote("\xED\xA0\x80"), "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\"");  // a surrogate
  EXPECT_EQ(json_quote("\xE2\x82"), "\"\xEF\xBF\xBD\xEF\xBF\xBD\"");                  // cut short
}

TEST(JsonWriterDeathTest, UnbalancedCallsAbort) {
  EXPECT_DEATH(JsonWriter().begin_object().value(1), "needs a key");
  EXPECT_DEATH(JsonWriter().begin_array().end_object(), "unbalanced");
  EXPECT_DEATH((void)JsonWriter().begin_array().text(), "before its end");
}

TEST(JsonWriter, PrintsAFinishedValueAsItIs) {
  JsonWriter json;
  json.begin_object().key("a").json("{\"b\": 1.0}").field("c", 2).end_object();
  EXPECT_EQ(json.text(), R"({"a":{"b": 1.0},"c":2})");
}

}  // namespace
}  // namespace kvasir
