// The well-formed grammar and the rules PAR-1 to PAR-8. Malformed blocks: malformed_block_test.cc.
#include "text/output_parser.h"

#include <gtest/gtest.h>

#include "text/golden_cases_test.h"
#include "text/sampled_text_test.h"

namespace kvasir {
namespace {

OutputFormat format(bool in_reasoning, ToolChoice choice = ToolChoice::kAuto) {
  const auto tool = JsonValue::parse(R"({"name":"f","parameters":{"type":"object","properties":{"x":{}}}})");
  return {.in_reasoning = in_reasoning, .tool_choice = choice, .tools = {*tool}};
}

const std::string kBlock =
    "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"x\" string=\"true\">1 < "
    "2</｜DSML｜parameter>\n"
    "</｜DSML｜invoke>\n</｜DSML｜tool_calls>";
const std::vector<std::pair<std::string, std::string>> kCalls = {{"f", R"({"x": "1 < 2"})"}};

Output thinking(std::string_view text, EndCause cause = EndCause::kStop) {
  return parse_every_way(sample(text), format(true), cause);
}
Output answering(std::string_view text, EndCause cause = EndCause::kStop) {
  return parse_every_way(sample(text), format(false), cause);
}

// What a client must get for a message that a model sampled: the arguments of section 3.1.
Output expected_output(const Message& m, Thinking mode) {
  Output out;
  if (mode == Thinking::kOn) out.reasoning = m.reasoning.value_or("");
  out.content = m.content;
  for (const ToolCall& call : m.tool_calls) {
    out.calls.push_back({call.name, JsonValue(call_parameters(call.arguments)).dump()});
  }
  out.finish = out.calls.empty() ? FinishReason::kStop : FinishReason::kToolCalls;
  return out;
}

class GoldenCompletion : public testing::TestWithParam<GoldenCase> {};

TEST_P(GoldenCompletion, ParsesBackForEverySplit) {
  for (const Message& m : GetParam().conversation.messages) {
    if (m.role != Role::kAssistant) continue;
    for (Thinking mode : {Thinking::kOff, Thinking::kOn}) {
      const RenderedPrompt completion = render_completion(m, mode);
      // Ordinary tokens for what the message holds, special ones for the structure around it.
      Sample pieces;
      size_t at = 0;
      for (const ByteRange& range : completion.protected_ranges) {
        pieces = pieces + sample(completion.text.substr(at, range.begin - at)) +
                 ordinary(completion.text.substr(range.begin, range.end - range.begin));
        at = range.end;
      }
      pieces = pieces + sample(completion.text.substr(at));
      Output out = parse_every_way(pieces, format(mode == Thinking::kOn));
      EXPECT_EQ(out.block.empty(), m.tool_calls.empty());
      out.block.clear();
      EXPECT_EQ(out, expected_output(m, mode));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Parser, GoldenCompletion, testing::ValuesIn(golden_cases()), golden_case_name);

TEST(OutputParser, StreamsReasoningThenContent) {
  OutputParser parser(format(true));
  const auto only = [](const std::vector<Delta>& deltas) {
    EXPECT_EQ(deltas.size(), 1u);
    return deltas.empty() ? Delta{} : deltas[0];
  };
  EXPECT_EQ(only(parser.push("I think", TextKind::kPlain)).kind, Delta::Kind::kReasoning);
  EXPECT_TRUE(parser.push("</think>", TextKind::kSpecial).empty());
  EXPECT_EQ(only(parser.push("so", TextKind::kPlain)).kind, Delta::Kind::kContent);
  EXPECT_TRUE(parser.push("  \n", TextKind::kPlain).empty());
  EXPECT_EQ(only(parser.push("x", TextKind::kPlain)).text, "  \nx");
  EXPECT_FALSE(parser.is_done());
  EXPECT_TRUE(parser.push("<｜end▁of▁sentence｜>", TextKind::kSpecial).empty());
  EXPECT_TRUE(parser.is_done());
  EXPECT_TRUE(parser.finish(EndCause::kStop).empty());
  EXPECT_EQ(parser.sampled(), "I think</think>so  \nx<｜end▁of▁sentence｜>");
}

TEST(OutputParser, Par1EndThinkEndsReasoningOnceAndLaterOnesAreDroppedAndCounted) {
  const Output out = thinking("<think>a</think>b</think>c<think>d");
  EXPECT_EQ(out.reasoning, "a");
  EXPECT_EQ(out.content, "bcd");
  EXPECT_EQ(out.think_tokens, 7u + 8 + 7);
}

TEST(OutputParser, SpecialTokensAreStructureAndTheirLookAlikesAreText) {
  const std::string look_alike = "</think>\n\n" + kBlock;
  Output out =
      parse_every_way(ordinary(look_alike) + sample("</think>") + ordinary("<think>" + look_alike), [] {
        OutputFormat f = format(true);
        return f;
      }());
  EXPECT_EQ(out.reasoning, look_alike);
  EXPECT_EQ(out.content, "<think>" + look_alike);
  EXPECT_TRUE(out.calls.empty());
}

TEST(OutputParser, OtherSpecialTokensNeverShowInText) {
  const Sample pieces = ordinary("a") + Sample{{"<｜User｜>", TextKind::kSpecial}} + ordinary("b <") +
                        Sample{{"<｜place▁holder｜>", TextKind::kSpecial}, {"｜DSML｜", TextKind::kSpecial}} +
                        ordinary("c");
  EXPECT_EQ(parse_every_way(pieces, format(false)).content, "ab <c");
}

TEST(OutputParser, Par2AMessageEndingInAPossibleMarkerArrivesComplete) {
  EXPECT_EQ(answering("if 1 + 1 == 2 <").content, "if 1 + 1 == 2 <");
  EXPECT_EQ(answering("a\n\n</").content, "a\n\n</");
  EXPECT_EQ(answering("a \n\n").content, "a \n\n");
  EXPECT_EQ(thinking("2 <").reasoning, "2 <");
  EXPECT_EQ(thinking("2 <</think>3 </").reasoning, "2 <");
  EXPECT_EQ(answering("<<//< tool_calls> </x").content, "<<//< tool_calls> </x");
}

TEST(OutputParser, Par2APossibleMarkerIsHeldBackOnlyUntilItIsNone) {
  OutputParser parser(format(false));
  EXPECT_EQ(parser.push("a", TextKind::kPlain).size(), 1u);
  EXPECT_TRUE(parser.push("\n\n<", TextKind::kPlain).empty());
  const auto deltas = parser.push("b", TextKind::kPlain);
  ASSERT_EQ(deltas.size(), 1u);
  EXPECT_EQ(deltas[0].text, "\n\n<b");
}

TEST(OutputParser, Par3WhiteSpaceBeforeABlockIsNotContentAndTheBytesAreRemembered) {
  OutputParser parser(format(true));
  const std::string text = "r</think>Hi.\n \n\n" + kBlock;
  Output out;
  for (const Piece& p : sample(text)) add_deltas(parser.push(p.text, p.kind), out);
  add_deltas(parser.finish(EndCause::kStop), out);
  EXPECT_EQ(out.content, "Hi.");
  EXPECT_EQ(out.calls, kCalls);
  EXPECT_EQ(parser.sampled(), text);
  EXPECT_EQ(parser.block(), (ByteRange{text.size() - kBlock.size(), text.size()}));
}

TEST(OutputParser, Par4ABlockInReasoningIsTextIfReasoningGoesOn) {
  std::string shown = kBlock;
  for (size_t at; (at = shown.find("｜DSML｜")) != std::string::npos;)
    shown.erase(at, std::string("｜DSML｜").size());
  for (const char* after : {"", " then more", "\n"}) {
    const Output out = thinking("plan\n\n" + kBlock + after + "</think>done");
    EXPECT_EQ(out.reasoning, "plan\n\n" + shown + after);
    EXPECT_EQ(out.content, "done");
    EXPECT_TRUE(out.calls.empty());
    EXPECT_EQ(out.finish, FinishReason::kStop);
  }
  EXPECT_EQ(thinking("plan\n\n" + kBlock + "\n but no</think>" + kBlock).calls, kCalls);
  EXPECT_EQ(thinking("p <｜DSML｜tool</think>x").reasoning, "p <tool");
  EXPECT_EQ(thinking(kBlock + " and on").reasoning, shown + " and on");
}

TEST(OutputParser, Par4ABlockAtTheEndOfReasoningIsExecuted) {
  for (const char* after : {"", "\n", "<｜end▁of▁sentence｜>", "\n<think>\n"}) {
    const Output out = thinking("plan\n\n" + kBlock + after);
    EXPECT_EQ(out.reasoning, "plan");
    EXPECT_EQ(out.calls, kCalls);
    EXPECT_EQ(out.finish, FinishReason::kToolCalls);
    EXPECT_EQ(out.block, kBlock);
  }
  const std::string open = kBlock.substr(0, kBlock.rfind("</"));
  EXPECT_EQ(thinking("plan" + open).calls, kCalls);
  EXPECT_EQ(thinking("a" + kBlock + "b" + kBlock).calls, kCalls);
}

TEST(OutputParser, Par4AnUnfinishedBlockInReasoningIsReasoningAtTheLimitAndUnusableAtTheEnd) {
  const std::string half = kBlock.substr(0, kBlock.find("1 <"));
  Output out = thinking("plan " + half, EndCause::kLength);
  EXPECT_EQ(out.reasoning, "plan <tool_calls>\n<invoke name=\"f\">\n<parameter name=\"x\" string=\"true\">");
  EXPECT_EQ(out.finish, FinishReason::kLength);
  EXPECT_EQ(out.unusable, "");
  out = thinking("plan " + half, EndCause::kStop);
  EXPECT_EQ(out.reasoning, "plan");
  EXPECT_EQ(out.unusable, "generation ended inside an invoke");
  EXPECT_EQ(out.cut_at, 5u);
}

TEST(OutputParser, Par5ACallIsAnnouncedWhenItsInvokeIsClosedBeforeTheBlockIs) {
  OutputParser parser(format(false));
  Output out;
  const std::string text = kBlock.substr(0, kBlock.find("</｜DSML｜invoke>"));
  for (const Piece& p : sample(text)) add_deltas(parser.push(p.text, p.kind), out);
  EXPECT_TRUE(out.calls.empty());
  for (const Piece& p : sample("</｜DSML｜invoke>")) add_deltas(parser.push(p.text, p.kind), out);
  EXPECT_EQ(out.calls, kCalls);
  EXPECT_FALSE(parser.is_done());
  for (const Piece& p : sample("\n</｜DSML｜tool_calls>")) add_deltas(parser.push(p.text, p.kind), out);
  EXPECT_TRUE(parser.is_done());
}

TEST(OutputParser, Par6MarkupInsideAValueIsKeptWhenItIsText) {
  const std::string value =
      "<｜DSML｜parameter name=\"q\">a 2>&1</｜DSML｜parameter>\n</｜DSML｜invoke></parameter></think>";
  const std::string head = kBlock.substr(0, kBlock.find("1 <")), tail = kBlock.substr(kBlock.find("</"));
  const Output out = parse_every_way(sample(head) + ordinary(value) + sample(tail), format(false));
  ASSERT_EQ(out.calls.size(), 1u);
  EXPECT_EQ(JsonValue::parse(out.calls[0].second)->find("x")->as_string(), value);
}

TEST(OutputParser, Par6ThinkTokensInsideAValueAreItsText) {
  const std::string head = kBlock.substr(0, kBlock.find("1 <")), tail = kBlock.substr(kBlock.find("</"));
  const Output out = answering(head + "a<think>b</think>c" + tail);
  ASSERT_EQ(out.calls.size(), 1u);
  EXPECT_EQ(out.calls[0].second, R"({"x": "a<think>b</think>c"})");
}

TEST(OutputParser, Par6BytesThatAreNotUtf8StillGiveJson) {
  const std::string head = kBlock.substr(0, kBlock.find("1 <")), tail = kBlock.substr(kBlock.find("</"));
  EXPECT_EQ(answering(head + "a\xff\xe4\xb8" + tail).calls[0].second,
            "{\"x\": \"a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\"}");
}

TEST(OutputParser, Par7ABlockNobodyAskedForIsRemoved) {
  OutputFormat none = format(false);
  none.tools.clear();
  for (const OutputFormat& f : {format(false, ToolChoice::kNone), none}) {
    Output out = parse_every_way(sample("a\n\n" + kBlock), f);
    EXPECT_EQ(out.content, "a");
    EXPECT_TRUE(out.calls.empty());
    EXPECT_EQ(out.finish, FinishReason::kStop);
    EXPECT_EQ(out.block, "");
    out = parse_every_way(sample("a\n\n" + kBlock + "\nb" + kBlock + "  "), f);
    EXPECT_EQ(out.content, "a\n\n\nb");
    EXPECT_EQ(parse_every_way(sample("a" + kBlock.substr(0, 60)), f).content, "a");
    EXPECT_EQ(parse_every_way(sample("a <｜DSML｜calls x=\"1\">b"), f).content, "a b");
    EXPECT_EQ(parse_every_way(sample("a<｜DSML｜too"), f).content, "a");
  }
  OutputFormat f = format(true, ToolChoice::kNone);
  const Output out = parse_every_way(sample("r " + kBlock + "s</think>c" + kBlock), f);
  EXPECT_EQ(out.reasoning, "r s");
  EXPECT_EQ(out.content, "c");
  EXPECT_TRUE(parse_every_way(sample("r" + kBlock), f).calls.empty());
}

TEST(OutputParser, Par8FinishReasons) {
  EXPECT_EQ(answering("a").finish, FinishReason::kStop);
  EXPECT_EQ(answering("a", EndCause::kLength).finish, FinishReason::kLength);
  EXPECT_EQ(answering(kBlock).finish, FinishReason::kToolCalls);
  EXPECT_EQ(answering(kBlock, EndCause::kLength).finish, FinishReason::kToolCalls);
  EXPECT_EQ(thinking("a", EndCause::kLength).finish, FinishReason::kLength);
}

TEST(OutputParser, CountsEveryByteThatItDrops) {
  const auto dropped = [](const Sample& pieces, const OutputFormat& f) {
    OutputParser parser(f);
    for (const Piece& p : pieces) (void)parser.push(p.text, p.kind);
    (void)parser.finish(EndCause::kStop);
    return parser.dropped();
  };
  const std::string stray = "</｜DSML｜invoke>";
  const DroppedBytes none_offered =
      dropped(sample("a" + kBlock + "b" + stray + "<think>") + Sample{{"<｜User｜>", TextKind::kSpecial}},
              format(false, ToolChoice::kNone));
  EXPECT_EQ(none_offered.removed_blocks, kBlock.size());
  EXPECT_EQ(none_offered.stray_tags, stray.size());
  EXPECT_EQ(none_offered.think_tokens, kThinkText.size());
  EXPECT_EQ(none_offered.special_tokens, std::string("<｜User｜>").size());
  EXPECT_EQ(none_offered.after_block, 0u);
  EXPECT_EQ(dropped(sample(kBlock + "\nx" + stray), format(false)).after_block, 2 + stray.size());
}

// A model that repeats itself up to its limit must not cost more than the text is long.
TEST(OutputParser, RepeatedClosingTagsAreReadOnce) {
  OutputParser parser(format(false));
  for (const Piece& p : sample("<｜DSML｜tool_calls>\n")) (void)parser.push(p.text, p.kind);
  const Sample again = sample("</｜DSML｜invoke>\n");
  for (int i = 0; i < 100000; ++i) {
    for (const Piece& p : again) ASSERT_TRUE(parser.push(p.text, p.kind).empty());
  }
  EXPECT_TRUE(parser.finish(EndCause::kLength).empty());
}

TEST(OutputParser, TextAfterTheEndTokenIsIgnored) {
  const Output out = answering("a<｜end▁of▁sentence｜>b</think>" + kBlock);
  EXPECT_EQ(out.content, "a");
  EXPECT_TRUE(out.calls.empty());
}

}  // namespace
}  // namespace kvasir
