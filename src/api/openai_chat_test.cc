// Chat requests: what is taken, and what is refused with its place. Rules of protocol.md are in the tests'
// names.
#include "api/api_fixture_test.h"

namespace kvasir {
namespace {

const std::string kSys = "<｜begin▁of▁sentence｜>SYS";

// A request with these members around one user message.
std::string with(std::string_view members) {
  return R"({"model":"deepseek-v4-flash","messages":[{"role":"user","content":"q"}])" +
         std::string(members.empty() ? "" : ",") + std::string(members) + "}";
}
std::string with_messages(std::string_view messages, std::string_view more = "") {
  return R"({"model":"m","messages":)" + std::string(messages) + std::string(more) + "}";
}
constexpr std::string_view kTools =
    R"("tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}}}])";

TEST(ChatRequest, ReadsEveryField) {
  const ChatRequest r =
      parsed(parse_chat, with(R"("thinking":{"type":"disabled"},"max_tokens":100,"temperature":0.5,
    "top_p":0.9,"top_k":40,"min_p":0.1,"presence_penalty":0.25,"frequency_penalty":-0.5,"seed":-7,"logit_bias":{"5":-100,"19923":2.5},"logprobs":true,"top_logprobs":3,
    "stop":["a","b",""],"stream":true,"stream_options":{"include_usage":true},"user_id":"u-1_A","priority":"batch",
    "session_id":"s","response_format":{"type":"json_schema","json_schema":{"name":"n","strict":true,
    "schema":{"type":"object"}}},"tool_choice":{"type":"function","function":{"name":"f"}},"n":3,"store":false,)" +
                              std::string(kTools)));
  EXPECT_EQ(r.dialect, Dialect::kChat);
  EXPECT_EQ(r.model, "deepseek-v4-flash");
  EXPECT_FALSE(r.thinks());
  EXPECT_EQ(r.max_tokens, 100);
  EXPECT_FLOAT_EQ(r.sampling.temperature, 0.5f);
  EXPECT_FLOAT_EQ(r.sampling.top_p, 0.9f);
  EXPECT_EQ(r.sampling.top_k, 40);
  EXPECT_FLOAT_EQ(r.sampling.min_p, 0.1f);
  EXPECT_FLOAT_EQ(r.sampling.presence_penalty, 0.25f);
  EXPECT_FLOAT_EQ(r.sampling.frequency_penalty, -0.5f);
  EXPECT_TRUE(r.has_seed);
  EXPECT_EQ(r.sampling.seed, static_cast<uint64_t>(-7));
  EXPECT_EQ(r.sampling.logit_bias, (std::vector<std::pair<int32_t, float>>{{5, -100}, {19923, 2.5}}));
  EXPECT_EQ(r.sampling.top_logprobs, 3);
  EXPECT_EQ(r.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(r.stream && r.include_usage);
  EXPECT_EQ(r.user_id, "u-1_A");
  EXPECT_EQ(r.session_id, "s");
  EXPECT_EQ(r.priority, Priority::kBatch);
  EXPECT_EQ(r.reply_format.kind, ReplyFormat::Kind::kJsonSchema);
  EXPECT_EQ(r.reply_format.schema.dump(), R"({"type": "object"})");
  EXPECT_TRUE(r.reply_format.strict);
  EXPECT_EQ(r.tool_use, ToolUse::kNamed);
  EXPECT_EQ(r.forced_tool, "f");
}

TEST(ChatRequest, HasTheDefaultsOfTheVendor) {
  const ChatRequest r = parsed(parse_chat, with(""));
  EXPECT_TRUE(r.thinks());
  EXPECT_EQ(r.render.effort, Effort::kHigh);
  EXPECT_EQ(r.max_tokens, 65536);
  EXPECT_FLOAT_EQ(r.sampling.temperature, 1);
  EXPECT_EQ(r.sampling.top_logprobs, -1);
  EXPECT_FALSE(r.has_seed);
  EXPECT_EQ(r.tool_use, ToolUse::kNone);
  EXPECT_EQ(parsed(parse_chat, with(R"("reasoning_effort":"max")")).max_tokens, 131072);
  EXPECT_EQ(parsed(parse_chat, with(R"("thinking":{"type":"disabled"})")).max_tokens, 8192);
  EXPECT_EQ(parsed(parse_chat, with(R"("max_completion_tokens":32000)")).max_tokens, 32000);
  EXPECT_EQ(parsed(parse_chat, with(kTools)).tool_use, ToolUse::kAuto);
}

