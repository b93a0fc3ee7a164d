// The chat template against the published prompts, and our server's rules against the same list: a case
// renders the same through both, unless this file says how and why our prompt differs.
#include <set>

#include "text/golden_cases_test.h"
#include "text/special_text.h"

namespace kvasir {
namespace {

const std::string kCallF =
    "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n{P}\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";

void replace(std::string& text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  KVASIR_CHECK(at != std::string::npos && text.find(from, at + 1) == std::string::npos, "{} once in {}", from,
               text);
  text.replace(at, from.size(), to);
}

// The prompt that our server makes of a case: the reference's, but for the rules named here.
std::string server_prompt(const GoldenCase& c) {
  const std::string name = c.name.substr(0, c.name.size() - 2);
  std::string p = c.prompt;
  const std::string a(kAssistantText), u(kUserText), think(kThinkText), end_think(kEndThinkText);
  if (name == "args_empty_string") {  // ENC-7
    replace(p, "<｜DSML｜parameter name=\"arguments\" string=\"true\"></｜DSML｜parameter>", "");
  } else if (name == "two_leading_systems") {  // SYS-1
    replace(p, "SYSSYS2", "SYS\n\nSYS2");
  } else if (name == "system_after_user_reference_bug") {  // SYS-2
    replace(p, "qMID", "q\n\n<system-reminder>\nMID\n</system-reminder>" + a + think);
  } else if (name == "system_between_users_reference_bug") {
    replace(p, "qMID" + u + "q2", "q\n\n<system-reminder>\nMID\n</system-reminder>\n\nq2");
  } else if (name == "system_after_assistant") {
    replace(p, "MID" + u + "q2", u + "<system-reminder>\nMID\n</system-reminder>\n\nq2");
  } else if (name == "trailing_assistant_closed" || name == "task_title_completed") {  // ENC-8
    p += a + end_think;
  } else if (c.name == "official_1" || c.name == "official_2" || c.name == "official_3") {
    p += a + think;
  } else if (c.name == "official_4") {
    p += a + end_think;
  }
  return p;
}

class GoldenPrompt : public testing::TestWithParam<GoldenCase> {};

TEST_P(GoldenPrompt, IsTheReferencesByteForByte) {
  const GoldenCase& c = GetParam();
  auto prompt = render_messages(c.conversation.messages, c.options);
  ASSERT_TRUE(prompt) << c.name << ": " << prompt.error().message;
  if (!c.reference_fails) {
    EXPECT_TRUE(same_bytes(c.name, prompt->text, c.prompt));
    return;
  }
  // ENC-7: the reference crashes on arguments that are a JSON array; ours keeps their text.
  std::string call = kCallF;
  replace(call, "{P}", "<｜DSML｜parameter name=\"arguments\" string=\"true\">[1]</｜DSML｜parameter>");
  EXPECT_NE(prompt->text.find("r</think>" + call + "<｜end▁of▁sentence｜>"), std::string::npos)
      << prompt->text;
}

TEST_P(GoldenPrompt, IsTheServersUnlessARuleSaysOtherwise) {
  const GoldenCase& c = GetParam();
  auto prompt = render_chat(c.conversation, c.options);
  ASSERT_TRUE(prompt) << c.name << ": " << prompt.error().message;
  if (!c.reference_fails) {
    EXPECT_TRUE(same_bytes(c.name, prompt->text, server_prompt(c)));
  }
  EXPECT_EQ(prompt->in_reasoning, prompt->text.ends_with(kThinkText)) << c.name;
}

// TOK-2: each client text is a protected range of its own, and no structure is inside one.
TEST_P(GoldenPrompt, ProtectsWhatClientsWroteAndNothingElse) {
  const GoldenCase& c = GetParam();
  auto prompt = render_messages(c.conversation.messages, c.options);
  ASSERT_TRUE(prompt);
  std::set<std::string> clients;
  size_t at = 0;
  for (const ByteRange& range : prompt->protected_ranges) {
    ASSERT_LE(at, range.begin) << c.name;
    ASSERT_LT(range.begin, range.end) << c.name;
    at = range.end;
    ASSERT_LE(at, prompt->text.size()) << c.name;
    clients.insert(prompt->text.substr(range.begin, range.end - range.begin));
  }
  for (const std::string& text : clients) {
    for (std::string_view ours : {kBosText, kEosText, kUserText, kAssistantText, kDsmlText, kThinkText,
                                  kEndThinkText, kLatestReminderText, std::string_view("<tool_result>")}) {
      EXPECT_EQ(text.find(ours), std::string::npos) << c.name << ": " << text;
    }
  }
  for (const Message& m : c.conversation.messages) {
    if (m.content.empty() || m.role == Role::kDeveloper) continue;  // developer messages may be dropped
    EXPECT_EQ(clients.count(m.content), 1u) << c.name << ": " << m.content;
  }
}

INSTANTIATE_TEST_SUITE_P(Encoding, GoldenPrompt, testing::ValuesIn(golden_cases()), golden_case_name);

TEST(GoldenPrompts, AreAllThere) {
  EXPECT_EQ(official_cases().size(), 4u);
  EXPECT_EQ(derived_cases().size(), 101u);
}

}  // namespace
}  // namespace kvasir
