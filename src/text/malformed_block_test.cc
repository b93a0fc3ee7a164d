// The table of malformed blocks (protocol.md 3.3), case by case, each for every way to cut the text.
#include <gtest/gtest.h>

#include "text/sampled_text_test.h"

namespace kvasir {
namespace {

using Calls = std::vector<std::pair<std::string, std::string>>;

OutputFormat format() {
  const auto tools = JsonValue::parse(R"([
      {"name":"f","parameters":{"type":"object","properties":{"s":{"type":"string"},"n":{"type":"integer"},
       "o":{"type":"object"},"a":{"type":"array"},"b":{"type":"boolean"},"any":{}}}},
      {"name":"wrapped","parameters":{"type":"object","properties":{"input":{"type":"object"}}}}])");
  return {.in_reasoning = false, .tools = tools->as_array()};
}

Output parse(std::string_view text, EndCause cause = EndCause::kStop) {
  return parse_every_way(sample(text), format(), cause);
}

const std::string kOpen = "Hi.\n\n<｜DSML｜tool_calls>\n";
const std::string kClose = "</｜DSML｜tool_calls>";
const size_t kBlockAt = 5;  // of the '<' in kOpen

std::string parameter(const std::string& key, const std::string& value,
                      const std::string& attribute = " string=\"true\"") {
  return "<｜DSML｜parameter name=\"" + key + "\"" + attribute + ">" + value + "</｜DSML｜parameter>\n";
}
std::string invoke(const std::string& body, const std::string& name = "f") {
  return "<｜DSML｜invoke name=\"" + name + "\">\n" + body + "</｜DSML｜invoke>\n";
}

// The arguments of the one call that a block with this body gives.
std::string arguments(const std::string& body, const std::string& name = "f") {
  const Output out = parse(kOpen + invoke(body, name) + kClose);
  EXPECT_EQ(out.content, "Hi.");
  EXPECT_EQ(out.unusable, "");
  if (out.calls.size() != 1) return "calls: " + std::to_string(out.calls.size());
  EXPECT_EQ(out.calls[0].first, name);
  EXPECT_EQ(out.finish, FinishReason::kToolCalls);
  return out.calls[0].second;
}

// No call, no markup, and the cut at the block's start.
void expect_unusable(const std::string& text, const std::string& reason) {
  const Output out = parse(text);
  EXPECT_EQ(out.content, "Hi.") << text;
  EXPECT_TRUE(out.calls.empty()) << text;
  EXPECT_EQ(out.unusable, reason) << text;
  EXPECT_EQ(out.cut_at, kBlockAt) << text;
  EXPECT_EQ(out.finish, FinishReason::kStop) << text;
}

TEST(MalformedBlock, Mal1AMissingOuterClosingTagAtTheEndIsAccepted) {
  const Calls two = {{"f", R"({"s": "x"})"}, {"g", "{}"}};
  for (const char* end : {"", "\n", "<", "</", "</｜DSML｜", "</｜DSML｜tool_ca", "<｜end▁of▁sentence｜>"}) {
    const Output out = parse(kOpen + invoke(parameter("s", "x")) + invoke("", "g") + end);
    EXPECT_EQ(out.calls, two) << end;
    EXPECT_EQ(out.unusable, "") << end;
    EXPECT_EQ(out.finish, FinishReason::kToolCalls) << end;
    EXPECT_EQ(out.content, "Hi.") << end;
  }
}

TEST(MalformedBlock, Mal2ACallCutByTheLimitIsNotEmittedAndFinishIsLength) {
  const std::string good = invoke(parameter("s", "x"));
  const std::string whole = kOpen + good + invoke(parameter("s", "yy"));
  for (size_t n = kOpen.size() + good.size() + std::string("<｜DSML｜").size(); n + 2 < whole.size(); ++n) {
    const Output out = parse_whole(sample(whole.substr(0, n)), format(), EndCause::kLength);
    ASSERT_EQ(out.calls, (Calls{{"f", R"({"s": "x"})"}})) << whole.substr(0, n);
    ASSERT_EQ(out.finish, FinishReason::kLength) << whole.substr(0, n);
    ASSERT_EQ(out.unusable, "") << whole.substr(0, n);
  }
  const Output out = parse(kOpen + "<｜DSML｜invoke name=\"f\">\n", EndCause::kLength);
  EXPECT_TRUE(out.calls.empty());
  EXPECT_EQ(out.finish, FinishReason::kLength);
  EXPECT_EQ(out.content, "Hi.");
}

TEST(MalformedBlock, Mal2ACallCutByTheEndTokenIsUnusableAfterTheGoodOnes) {
  const std::string good = kOpen + invoke(parameter("s", "x"));
  const Output out = parse(
      good +
      "<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"s\" string=\"true\">y<｜end▁of▁sentence｜>");
  EXPECT_EQ(out.calls, (Calls{{"f", R"({"s": "x"})"}}));
  EXPECT_EQ(out.unusable, "generation ended inside an invoke");
  EXPECT_EQ(out.cut_at, good.size() - 1);  // right after the good invoke
  EXPECT_EQ(out.finish, FinishReason::kToolCalls);
}

TEST(MalformedBlock, Mal3AMissingStringAttributeTakesTheSchemasTypeElseJsonElseString) {
  EXPECT_EQ(arguments(parameter("s", "12", "")), R"({"s": "12"})");
  EXPECT_EQ(arguments(parameter("n", "12", "")), R"({"n": 12})");
  EXPECT_EQ(arguments(parameter("n", "twelve", "")), R"({"n": "twelve"})");
  EXPECT_EQ(arguments(parameter("any", "[1, 2]", "")), R"({"any": [1, 2]})");
  EXPECT_EQ(arguments(parameter("any", "[1, 2", "")), R"({"any": "[1, 2"})");
  EXPECT_EQ(arguments(parameter("unknown", "true", " string=\"perhaps\"")), R"({"unknown": true})");
}

TEST(MalformedBlock, Mal4TagsWithoutTheMarkerOrWithAsciiBarsAreToleratedInABlock) {
  const Calls expected = {{"f", R"({"s": "a", "n": 1})"}};
  const std::string strict =
      kOpen + invoke(parameter("s", "a") + parameter("n", "1", " string=\"false\"")) + kClose;
  const auto looser = [&](const std::string& marker, size_t first, size_t count) {
    std::string text = strict;
    size_t at = text.find("｜DSML｜") + 1;
    for (size_t i = 1; (at = text.find("｜DSML｜", at)) != std::string::npos; ++i) {
      const bool replace = i >= first && i < first + count;
      if (replace) text.replace(at, std::string("｜DSML｜").size(), marker);
      at += replace ? marker.size() : 1;
    }
    return text;
  };
  for (const char* marker : {"", "|DSML|"}) {
    for (size_t first = 1; first <= 7; ++first) {
      for (size_t count = 0; first + count <= 8; ++count) {
        const std::string text = looser(marker, first, count);
        const Output out = parse(text);
        // Between strict tags look-alikes are text, even a closing and an opening one.
        const bool between_strict = first == 3 && count == 2;
        const Calls text_in_value = {{"f", "{\"s\": \"a</" + std::string(marker) + "parameter>\\n<" + marker +
                                               "parameter name=\\\"n\\\" string=\\\"false\\\">1\"}"}};
        EXPECT_EQ(out.calls, between_strict ? text_in_value : expected) << text;
        EXPECT_EQ(out.content, "Hi.") << text;
        EXPECT_EQ(out.unusable, "") << text;
      }
    }
  }
}

TEST(MalformedBlock, Mal4AMarkerOfOrdinaryTokensCountsAsALookAlike) {
  const std::string open = "Hi.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n";
  const Sample text = sample(open) + ordinary(parameter("s", "a")) + sample("</｜DSML｜invoke>\n" + kClose);
  EXPECT_EQ(parse_every_way(text, format()).calls, (Calls{{"f", R"({"s": "a"})"}}));
}

TEST(MalformedBlock, Mal4TextThatOnlyContainsALookAlikeIsKept) {
  EXPECT_EQ(arguments("<parameter name=\"s\" string=\"true\">x</parameter>y</parameter>\n"),
            R"({"s": "x</parameter>y"})");
  EXPECT_EQ(arguments(parameter("s", "<a></parameter></invoke>")), R"({"s": "<a></parameter></invoke>"})");
}

TEST(MalformedBlock, Mal4ABodyThatIsNotBlankIsNeverAnEmptyCall) {
  for (const char* body : {"{\"s\": \"a\"}\n", "s=a\n", "<s>a</s>\n", "<parameter>a</parameter>\n", "x",
                           "</｜DSML｜parameter>\n"}) {
    const Output out = parse(kOpen + invoke(body) + kClose);
    EXPECT_TRUE(out.calls.empty()) << body;
    EXPECT_NE(out.unusable, "") << body;
    EXPECT_EQ(out.content, "Hi.") << body;
  }
  EXPECT_EQ(arguments(""), "{}");
  EXPECT_EQ(arguments("\n"), "{}");
}

TEST(MalformedBlock, Mal5NotJsonDespiteStringFalseIsAString) {
  EXPECT_EQ(arguments(parameter("s", "a\"b", " string=\"false\"")), R"({"s": "a\"b"})");
  EXPECT_EQ(arguments(parameter("o", "{a: 1}", " string=\"false\"")), R"({"o": "{a: 1}"})");
  EXPECT_EQ(arguments(parameter("n", "", " string=\"false\"")), R"({"n": ""})");
  EXPECT_EQ(arguments(parameter("n", "NaN", " string=\"false\"")), R"({"n": "NaN"})");
}

TEST(MalformedBlock, StringFalseJsonGoesOutVerbatim) {
  EXPECT_EQ(arguments(parameter("n", " 1.50e0 ", " string=\"false\"")), R"({"n":  1.50e0 })");
  EXPECT_EQ(arguments(parameter("o", "{\"b\":1,\n\"a\":123456789012345678901}", " string=\"false\"")),
            "{\"o\": {\"b\":1,\n\"a\":123456789012345678901}}");
}

TEST(MalformedBlock, Mal6AStringThatTheSchemaWantsOtherwiseIsConvertedIfItParses) {
  EXPECT_EQ(arguments(parameter("n", "5")), R"({"n": 5})");
  EXPECT_EQ(arguments(parameter("n", "5.5")), R"({"n": "5.5"})");
  EXPECT_EQ(arguments(parameter("o", "{\"k\": 1}")), R"({"o": {"k": 1}})");
  EXPECT_EQ(arguments(parameter("o", "[1]")), R"({"o": "[1]"})");
  EXPECT_EQ(arguments(parameter("a", "[1]")), R"({"a": [1]})");
  EXPECT_EQ(arguments(parameter("b", "true")), R"({"b": true})");
  EXPECT_EQ(arguments(parameter("b", "yes")), R"({"b": "yes"})");
  EXPECT_EQ(arguments(parameter("s", "5")), R"({"s": "5"})");
  EXPECT_EQ(arguments(parameter("any", "5")), R"({"any": "5"})");
}

TEST(MalformedBlock, Mal7AWrapperTheSchemaDoesNotHaveIsUnwrapped) {
  for (const char* key : {"arguments", "input"}) {
    EXPECT_EQ(arguments(parameter(key, " {\"s\": \"a\"}\n", " string=\"false\"")), R"({"s": "a"})");
    EXPECT_EQ(arguments(parameter(key, "{\"s\": \"a\"}")), R"({"s": "a"})");
    EXPECT_EQ(arguments(parameter(key, "[1]", " string=\"false\"")), "{\"" + std::string(key) + "\": [1]}");
    EXPECT_EQ(arguments(parameter(key, "{}", " string=\"false\"") + parameter("s", "a")),
              "{\"" + std::string(key) + R"(": {}, "s": "a"})");
  }
  EXPECT_EQ(arguments(parameter("input", "{\"s\": 1}", " string=\"false\""), "wrapped"),
            R"({"input": {"s": 1}})");
  EXPECT_EQ(arguments(parameter("input", "{\"s\": 1}", " string=\"false\""), "nobody_offered"),
            R"({"input": {"s": 1}})");
}