TEST(ChatRequest, StripsTheLongContextSuffixOfTheModel) {
  EXPECT_EQ(parsed(parse_chat, R"({"model":"x[1m]","messages":[{"role":"user","content":"q"}]})").model, "x");
}

TEST(ChatRequest, KnowsTheRetiredModelNames) {
  EXPECT_FALSE(
      parsed(parse_chat, R"({"model":"deepseek-chat","messages":[{"role":"user","content":"q"}]})").thinks());
  EXPECT_TRUE(
      parsed(parse_chat, R"({"model":"deepseek-reasoner","messages":[{"role":"user","content":"q"}]})")
          .thinks());
}

// Protocol 4.1, both columns of the table.
TEST(ChatRequest, MapsEffortsOfBothRevisions) {
  const std::vector<std::tuple<std::string, Effort, Effort>> table = {
      {"minimal", Effort::kHigh, Effort::kLow}, {"low", Effort::kHigh, Effort::kLow},
      {"medium", Effort::kHigh, Effort::kHigh}, {"high", Effort::kHigh, Effort::kHigh},
      {"xhigh", Effort::kMax, Effort::kHigh},   {"max", Effort::kMax, Effort::kMax},
      {"ultra", Effort::kMax, Effort::kMax}};
  for (const auto& [name, a, b] : table) {
    const std::string body = with(R"("reasoning_effort":")" + name + "\"");
    EXPECT_EQ(parsed(parse_chat, body, {.revision = TemplateRevision::kA}).render.effort, a) << name;
    EXPECT_EQ(parsed(parse_chat, body, {.revision = TemplateRevision::kB}).render.effort, b) << name;
  }
  EXPECT_EQ(
      parse_error(parse_chat, with(R"("reasoning_effort":"lots")")),
      "reasoning_effort: expected one of none, minimal, low, medium, high, xhigh, max, ultra, saw \"lots\"");
}

TEST(ChatRequest, DisabledThinkingWinsOverAnyEffort) {
  EXPECT_FALSE(
      parsed(parse_chat, with(R"("thinking":{"type":"disabled"},"reasoning_effort":"max")")).thinks());
  EXPECT_FALSE(parsed(parse_chat, with(R"("reasoning_effort":"none")")).thinks());
  EXPECT_FALSE(parsed(parse_chat, with(R"("reasoning_effort":"off")")).thinks());
  EXPECT_TRUE(parsed(parse_chat, with(R"("thinking":{"type":"adaptive"})")).thinks());
}

TEST(ChatRequest, IgnoresTemperatureInThinkingModeUnlessTold) {
  const std::string body = with(R"("temperature":0,"top_p":0.5,"presence_penalty":1,"frequency_penalty":1)");
  EXPECT_FLOAT_EQ(parsed(parse_chat, body).sampling.presence_penalty, 0);
  EXPECT_FLOAT_EQ(parsed(parse_chat, body).sampling.frequency_penalty, 0);
  EXPECT_FLOAT_EQ(parsed(parse_chat, body, {.sampling_in_thinking = true}).sampling.frequency_penalty, 1);
  EXPECT_FLOAT_EQ(parsed(parse_chat, body).sampling.temperature, 1);
  EXPECT_FLOAT_EQ(parsed(parse_chat, body).sampling.top_p, 1);
  EXPECT_FLOAT_EQ(parsed(parse_chat, body, {.sampling_in_thinking = true}).sampling.temperature, 0);
}

