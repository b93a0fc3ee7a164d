// Messages requests: what is taken, and what is refused with its place.
#include "api/api_fixture_test.h"

namespace kvasir {
namespace {

std::string with(std::string_view members) {
  return R"({"model":"m","max_tokens":32000,"messages":[{"role":"user","content":"q"}])" +
         std::string(members.empty() ? "" : ",") + std::string(members) + "}";
}
std::string with_messages(std::string_view messages, std::string_view more = "") {
  return R"({"model":"m","max_tokens":32000,"messages":)" + std::string(messages) + std::string(more) + "}";
}
std::string text_of(std::string_view body, const ApiOptions& options = {}) {
  return prompt_text(parsed(parse_messages, body, options));
}
constexpr std::string_view kTools =
    R"("tools":[{"name":"f","description":"d","input_schema":{"type":"object"}}])";

TEST(MessagesRequest, ReadsEveryField) {
  const ChatRequest r =
      parsed(parse_messages,
             with(R"("thinking":{"type":"enabled","budget_tokens":1},"output_config":{"effort":"max"},
      "stop_sequences":["x"],"top_k":5,"stream":true,"metadata":{"user_id":"{\"device\":\"a b\"}"},
      "tool_choice":{"type":"tool","name":"f","disable_parallel_tool_use":true},
      "context_management":{"edits":[]},"service_tier":"auto","container":null,"mcp_servers":[],)" +
                  std::string(kTools)));
  EXPECT_EQ(r.dialect, Dialect::kMessages);
  EXPECT_TRUE(r.thinks() && r.stream);
  EXPECT_EQ(r.render.effort, Effort::kMax);
  EXPECT_EQ(r.max_tokens, 32000);
  EXPECT_EQ(r.stop, std::vector<std::string>{"x"});
  EXPECT_EQ(r.sampling.top_k, 5);
  EXPECT_EQ(r.user_id, R"({"device":"a b"})");
  EXPECT_EQ(r.tool_use, ToolUse::kNamed);
  EXPECT_EQ(r.forced_tool, "f");
  EXPECT_EQ(r.conversation.tools[0].dump(),
            R"({"name": "f", "description": "d", "parameters": {"type": "object"}})");
}

TEST(MessagesRequest, DisabledThinkingWinsOverEffort) {
  const ChatRequest r =
      parsed(parse_messages, with(R"("thinking":{"type":"disabled"},"output_config":{"effort":"high"})"));
  EXPECT_FALSE(r.thinks());
}

TEST(MessagesRequest, Sys1SystemBlocksAreOneTextWithoutTheBillingLine) {
  const std::string plain = text_of(with(R"("system":"A\n\nB")"));
  EXPECT_TRUE(plain.starts_with("<｜begin▁of▁sentence｜>A\n\nB<｜User｜>")) << plain;
  EXPECT_EQ(text_of(with(R"("system":[{"type":"text","text":"A"},{"type":"text","text":"B",
      "cache_control":{"type":"ephemeral"}}])")),
            plain);
  EXPECT_EQ(
      text_of(with(
          R"("system":[{"type":"text","text":"x-anthropic-billing-header: cc_version=2.1.197.0ab; )"
          R"(cc_entrypoint=sdk-cli; cch=12345;"},{"type":"text","text":"A"},{"type":"text","text":"B"}])")),
      plain);
}

// The two requests differ in that line alone, so they share the whole prefix.
TEST(MessagesRequest, Ant1TheBillingLineNeverReachesThePrompt) {
  const auto body = [](std::string_view hash) {
    return with(R"("system":"x-anthropic-billing-header: cc_version=1.)" + std::string(hash) +
                R"(;\nA\n\nB")");
  };
  EXPECT_EQ(text_of(body("abc")), text_of(body("def")));
  EXPECT_EQ(text_of(body("abc")), text_of(with(R"("system":"A\n\nB")")));
  EXPECT_EQ(text_of(with(R"("system":"x-anthropic-billing-header: x")")), text_of(with("")));
}

TEST(MessagesRequest, Ant2UnknownFieldsAndServerToolsAreSkipped) {
  const std::string tools = R"("tools":[{"type":"web_search_20250305","name":"web_search","max_uses":5},
      {"type":"custom","name":"f","description":"d","input_schema":{"type":"object"},"cache_control":{},"x":1}],"y":{})";
  const ChatRequest r = parsed(parse_messages, with(tools));
  ASSERT_EQ(r.tools.size(), 1u);
  EXPECT_EQ(prompt_text(r), text_of(with(kTools)));
}

TEST(MessagesRequest, Ant3CountsTheTokensOfThePromptThatWouldBeBuilt) {
  const std::string body =
      R"({"model":"m","messages":[{"role":"user","content":"Hello, world!"}],)" + std::string(kTools) + "}";
  const std::string full =
      R"({"model":"m","max_tokens":5,"stream":true,"messages":[{"role":"user","content":"Hello, world!"}],)" +
      std::string(kTools) + "}";
  const size_t tokens = prompt_of(parsed(parse_messages, full)).ids.size();
  EXPECT_EQ(prompt_of(parsed(parse_messages, body)).ids.size(), tokens);
  EXPECT_EQ(token_count_body(static_cast<int64_t>(tokens)),
            "{\"input_tokens\":" + std::to_string(tokens) + "}");
}