TEST(MalformedBlock, Mal8TheLastOfDuplicateParametersCounts) {
  EXPECT_EQ(arguments(parameter("s", "a") + parameter("n", "1", " string=\"false\"") + parameter("s", "b")),
            R"({"s": "b", "n": 1})");
}

TEST(MalformedBlock, Mal9AnUnusableBlockShowsNothingAndSaysWhereToCut) {
  expect_unusable(kOpen + "call f please\n" + kClose, "text where an invoke should begin");
  expect_unusable(kOpen + "{\"name\": \"f\"}" + kClose, "text where an invoke should begin");
  expect_unusable(kOpen + parameter("s", "a") + kClose, "text where an invoke should begin");
  expect_unusable(kOpen + "<｜DSML｜invoke name=\"f\">\n" + parameter("s", "a") + kClose,
                  "an invoke is not closed before the block's closing tag");
  expect_unusable(
      kOpen +
          "<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"s\" string=\"true\">a</｜DSML｜invoke>\n" +
          kClose,
      "a parameter is not closed");
  expect_unusable(kOpen + invoke(parameter("s", "a｜DSML｜b")) + kClose, "｜DSML｜ inside a value");
  expect_unusable(kOpen + invoke(parameter("s", "a<｜DSML｜b>")) + kClose, "｜DSML｜ inside a value");
  expect_unusable(kOpen + invoke("text") + kClose, "text in an invoke outside its parameters");
  expect_unusable("Hi.\n\n<｜DSML｜function_calls>\n" + invoke("") + kClose,
                  "an unknown tag where a block should begin");
  expect_unusable("Hi.\n\n<｜DSML｜tool_calls x>\n" + invoke("") + kClose,
                  "the block's first tag cannot be read");
  expect_unusable("Hi.\n\n<｜DSML｜", "generation ended inside the block's first tag");
  expect_unusable("Hi.\n\n<｜DSML｜tool_calls>\n", "generation ended inside an invoke");
}