// ENC-1, ENC-3: the function object as received, after the system text, made if there is none.
TEST(ChatRequest, Enc1AndEnc3ToolsGoOnTheSystemMessageAsReceived) {
  const std::string tool =
      R"({"type":"function","function":{"parameters":{"b":1,"a":1.50},"name":"f","strict":false}})";
  const std::string text = prompt_text(parsed(parse_chat, with(R"("tools":[)" + tool + "]")));
  EXPECT_TRUE(text.starts_with("<｜begin▁of▁sentence｜>\n\n## Tools\n")) << text;
  EXPECT_NE(text.find("\n\n{\"parameters\": {\"b\": 1, \"a\": 1.5}, \"name\": \"f\", \"strict\": false}\n"),
            std::string::npos);
  const std::string with_system = prompt_text(
      parsed(parse_chat, with_messages(R"([{"role":"system","content":"SYS"},{"role":"user","content":"q"}])",
                                       R"(,"tools":[)" + tool + "]")));
  EXPECT_TRUE(with_system.starts_with(kSys + "\n\n## Tools\n")) << with_system;
}

// Protocol 10, item 19.
TEST(ChatRequest, KeepsTheOrderOfToolsUnlessToldToSort) {
  const std::string body = with(R"("tools":[{"function":{"name":"b"}},{"function":{"name":"a"}}])");
  EXPECT_EQ(parsed(parse_chat, body).tools.at(0).name, "b");
  const ChatRequest sorted = parsed(parse_chat, body, {.sort_tools = true});
  EXPECT_EQ(sorted.tools.at(0).name, "a");
  EXPECT_EQ(sorted.conversation.tools.at(0).dump(), R"({"name": "a"})");
}

TEST(ChatRequest, Enc2ToolChoiceNoneLeavesToolsOut) {
  const ChatRequest r = parsed(parse_chat, with(std::string(kTools) + R"(,"tool_choice":"none")"));
  EXPECT_EQ(r.tool_use, ToolUse::kNone);
  EXPECT_EQ(prompt_text(r), prompt_text(parsed(parse_chat, with(""))));
}

TEST(ChatRequest, Enc4AStringAndAOnePartListAreTheSame) {
  const auto text = [](std::string_view content) {
    return prompt_text(
        parsed(parse_chat, with_messages(R"([{"role":"user","content":)" + std::string(content) + "}]")));
  };
  EXPECT_EQ(text("\"q\""), text(R"([{"type":"text","text":"q","cache_control":{"type":"ephemeral"}}])"));
  EXPECT_NE(text(R"([{"type":"text","text":"a"},{"type":"text","text":"b"}])").find("<｜User｜>a\n\nb<"),
            std::string::npos);
}

TEST(ChatRequest, Enc4OnlyFixturesHaveToolsAndTasksOnMessages) {
  EXPECT_EQ(
      prompt_text(parsed(parse_chat, with_messages(R"([{"role":"system","content":"SYS","tools":[{"function":
      {"name":"f"}}],"response_format":{"a":1}},{"role":"user","content":"q","task":"title"}])"))),
      kSys + "<｜User｜>q<｜Assistant｜><think>");
}

TEST(ChatRequest, Enc5ImagesAreRefusedOrNamed) {
  const std::string body =
      with_messages(R"([{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}])");
  EXPECT_EQ(parse_error(parse_chat, body),
            "messages[0].content[0]: parts of type \"image_url\" are not supported, expected \"text\"");
  const ChatRequest r = parsed(parse_chat, body, {.other_parts = OtherParts::kPlaceholder});
  EXPECT_EQ(r.conversation.messages[0].content, "[Unsupported image_url]");
}

TEST(ChatRequest, Enc6ReasoningHasAnAlias) {
  const ChatRequest r = parsed(parse_chat, with_messages(R"([{"role":"user","content":"q"},
      {"role":"assistant","content":"a","reasoning":"why"},{"role":"user","content":"r"}])"));
  EXPECT_EQ(r.conversation.messages[1].reasoning, "why");
}