TEST(MessagesRequest, Sys2SystemMessagesStayInPlace) {
  const std::string first = text_of(with_messages(
      R"([{"role":"user","content":"q"},{"role":"system","content":"MID"}])", "," + std::string(kTools)));
  EXPECT_TRUE(
      first.ends_with("<｜User｜>q\n\n<system-reminder>\nMID\n</system-reminder><｜Assistant｜><think>"));
  const std::string next = text_of(with_messages(R"([{"role":"user","content":[{"type":"text","text":"q"}]},
      {"role":"system","content":[{"type":"text","text":"MID"}]},
      {"role":"assistant","content":[{"type":"thinking","thinking":"r","signature":"s"},
        {"type":"tool_use","id":"t1","name":"f","input":{}}]},
      {"role":"user","content":[{"type":"tool_result","tool_use_id":"t1","content":"done"}]},
      {"role":"system","content":"<total_tokens>9 tokens left</total_tokens>"}])",
                                                 "," + std::string(kTools)));
  EXPECT_TRUE(next.starts_with(first)) << next;
  EXPECT_TRUE(
      next.ends_with("<｜User｜><tool_result>done</tool_result>\n\n<system-reminder>\n<total_tokens>9 tokens "
                     "left</total_tokens>\n</system-reminder><｜Assistant｜><think>"));
}

TEST(MessagesRequest, Enc4BlocksAndStringsAreTheSame) {
  EXPECT_EQ(
      text_of(with_messages(R"([{"role":"user","content":[{"type":"text","text":"q","citations":null}]}])")),
      text_of(with("")));
  const auto result = [](std::string_view content) {
    return text_of(with_messages(R"([{"role":"user","content":"q"},{"role":"assistant","content":[
        {"type":"tool_use","id":"t","name":"f","input":{"a":1}}]},{"role":"user","content":[
        {"type":"tool_result","tool_use_id":"t","is_error":true,"content":)" +
                                 std::string(content) + "}]}]"));
  };
  EXPECT_EQ(result("\"r\""), result(R"([{"type":"text","text":"r"}])"));
  EXPECT_NE(result("\"r\"").find("<tool_result>r</tool_result>"), std::string::npos);
}

TEST(MessagesRequest, Enc5ImagesAreRefusedOrNamed) {
  const std::string image = R"([{"role":"user","content":[{"type":"image","source":{}}]}])";
  EXPECT_EQ(parse_error(parse_messages, with_messages(image)),
            "messages[0].content[0]: parts of type \"image\" are not supported, expected text");
  EXPECT_NE(text_of(with_messages(image), {.other_parts = OtherParts::kPlaceholder})
                .find("<｜User｜>[Unsupported image]<"),
            std::string::npos);
}

TEST(MessagesRequest, Enc6ThinkingBlocksAreJoinedWhateverTheirSignature) {
  const ChatRequest r =
      parsed(parse_messages, with_messages(R"([{"role":"user","content":"q"},{"role":"assistant","content":[
      {"type":"thinking","thinking":"a"},{"type":"redacted_thinking","data":"x"},
      {"type":"thinking","thinking":"b","signature":"foreign"},{"type":"text","text":"t"}]},{"role":"user","content":"r"}])"));
  EXPECT_EQ(r.conversation.messages[1].reasoning, "ab");
  EXPECT_EQ(r.conversation.messages[1].content, "t");
}

TEST(MessagesRequest, Enc8APrefillIsContinued) {
  EXPECT_TRUE(text_of(with_messages(R"([{"role":"user","content":"q"},{"role":"assistant","content":"{"}])",
                                    R"(,"thinking":{"type":"disabled"})"))
                  .ends_with("<｜User｜>q<｜Assistant｜></think>{"));
}

TEST(MessagesRequest, Thk3StrictHasItsOwnText) {
  const std::string body = with_messages(R"([{"role":"user","content":"q"},{"role":"assistant","content":[
      {"type":"tool_use","id":"t","name":"f","input":{}}]}])",
                                         "," + std::string(kTools));
  EXPECT_EQ(parse_error(parse_messages, body, {.require_reasoning = true}),
            "The `content[].thinking` in the thinking mode must be passed back to the API.");
}

TEST(MessagesRequest, SaysWhereWhatAndInsteadOfWhat) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({"model":"m"})", "messages: expected an array of at least one message, saw nothing"},
      {with_messages(R"([{"role":"user","content":7}])"),
       "messages[0].content: expected a string or an array of blocks, saw 7"},
      {with_messages(R"([{"role":"bard","content":"q"}])"),
       "messages[0].role: expected \"user\", \"assistant\" or \"system\", saw \"bard\""},
      {with_messages(R"([{"role":"user","content":["q"]}])"),
       "messages[0].content[0]: expected an object, saw \"q\""},
      {with_messages(R"([{"role":"user","content":[{"type":"tool_result"}]}])"),
       "messages[0].content[0].tool_use_id: expected a string that is not empty, saw nothing"},
      {with_messages(R"([{"role":"user","content":[]}])"),
       "messages: expected at least one block of content, saw an array"},
      {with(R"("tool_choice":{"type":"maybe"})"),
       "tool_choice.type: expected \"auto\", \"any\", \"tool\" or \"none\", saw \"maybe\""},
      {with(R"("tools":[{"name":"f","input_schema":[]}])"),
       "tools[0].parameters: expected a JSON schema object, saw an array"},
      {with(R"("output_config":{"effort":"vast"})"),
       "output_config.effort: expected one of none, minimal, low, medium, high, xhigh, max, ultra, saw "
       "\"vast\""},
      {with(R"("system":5)"), "system: expected a string or an array of text blocks, saw 5"}};
  for (const auto& [body, message] : cases) EXPECT_EQ(parse_error(parse_messages, body), message) << body;
}

}  // namespace
}  // namespace kvasir