TEST(MalformedBlock, Mal9SamplingAgainFromTheCutGoesOnAsIfNothingHadHappened) {
  const std::string good = invoke(parameter("s", "a"));
  for (const bool after_a_good_call : {false, true}) {
    const std::string before = kOpen + (after_a_good_call ? good : "");
    OutputParser parser(format());
    Output out;
    for (const Piece& p : sample(before + invoke("oops") + kClose))
      add_deltas(parser.push(p.text, p.kind), out);
    ASSERT_NE(parser.unusable(), nullptr);
    EXPECT_EQ(parser.unusable()->block_begin, kBlockAt);
    const size_t cut_at = parser.unusable()->cut_at;
    EXPECT_EQ(cut_at, after_a_good_call ? before.size() - 1 : kBlockAt);
    add_deltas(parser.finish(EndCause::kStop), out);
    parser.cut_back();
    EXPECT_EQ(parser.sampled(), before.substr(0, cut_at));
    const std::string again =
        before.substr(cut_at) + invoke(parameter("n", "2", " string=\"false\"")) + kClose;
    for (const Piece& p : sample(again)) add_deltas(parser.push(p.text, p.kind), out);
    EXPECT_TRUE(parser.is_done());
    add_deltas(parser.finish(EndCause::kStop), out);
    EXPECT_EQ(parser.unusable(), nullptr);
    EXPECT_EQ(out.content, "Hi.");
    Calls calls = {{"f", R"({"n": 2})"}};
    if (after_a_good_call) calls.insert(calls.begin(), {"f", R"({"s": "a"})"});
    EXPECT_EQ(out.calls, calls);
    EXPECT_EQ(parser.finish_reason(), FinishReason::kToolCalls);
    EXPECT_EQ(parser.block(), (ByteRange{kBlockAt, parser.sampled().size()}));
  }
}