TEST(ChatRequest, Enc7ArgumentsOfAnyFormNeverFail) {
  const auto block = [](std::string_view arguments) {
    const std::string text = prompt_text(
        parsed(parse_chat,
               with_messages(R"([{"role":"user","content":"q"},{"role":"assistant","content":"","tool_calls":[
            {"id":"c","type":"function","function":{"name":"f","arguments":)" +
                                 std::string(arguments) +
                                 R"(}}]},{"role":"tool","tool_call_id":"c","content":"r"}])",
                             "," + std::string(kTools))));
    constexpr std::string_view kOpen = "<｜DSML｜invoke name=\"f\">\n";
    const size_t begin = text.rfind(kOpen) + kOpen.size();
    return text.substr(begin, text.find("\n</｜DSML｜invoke>", begin) - begin);
  };
  const std::string one = "<｜DSML｜parameter name=\"a\" string=\"false\">1</｜DSML｜parameter>";
  EXPECT_EQ(block(R"("{\"a\": 1}")"), one);
  EXPECT_EQ(block(R"({"a":1})"), one);
  for (std::string_view nothing : {"null", "\"\"", "\"{}\"", "{}"}) EXPECT_EQ(block(nothing), "") << nothing;
  EXPECT_EQ(block(R"("[1]")"),
            "<｜DSML｜parameter name=\"arguments\" string=\"true\">[1]</｜DSML｜parameter>");
}

TEST(ChatRequest, Enc8ATrailingAnswerIsContinuedOrFollowedByATurn) {
  const std::string list = R"([{"role":"user","content":"q"},{"role":"assistant","content":"a")";
  const std::string off = R"(,"thinking":{"type":"disabled"})";
  EXPECT_TRUE(prompt_text(parsed(parse_chat, with_messages(list + R"(,"prefix":true}])", off)))
                  .ends_with("<｜User｜>q<｜Assistant｜></think>a"));
  EXPECT_TRUE(prompt_text(parsed(parse_chat, with_messages(list + "}]", off)))
                  .ends_with("<｜Assistant｜></think>a<｜end▁of▁sentence｜><｜Assistant｜></think>"));
}

TEST(ChatRequest, Enc10JsonObjectAddsNoTextAndASchemaDoes) {
  const ChatRequest object = parsed(parse_chat, with(R"("response_format":{"type":"json_object"})"));
  EXPECT_EQ(object.reply_format.kind, ReplyFormat::Kind::kJsonObject);
  EXPECT_EQ(prompt_text(object), prompt_text(parsed(parse_chat, with(""))));
  const ChatRequest schema = parsed(parse_chat, with(R"("response_format":{"type":"json_schema","json_schema":
      {"name":"n","schema":{"type":"object"}}})"));
  EXPECT_NE(
      prompt_text(schema).find("## Response Format:\n\nYou MUST strictly adhere to the following schema to "
                               "reply:\n{\"type\": \"object\"}<｜User｜>"),
      std::string::npos);
}

TEST(ChatRequest, Sys1DeveloperIsSystemWhenLeading) {
  EXPECT_EQ(prompt_text(parsed(parse_chat, with_messages(R"([{"role":"developer","content":"SYS"},
      {"role":"system","content":"B"},{"role":"user","content":"q"}])"))),
            kSys + "\n\nB<｜User｜>q<｜Assistant｜><think>");
}

TEST(ChatRequest, Sys2ALaterSystemMessageStaysInPlace) {
  const std::string first = prompt_text(parsed(parse_chat, with_messages(R"([{"role":"user","content":"q"},
      {"role":"system","content":"MID"}])",
                                                                         "," + std::string(kTools))));
  EXPECT_TRUE(
      first.ends_with("<｜User｜>q\n\n<system-reminder>\nMID\n</system-reminder><｜Assistant｜><think>"));
  const std::string next = prompt_text(parsed(parse_chat, with_messages(R"([{"role":"user","content":"q"},
      {"role":"system","content":"MID"},{"role":"assistant","content":"a","reasoning_content":"r"},
      {"role":"user","content":"q2"}])",
                                                                        "," + std::string(kTools))));
  EXPECT_TRUE(next.starts_with(first));
}

TEST(ChatRequest, Thk2ToolsKeepOldReasoningAndNoToolsDropIt) {
  const std::string list = R"([{"role":"user","content":"q"},{"role":"assistant","content":"a",
      "reasoning_content":"WHY"},{"role":"user","content":"q2"}])";
  EXPECT_EQ(prompt_text(parsed(parse_chat, with_messages(list))).find("WHY"), std::string::npos);
  EXPECT_NE(prompt_text(parsed(parse_chat, with_messages(list, "," + std::string(kTools)))).find("WHY"),
            std::string::npos);
}

