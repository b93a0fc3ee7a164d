// Responses requests: what is taken, and what is refused with its place.
#include "api/api_fixture_test.h"

namespace kvasir {
namespace {

std::string with_input(std::string_view input, std::string_view more = "") {
  return R"({"model":"m","input":)" + std::string(input) + std::string(more) + "}";
}
std::string text_of(std::string_view body) { return prompt_text(parsed(parse_responses, body)); }
const std::string kEnd = "<｜Assistant｜><think>";

TEST(ResponsesRequest, ReadsEveryField) {
  const ChatRequest r =
      parsed(parse_responses,
             with_input("\"q\"", R"(,"instructions":"SYS","reasoning":{"effort":"low","summary":"auto"},
      "max_output_tokens":77,"text":{"verbosity":"low","format":{"type":"json_schema","name":"n","strict":true,
      "schema":{"type":"object"}}},"include":["reasoning.encrypted_content","message.output_text.logprobs"],
      "top_logprobs":2,"stream":true,"store":false,"prompt_cache_key":"conv-1","client_metadata":{"a":1},
      "parallel_tool_calls":true,"truncation":"auto","background":false,"previous_response_id":null,
      "tools":[{"type":"function","name":"f","strict":true,"parameters":{}}],"tool_choice":{"type":"function","name":"f"})"),
             {.revision = TemplateRevision::kB});
  EXPECT_EQ(r.dialect, Dialect::kResponses);
  EXPECT_EQ(r.render.effort, Effort::kLow);
  EXPECT_EQ(r.max_tokens, 77);
  EXPECT_TRUE(r.stream && r.encrypted_reasoning);
  EXPECT_EQ(r.sampling.top_logprobs, 2);
  EXPECT_EQ(r.session_id, "conv-1");
  EXPECT_EQ(r.reply_format.kind, ReplyFormat::Kind::kJsonSchema);
  EXPECT_EQ(r.forced_tool, "f");
  EXPECT_TRUE(r.tools.at(0).strict);
  EXPECT_EQ(r.conversation.messages.at(0).role, Role::kSystem);
}

TEST(ResponsesRequest, Sys1InstructionsAndLeadingDevelopersAreOneSystemText) {
  EXPECT_EQ(text_of(with_input(
                R"([{"type":"message","role":"developer","content":[{"type":"input_text","text":"B"}]},
      {"role":"developer","content":"C"},{"role":"user","content":[{"type":"input_text","text":"q"}]}])",
                R"(,"instructions":"A")")),
            "<｜begin▁of▁sentence｜>A\n\nB\n\nC<｜User｜>q" + kEnd);
}

TEST(ResponsesRequest, Sys2ALaterDeveloperMessageStaysInPlace) {
  EXPECT_TRUE(text_of(with_input(R"([{"role":"user","content":"q"},{"role":"developer","content":"D"}])"))
                  .ends_with("<｜User｜>q\n\n<system-reminder>\nD\n</system-reminder>" + kEnd));
}

TEST(ResponsesRequest, NoneSwitchesThinkingOff) {
  EXPECT_FALSE(parsed(parse_responses, with_input("\"q\"", R"(,"reasoning":{"effort":"none"})")).thinks());
}

TEST(ResponsesRequest, StoredStateIsRefusedNotIgnored) {
  EXPECT_EQ(parse_error(parse_responses, with_input("\"q\"", R"(,"previous_response_id":"resp_1")")),
            "previous_response_id: expected nothing: responses are not stored, send the full input, saw "
            "\"resp_1\"");
  EXPECT_EQ(parse_error(parse_responses, with_input("\"q\"", R"(,"conversation":"c")")),
            "conversation: expected nothing: responses are not stored, send the full input, saw \"c\"");
}

TEST(ResponsesRequest, Rsp1UnknownToolsAndItemsAreNeverAnError) {
  const ChatRequest r =
      parsed(parse_responses, with_input(R"([{"type":"web_search_call","id":"ws","status":"completed"},
      {"type":"agent_message","content":"from an agent"},{"type":"tool_search_output","x":1},{"type":"item_reference","id":"i"},
      {"role":"user","content":"q"}])",
                                         R"(,"tools":[{"type":"web_search"},{"type":"local_shell"},
      {"type":"mcp","server_label":"x"},{"type":"namespace","name":"n","tools":[{"type":"computer"}]},{"type":"function","name":"f"}])"));
  ASSERT_EQ(r.tools.size(), 1u);
  ASSERT_EQ(r.conversation.messages.size(), 2u);
  EXPECT_EQ(r.conversation.messages[0].content, "from an agent");
}

TEST(ResponsesRequest, Rsp1AdditionalToolsInTheInputAreTools) {
  const ChatRequest r =
      parsed(parse_responses, with_input(R"([{"type":"additional_tools","tools":[{"type":"function",
      "name":"late"}]},{"role":"user","content":"q"}])"));
  EXPECT_EQ(r.tools.at(0).name, "late");
}

