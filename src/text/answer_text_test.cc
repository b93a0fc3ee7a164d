// Answers of the golden tokenizer, token by token.
#include "text/answer_text.h"

#include <gtest/gtest.h>

#include "text/tokenizer_test_data.h"

namespace kvasir {
namespace {

struct Shown {
  std::string reasoning, content, arguments;
  std::vector<std::string> calls;
  void add(const std::vector<Delta>& deltas) {
    for (const Delta& d : deltas) {
      if (d.kind == Delta::Kind::kReasoning) reasoning += d.text;
      if (d.kind == Delta::Kind::kContent) content += d.text;
      if (d.kind == Delta::Kind::kArguments) arguments += d.text;
      if (d.kind == Delta::Kind::kToolCall) calls.push_back(d.text);
    }
  }
};

OutputFormat weather_format() {
  OutputFormat format;
  format.in_reasoning = true;
  format.tools.push_back(*JsonValue::parse(
      R"({"name":"weather","parameters":{"type":"object","properties":{"city":{"type":"string"}}}})"));
  return format;
}

Shown run(AnswerText& answer, std::string_view text) {
  Shown shown;
  for (TokenId id : v4_tokenizer().encode(text)) {
    shown.add(answer.push(id));
    if (answer.is_done()) break;
  }
  shown.add(answer.finish(EndCause::kStop));
  return shown;
}

TEST(AnswerText, ReasoningContentAndCallsComeApart) {
  AnswerText answer(v4_tokenizer(), weather_format(), {});
  Shown shown = run(answer,
                    "héllo</think>First 🙂.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"weather\">\n"
                    "<｜DSML｜parameter name=\"city\" "
                    "string=\"true\">Oslo</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>");
  EXPECT_EQ(shown.reasoning, "héllo");
  EXPECT_EQ(shown.content, "First 🙂.");
  EXPECT_EQ(shown.calls, std::vector<std::string>{"weather"});
  EXPECT_EQ(shown.arguments, R"({"city": "Oslo"})");
  EXPECT_TRUE(answer.is_done());
}

TEST(AnswerText, StopStringsEndContentAndLeaveReasoningAlone) {
  AnswerText answer(v4_tokenizer(), weather_format(), {"END"});
  Shown shown = run(answer, "an END here</think>before END after");
  EXPECT_EQ(shown.reasoning, "an END here");
  EXPECT_EQ(shown.content, "before ");
  ASSERT_NE(answer.stop_string(), nullptr);
  EXPECT_EQ(*answer.stop_string(), "END");
}

TEST(AnswerText, ATailThatOnlyBeginsAStopStringIsShownBeforeACall) {
  AnswerText answer(v4_tokenizer(), weather_format(), {"ENDING"});
  Shown shown = run(answer,
                    "r</think>the END\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke "
                    "name=\"weather\">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>");
  EXPECT_EQ(shown.content, "the END");
  EXPECT_EQ(shown.calls.size(), 1u);
}

TEST(AnswerText, ARawAnswerShowsEverything) {
  AnswerText answer(v4_tokenizer(), std::nullopt, {});
  EXPECT_EQ(run(answer, "a</think>b").content, "a</think>b");
}

}  // namespace
}  // namespace kvasir