const std::string kCallWithoutReasoning = with_messages(R"([{"role":"user","content":"q"},{"role":"assistant",
      "content":"","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]},
      {"role":"tool","tool_call_id":"c1","content":"r"}])",
                                                        "," + std::string(kTools));

TEST(ChatRequest, Thk3StrictDemandsReasoningOfToolCalls) {
  EXPECT_EQ(parse_error(parse_chat, kCallWithoutReasoning, {.require_reasoning = true}),
            "The `reasoning_content` in the thinking mode must be passed back to the API.");
  const std::string empty = with_messages(R"([{"role":"user","content":"q"},{"role":"assistant","content":"",
      "reasoning_content":"","tool_calls":[{"id":"c1","type":"function","function":{"name":"f"}}]}])",
                                          "," + std::string(kTools));
  EXPECT_EQ(parse_error(parse_chat, empty, {.require_reasoning = true}), "no error");
  EXPECT_NE(
      prompt_text(parsed(parse_chat, kCallWithoutReasoning)).find("<think></think>\n\n<｜DSML｜tool_calls>"),
      std::string::npos);
}

TEST(ChatRequest, Thk4AForcedToolInThinkingModeIsHonouredOrRefused) {
  const std::string body = with(std::string(kTools) + R"(,"tool_choice":"required")");
  EXPECT_EQ(parsed(parse_chat, body).tool_use, ToolUse::kRequired);
  EXPECT_EQ(parse_error(parse_chat, body, {.refuse_forced_tools = true}),
            "Thinking mode does not support this tool_choice");
}

TEST(ChatRequest, Enc9AToolResultNeedsItsCall) {
  const ChatRequest r = parsed(parse_chat, with_messages(R"([{"role":"user","content":"q"},
      {"role":"tool","tool_call_id":"c9","content":"r"}])"));
  EXPECT_EQ(prompt_error(r),
            "the tool result for call \"c9\" answers no earlier call of the request; send the full history");
}

TEST(ChatRequest, SaysWhereWhatAndInsteadOfWhat) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({"messages":1})", "messages: expected an array, saw 1"},
      {R"({"model":"m"})", "messages: expected an array of messages, saw nothing"},
      {R"({"messages":[]})", "messages: expected at least one, saw none"},
      {R"({"messages":[{"role":"bard","content":"q"}]})",
       "messages[0].role: expected one of system, developer, user, assistant, tool, latest_reminder, saw "
       "\"bard\""},
      {with(R"("temperature":3)"), "temperature: expected a number from 0 to 2, saw 3"},
      {with(R"("temperature":"hot")"), "temperature: expected a number from 0 to 2, saw \"hot\""},
      {with(R"("max_tokens":0)"), "max_tokens: expected an integer from 1 to 9223372036854775807, saw 0"},
      {with(R"("max_tokens":1.5)"), "max_tokens: expected an integer from 1 to 9223372036854775807, saw 1.5"},
      {with(R"("stream":1)"), "stream: expected true or false, saw 1"},
      {with(R"("stream_options":{"include_usage":true})"),
       "stream_options: expected \"stream\": true beside it, saw an object"},
      {with(R"("top_logprobs":2)"), "top_logprobs: expected \"logprobs\": true beside it, saw 2"},
      {with(R"("logprobs":true,"top_logprobs":21)"),
       "top_logprobs: expected an integer from 0 to 20, saw 21"},
      {with(R"("stop":[1])"), "stop[0]: expected a string of at most 1024 bytes, saw 1"},
      {with(R"("thinking":{"type":"maybe"})"),
       "thinking.type: expected \"enabled\", \"adaptive\" or \"disabled\", saw \"maybe\""},
      {with(R"("thinking":"enabled")"), "thinking: expected an object, saw \"enabled\""},
      {with(R"("tools":[{"type":"web_search"}])"),
       "tools[0].type: expected \"function\", saw \"web_search\""},
      {with(R"("tools":[{"type":"function","function":{"name":"a<b"}}])"),
       "tools[0].function.name: expected 1 to 256 bytes without blanks, quotes, < and >, saw \"a<b\""},
      {with(R"("tools":[{"type":"function","function":{"name":"a","parameters":7}}])"),
       "tools[0].function.parameters: expected a JSON schema object, saw 7"},
      {with(R"("tool_choice":"required")"), "tool_choice: expected tools to choose from, saw none"},
      {with(std::string(kTools) + R"(,"tool_choice":{"type":"function","function":{"name":"g"}})"),
       "tool_choice.function.name: expected the name of one of the tools, saw \"g\""},
      {with(R"("response_format":{"type":"xml"})"),
       "response_format.type: expected \"text\", \"json_object\" or \"json_schema\", saw \"xml\""},
      {with(R"("response_format":{"type":"json_schema","json_schema":{"name":"n"}})"),
       "response_format.json_schema.schema: expected a JSON schema object, saw nothing"},
      {with(R"("user_id":"a b")"), "user_id: expected at most 512 letters, digits, - and _, saw \"a b\""},
      {with(R"("priority":"now")"), "priority: expected \"interactive\" or \"batch\", saw \"now\""},
      {with(R"("logit_bias":{"x":1})"), "logit_bias: expected token ids as keys, saw \"x\""},
      {with(R"("functions":[{"name":"f"}])"),
       "functions: expected nothing: this form is retired, use tools and tool_choice, saw an array"}};
  for (const auto& [body, message] : cases) EXPECT_EQ(parse_error(parse_chat, body), message) << body;
}