TEST(ResponsesRequest, Rsp2NamespacesAreFlattenedInPromptAndHistory) {
  const ChatRequest r = parsed(parse_responses, with_input(R"([{"role":"user","content":"q"},
      {"type":"function_call","id":"fc","call_id":"c1","name":"spawn","namespace":"agents","arguments":"{}"},
      {"type":"function_call_output","call_id":"c1","output":"ok"}])",
                                                           R"(,"tools":[{"type":"namespace","name":"agents",
      "tools":[{"type":"function","name":"spawn","description":"d","parameters":{"type":"object"}}]}])"));
  EXPECT_EQ(r.conversation.tools.at(0).dump(),
            R"({"name": "agents__spawn", "description": "d", "parameters": {"type": "object"}})");
  EXPECT_EQ(r.conversation.messages.at(1).tool_calls.at(0).name, "agents__spawn");
}

TEST(ResponsesRequest, Rsp3CustomToolsAreFunctionsOfOneString) {
  const ChatRequest r = parsed(parse_responses, with_input(R"([{"role":"user","content":"q"},
      {"type":"custom_tool_call","id":"x","call_id":"c1","name":"apply_patch","input":"*** Begin"},
      {"type":"custom_tool_call_output","call_id":"c1","output":[{"type":"input_text","text":"ok"}]}])",
                                                           R"(,"tools":[{"type":"custom","name":"apply_patch",
      "description":"Edit.","format":{"type":"grammar","syntax":"lark","definition":"start: X"}}])"));
  EXPECT_TRUE(r.tools.at(0).custom);
  EXPECT_EQ(r.conversation.tools.at(0).dump(),
            R"({"name": "apply_patch", "description": "Edit.\n\nstart: X", "parameters": {"type": "object", )"
            R"("properties": {"input": {"type": "string"}}, "required": ["input"]}})");
  EXPECT_NE(prompt_text(r).find("name=\"input\" string=\"true\">*** Begin</"), std::string::npos);
  EXPECT_EQ(r.conversation.messages.at(2).content, "ok");
}

TEST(ResponsesRequest, Rsp4ReasoningMessageAndCallsAreOneMessageAndOutputsOneTurn) {
  const std::string text = text_of(with_input(R"([{"role":"user","content":"q"},
      {"type":"reasoning","id":"rs","summary":[{"type":"summary_text","text":"S"}],
       "content":[{"type":"reasoning_text","text":"R"}],"encrypted_content":"e"},
      {"type":"message","role":"assistant","content":[{"type":"output_text","text":"T","annotations":[]}]},
      {"type":"function_call","call_id":"c1","name":"f","arguments":"{}"},
      {"type":"function_call","call_id":"c2","name":"f","arguments":"{}"},
      {"type":"function_call_output","call_id":"c1","output":"1"},
      {"type":"function_call_output","call_id":"c2","output":"2"},
      {"type":"reasoning","id":"rs2","summary":[]},{"type":"message","role":"assistant","content":"done"},
      {"role":"user","content":"more"}])",
                                              R"(,"tools":[{"type":"function","name":"f"}])"));
  const size_t at = text.find("<｜User｜>q");
  EXPECT_EQ(
      text.substr(at),
      "<｜User｜>q<｜Assistant｜><think>R</think>T\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n\n"
      "</｜DSML｜invoke>\n<｜DSML｜invoke name=\"f\">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
      "<｜end▁of▁sentence｜><｜User｜><tool_result>1</tool_result>\n\n<tool_result>2</tool_result>"
      "<｜Assistant｜><think></think>done<｜end▁of▁sentence｜><｜User｜>more" +
          kEnd);
}

TEST(ResponsesRequest, Enc6ASummaryStandsInForMissingReasoning) {
  const ChatRequest r = parsed(parse_responses, with_input(R"([{"role":"user","content":"q"},
      {"type":"reasoning","summary":[{"type":"summary_text","text":"S"}]},{"role":"assistant","content":"T"},
      {"role":"user","content":"r"}])"));
  EXPECT_EQ(r.conversation.messages.at(1).reasoning, "S");
}

TEST(ResponsesRequest, SaysWhereWhatAndInsteadOfWhat) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({"model":"m"})", "input: expected a string or an array of at least one item, saw nothing"},
      {with_input("[1]"), "input[0]: expected an object, saw 1"},
      {with_input(R"([{"role":"bard","content":"q"}])"),
       "input[0].role: expected \"user\", \"assistant\", \"system\" or \"developer\", saw \"bard\""},
      {with_input(R"([{"type":"function_call","name":"f"}])"),
       "input[0].call_id: expected a string that is not empty, saw nothing"},
      {with_input(R"([{"role":"user","content":[{"type":"input_image","image_url":"x"}]}])"),
       "input[0].content[0]: parts of type \"input_image\" are not supported, expected text"},
      {with_input("\"q\"", R"(,"text":{"format":{"type":"xml"}})"),
       "text.format.type: expected \"text\", \"json_object\" or \"json_schema\", saw \"xml\""},
      {with_input("\"q\"", R"(,"reasoning":{"effort":"vast"})"),
       "reasoning.effort: expected one of none, minimal, low, medium, high, xhigh, max, ultra, saw \"vast\""},
      {with_input("\"q\"", R"(,"tool_choice":"maybe")"),
       "tool_choice: expected \"none\", \"auto\", \"required\" or a tool by name, saw \"maybe\""}};
  for (const auto& [body, message] : cases) EXPECT_EQ(parse_error(parse_responses, body), message) << body;
}

}  // namespace
}  // namespace kvasir