TEST(MalformedBlock, Mal9WhiteSpaceBeforeTheCutIsShownIfTextComesInstead) {
  OutputParser parser(format());
  Output out;
  for (const Piece& p : sample(kOpen + "oops" + kClose)) add_deltas(parser.push(p.text, p.kind), out);
  ASSERT_NE(parser.unusable(), nullptr);
  parser.cut_back();
  add_deltas(parser.push("never mind", TextKind::kPlain), out);
  add_deltas(parser.finish(EndCause::kStop), out);
  EXPECT_EQ(out.content, "Hi.\n\nnever mind");
}

TEST(MalformedBlock, Mal10AnEmptyBlockIsRemovedAndTextAfterItIsContent) {
  for (const std::string& close : {kClose, std::string("</tool_calls>")}) {
    Output out = parse(kOpen + close + "\nSo: 2 <");
    EXPECT_EQ(out.content, "Hi.\n\n\nSo: 2 <");
    EXPECT_EQ(out.finish, FinishReason::kStop);
    EXPECT_EQ(out.unusable, "");
    out = parse(kOpen + close + "\n");
    EXPECT_EQ(out.content, "Hi.");
  }
  EXPECT_EQ(parse(kOpen + kClose + kOpen + invoke("") + kClose).calls, (Calls{{"f", "{}"}}));
}