TEST(ChatRequest, LimitsWhatARequestMayHold) {
  ApiOptions options;
  options.limits.messages = 2;
  options.limits.tools = 1;
  options.limits.tool_bytes = 60;
  options.limits.schema_bytes = 20;
  const std::string user = R"({"role":"user","content":"q"})";
  EXPECT_EQ(parse_error(parse_chat, with_messages("[" + user + "," + user + "," + user + "]"), options),
            "messages: expected at most 2, saw 3");
  const std::string tool = R"({"type":"function","function":{"name":"f"}})";
  EXPECT_EQ(parse_error(parse_chat, with(R"("tools":[)" + tool + "," + tool + "]"), options),
            "tools: expected at most 1, saw 2");
  EXPECT_EQ(parse_error(parse_chat, with(kTools), options),
            "tools: expected at most 60 bytes of schemas, saw 67");
  EXPECT_EQ(parse_error(parse_chat, with(R"("response_format":{"type":"json_schema","json_schema":{"schema":
      {"type":"object","x":1}}})"),
                        options),
            "the reply's schema: expected at most 20 bytes, saw 26");
  std::string stops = "\"x\"";
  for (int i = 0; i < 16; ++i) stops += ",\"x\"";
  EXPECT_EQ(parse_error(parse_chat, with("\"stop\":[" + stops + "]")),
            "stop: expected at most 16 strings, saw 17");
}

TEST(ChatRequest, Err4MalformedJsonNamesTheByte) {
  EXPECT_EQ(json_error_position(R"({"a":1,})"), 7u);
  EXPECT_EQ(json_error_position(R"({"a":[1 2]})"), 8u);
  EXPECT_EQ(json_error_position(R"({"a")"), 4u);
  EXPECT_EQ(json_error_position("[1]x"), 3u);
  EXPECT_EQ(json_error_position("\"\\q\""), 2u);
  EXPECT_EQ(json_error_position(R"({"a":[true,null,-1.5e+3,"\u00e9",{}]})"), std::nullopt);
  const std::string message = parse_error(parse_chat, R"({"model":"m","messages":[)");
  EXPECT_TRUE(message.starts_with("body: not valid JSON: ") && message.ends_with(" at byte 25 of 25"))
      << message;
}

TEST(ChatRequest, Err4DeepNestingIsRefusedNotFollowed) {
  std::string deep = R"({"messages":)";
  deep.append(1000000, '[');
  EXPECT_TRUE(parse_error(parse_chat, deep).starts_with("body: not"))
      << parse_error(parse_chat, deep).substr(0, 200);
  std::string closed = R"({"messages":)" + std::string(500, '[') + std::string(500, ']') + "}";
  EXPECT_TRUE(parse_error(parse_chat, closed).starts_with("body: not"));
}

}  // namespace
}  // namespace kvasir
