// The Messages API's answers: the events of protocol 8.3 in their order, and the same answer in one piece.
#include "api/api_fixture_test.h"

namespace kvasir {
namespace {

using Kind = Step::Kind;

ChatRequest messages_request(bool stream) {
  return parsed(
      parse_messages,
      R"({"model":"m","max_tokens":9,"messages":[{"role":"user","content":"q"}],"tools":[{"name":"f"}])" +
          std::string(stream ? R"(,"stream":true})" : "}"));
}

Written run(const ChatRequest& request, const std::vector<Step>& steps, Ending ending) {
  return write_answer(
      request, make_messages_formatter(request, test_context()), steps,
      {.ending = ending, .stop_string = ending == Ending::kStopString ? "END" : "", .usage = test_usage()});
}

const std::string kKvasir =
    R"("kvasir":{"hit_tokens":256,"replayed_tokens":0,"tier":"memory","restore_ms":1.5}})";

std::string event(std::string_view type, std::string_view members) {
  return "event: " + std::string(type) + "\ndata: {\"type\":\"" + std::string(type) + "\"" +
         std::string(members) + "}";
}

TEST(MessagesStream, IsTheseBytesInThisOrder) {
  const Written written = run(messages_request(true),
                              {{Kind::kReasoning, "hm"},
                               {Kind::kKeepAlive},
                               {Kind::kContent, "I look."},
                               {Kind::kCall, "f"},
                               {Kind::kArguments, "{\"a\": 1}"},
                               {Kind::kCall, "f"},
                               {Kind::kArguments, "{}"}},
                              Ending::kToolCalls);
  const std::vector<std::string> expected = {
      event(
          "message_start",
          R"(,"message":{"id":"msg_aaaaaaaaaaaaaaaaaaaaaaaa","type":"message","role":"assistant","model":"m",)"
          R"("content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":44,)"
          R"("cache_creation_input_tokens":0,"cache_read_input_tokens":256,"output_tokens":0,)" +
              kKvasir + "}"),
      event("content_block_start",
            R"(,"index":0,"content_block":{"type":"thinking","thinking":"","signature":""})"),
      event("content_block_delta", R"(,"index":0,"delta":{"type":"thinking_delta","thinking":"hm"})"),
      event("ping", ""),
      event("content_block_delta",
            R"(,"index":0,"delta":{"type":"signature_delta","signature":"kvasir-bbbbbbbbbbbbbbbbbbbbbbbb"})"),
      event("content_block_stop", R"(,"index":0)"),
      event("content_block_start", R"(,"index":1,"content_block":{"type":"text","text":""})"),
      event("content_block_delta", R"(,"index":1,"delta":{"type":"text_delta","text":"I look."})"),
      event("content_block_stop", R"(,"index":1)"),
      event(
          "content_block_start",
          R"(,"index":2,"content_block":{"type":"tool_use","id":"toolu_cccccccccccccccccccccccc","name":"f","input":{}})"),
      event("content_block_delta",
            R"(,"index":2,"delta":{"type":"input_json_delta","partial_json":"{\"a\": 1}"})"),
      event("content_block_stop", R"(,"index":2)"),
      event(
          "content_block_start",
          R"(,"index":3,"content_block":{"type":"tool_use","id":"toolu_dddddddddddddddddddddddd","name":"f","input":{}})"),
      event("content_block_delta", R"(,"index":3,"delta":{"type":"input_json_delta","partial_json":"{}"})"),
      event("content_block_stop", R"(,"index":3)"),
      event("message_delta",
            R"(,"delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"input_tokens":44,)"
            R"("cache_creation_input_tokens":0,"cache_read_input_tokens":256,"output_tokens":40,)" +
                kKvasir),
      event("message_stop", "")};
  ASSERT_EQ(written.events.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(wire(written.events[i]), expected[i]) << i;
}

TEST(MessagesAnswer, IsOneMessage) {
  const Written written = run(messages_request(false),
                              {{Kind::kReasoning, "hm"},
                               {Kind::kContent, "I look."},
                               {Kind::kCall, "f"},
                               {Kind::kArguments, "{\"a\": 1}"}},
                              Ending::kToolCalls);
  EXPECT_EQ(
      written.whole,
      R"({"id":"msg_aaaaaaaaaaaaaaaaaaaaaaaa","type":"message","role":"assistant","model":"m","content":[)"
      R"({"type":"thinking","thinking":"hm","signature":"kvasir-bbbbbbbbbbbbbbbbbbbbbbbb"},)"
      R"({"type":"text","text":"I look."},)"
      R"({"type":"tool_use","id":"toolu_cccccccccccccccccccccccc","name":"f","input":{"a": 1}}],)"
      R"("stop_reason":"tool_use","stop_sequence":null,"usage":{"input_tokens":44,)"
      R"("cache_creation_input_tokens":0,"cache_read_input_tokens":256,"output_tokens":40,)" +
          kKvasir + "}");
}

TEST(MessagesStream, HasNoEmptyTextBlockBetweenThinkingAndTools) {
  const Written written =
      run(messages_request(true), {{Kind::kReasoning, "hm"}, {Kind::kContent, ""}, {Kind::kCall, "f"}},
          Ending::kToolCalls);
  int blocks = 0;
  for (const SseEvent& e : written.events) {
    if (e.name != "content_block_start") continue;
    EXPECT_NE(text_at(json_of(e.data), "content_block.type"), "text");
    EXPECT_EQ(text_at(json_of(e.data), "index"), std::to_string(blocks++));
  }
  EXPECT_EQ(blocks, 2);
}

TEST(MessagesAnswer, NamesWhyItEnded) {
  for (const auto& [ending, name] :
       std::vector<std::pair<Ending, std::string>>{{Ending::kStop, "end_turn"},
                                                   {Ending::kLength, "max_tokens"},
                                                   {Ending::kToolCalls, "tool_use"},
                                                   {Ending::kStopString, "stop_sequence"}}) {
    const JsonValue whole = json_of(run(messages_request(false), {{Kind::kContent, "a"}}, ending).whole);
    EXPECT_EQ(text_at(whole, "stop_reason"), name);
    EXPECT_EQ(text_at(whole, "stop_sequence"), ending == Ending::kStopString ? "END" : "null");
  }
}

TEST(MessagesStream, KeepsAliveByACommentBeforeTheMessageStarts) {
  const ChatRequest request = messages_request(true);
  auto formatter = make_messages_formatter(request, test_context());
  SseEvents out;
  formatter->keep_alive(out);
  EXPECT_EQ(wire(out[0]), ": keep-alive");
}

TEST(MessagesStream, EndsWithAnErrorEvent) {
  const ChatRequest request = messages_request(true);
  ResponseContext context = test_context();
  context.request_id = "req_1";
  auto formatter = make_messages_formatter(request, context);
  SseEvents out;
  formatter->begin(test_usage(), out);
  formatter->fail(overloaded_error(2), out);
  ASSERT_EQ(out.size(), 2u);
  EXPECT_EQ(wire(out[1]), R"(event: error
data: {"type":"error","error":{"type":"overloaded_error","message":"The server is overloaded. Please retry later."},"request_id":"req_1"})");
}

}  // namespace
}  // namespace kvasir