TEST(MalformedBlock, Mal11StrayClosingTagsAreAbsorbed) {
  EXPECT_EQ(parse("a</｜DSML｜parameter>b</｜DSML｜tool_calls >c").content, "abc");
  EXPECT_EQ(parse("a\n</｜DSML｜invoke>\nb").content, "a\n\nb");
  EXPECT_EQ(parse("a </｜DSML｜invoke\nb").content, "a \nb");
  EXPECT_EQ(parse("a </｜DSML｜").content, "a ");
  const std::string stray = "</｜DSML｜invoke>\n</｜DSML｜parameter>\n";
  const Output out =
      parse(kOpen + stray + invoke(parameter("s", "a") + "</｜DSML｜parameter>\n") + stray + kClose + kClose);
  EXPECT_EQ(out.calls, (Calls{{"f", R"({"s": "a"})"}}));
  EXPECT_EQ(out.content, "Hi.");
  EXPECT_EQ(out.unusable, "");
}

TEST(MalformedBlock, Mal12TextAfterTheBlockIsDiscardedAndCounted) {
  const std::string after = "\nDone. " + kOpen + invoke("", "g") + kClose;
  const Output out = parse(kOpen + invoke("") + kClose + after);
  EXPECT_EQ(out.calls, (Calls{{"f", "{}"}}));
  EXPECT_EQ(out.content, "Hi.");
  EXPECT_EQ(out.after_block, after.size());
  const Output open = parse(kOpen + invoke("") + "Done.");
  EXPECT_EQ(open.calls, (Calls{{"f", "{}"}}));
  EXPECT_EQ(open.content, "Hi.");
  EXPECT_EQ(open.after_block, 5u);
}

TEST(MalformedBlock, Mal13AnUnknownToolIsPassedThrough) {
  EXPECT_EQ(arguments(parameter("x", "1", " string=\"false\""), "no_such_tool"), R"({"x": 1})");
}

TEST(MalformedBlock, Mal14NamesAndKeysWithMarkupCharactersAreUnusable) {
  for (const char* name : {"f\"g", "f<g", "f>g", "f\ng", "", "\""}) {
    const Output a = parse(kOpen + invoke("", name) + kClose);
    EXPECT_TRUE(a.calls.empty()) << name;
    EXPECT_NE(a.unusable, "") << name;
    EXPECT_EQ(a.content, "Hi.") << name;
    EXPECT_EQ(a.cut_at, kBlockAt) << name;
    const Output b = parse(kOpen + invoke(parameter(name, "v")) + kClose);
    EXPECT_TRUE(b.calls.empty()) << name;
    EXPECT_NE(b.unusable, "") << name;
    EXPECT_EQ(b.content, "Hi.") << name;
  }
}

TEST(MalformedBlock, ABlockWithoutItsOuterTagIsStillABlock) {
  const Output out =
      parse("Hi.\n\n" + invoke(parameter("s", "a")) + invoke("", "g") + "<｜end▁of▁sentence｜>");
  EXPECT_EQ(out.calls, (Calls{{"f", R"({"s": "a"})"}, {"g", "{}"}}));
  EXPECT_EQ(out.content, "Hi.");
}

}  // namespace
}  // namespace kvasir
