// Message lists in JSON: what is taken, and what is refused with its place.
#include "text/chat_json.h"

#include <gtest/gtest.h>

namespace kvasir {
namespace {

Result<Conversation> read(std::string_view json, OtherParts other_parts = OtherParts::kReject) {
  auto value = JsonValue::parse(json);
  if (!value) return value.error();
  return conversation_from_json(*value, other_parts);
}

std::string error_of(std::string_view json) {
  auto c = read(json);
  return c ? "no error" : c.error().message;
}

TEST(ChatJson, ReadsEveryFieldOfAMessage) {
  auto c = read(
      R"({"model":"x","tool_choice":"none","tools":[{"type":"function","function":{"name":"f"}}],"messages":[
      {"role":"developer","content":"d","tools":[{"function":{"name":"g"}}],"response_format":{"type":"object"}},
      {"role":"assistant","content":null,"reasoning":"why","wo_eos":true,
       "tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]},
      {"role":"tool","tool_call_id":"c1","content":[{"type":"text","text":"a"},{"type":"text"}]},
      {"role":"user","content":"u","task":"title"},{"role":"latest_reminder","content":"now"}]})");
  ASSERT_TRUE(c) << c.error().message;
  ASSERT_EQ(c->messages.size(), 5u);
  EXPECT_EQ(c->tool_choice, ToolChoice::kNone);
  EXPECT_EQ(c->tools.at(0).dump(), R"({"name": "f"})");
  EXPECT_EQ(c->messages[0].tools.at(0).dump(), R"({"name": "g"})");
  EXPECT_EQ(c->messages[0].response_format->dump(), R"({"type": "object"})");
  EXPECT_EQ(c->messages[1].content, "");
  EXPECT_EQ(c->messages[1].reasoning, "why");
  EXPECT_TRUE(c->messages[1].open_ended);
  EXPECT_EQ(c->messages[1].tool_calls.at(0).id, "c1");
  EXPECT_EQ(c->messages[1].tool_calls.at(0).arguments.as_string(), "{}");
  EXPECT_EQ(c->messages[2].tool_call_id, "c1");
  EXPECT_EQ(c->messages[2].content, "a\n\n");
  EXPECT_EQ(c->messages[3].task, MessageTask::kTitle);
  EXPECT_EQ(c->messages[4].role, Role::kLatestReminder);
}

TEST(ChatJson, ReasoningContentWinsOverItsAliasAndEmptyIsNotAbsent) {
  auto c = read(R"([{"role":"assistant","reasoning_content":"","reasoning":"b"},
                    {"role":"assistant","reasoning_content":null},{"role":"assistant"}])");
  ASSERT_TRUE(c);
  EXPECT_EQ(c->messages[0].reasoning, "");
  EXPECT_FALSE(c->messages[1].reasoning);
  EXPECT_FALSE(c->messages[2].reasoning);
}

TEST(ChatJson, Enc5RejectsOtherPartsOrMarksTheirPlace) {
  const char* json =
      R"([{"role":"user","content":[{"type":"image_url","image_url":{}},{"type":"text","text":"t"}]}])";
  auto rejected = read(json);
  ASSERT_FALSE(rejected);
  EXPECT_EQ(rejected.error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(rejected.error().message,
            "messages[0].content[0]: parts of type \"image_url\" are not supported, expected \"text\"");
  EXPECT_EQ(read(json, OtherParts::kPlaceholder)->messages[0].content, "[Unsupported image_url]\n\nt");
}

TEST(ChatJson, NamesThePlaceOfAnError) {
  EXPECT_EQ(error_of("7"),
            "conversation: expected an array of messages or an object with \"messages\", saw nothing");
  EXPECT_EQ(error_of("[3]"), "messages[0]: expected a message object, saw a number");
  EXPECT_EQ(error_of(R"([{"role":"user"},{"role":"tester"}])"),
            "messages[1].role: expected one of system, developer, user, assistant, tool, latest_reminder, "
            "saw \"tester\"");
  EXPECT_EQ(error_of(R"([{}])").substr(0, 27), "messages[0].role: expected ");
  EXPECT_EQ(error_of(R"([{"role":"user","content":{}}])"),
            "messages[0].content: expected a string or an array of parts, saw an object");
  EXPECT_EQ(error_of(R"([{"role":"user","content":["x"]}])"),
            "messages[0].content[0]: expected an object with a \"type\", saw \"x\"");
  EXPECT_EQ(error_of(R"([{"role":"assistant","tool_calls":[{"function":{}}]}])"),
            "messages[0].tool_calls[0].function.name: expected a string, saw nothing");
  EXPECT_EQ(error_of(R"([{"role":"assistant","prefix":"yes"}])"),
            "messages[0].prefix: expected true or false, saw \"yes\"");
  EXPECT_EQ(
      error_of(R"([{"role":"user","task":"cook"}])"),
      "messages[0].task: expected one of action, query, authority, domain, title, read_url, saw \"cook\"");
  EXPECT_EQ(error_of(R"({"messages":[],"tools":[{"type":"web_search"}]})"),
            "tools[0]: expected an object with a \"function\" that has a \"name\", saw an object");
}

}  // namespace
}  // namespace kvasir
