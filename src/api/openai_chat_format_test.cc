// The chat API's answers: chunks in the order of protocol 5.3, and the same answer in one piece.
#include "api/api_fixture_test.h"
#include "api/logprobs.h"

namespace kvasir {
namespace {

using Kind = Step::Kind;

constexpr std::string_view kHead =
    R"("created":1700000000,"model":"deepseek-v4-flash","system_fingerprint":"fp_test",)";

ChatRequest chat_request(bool stream, std::string_view more = "") {
  return parsed(parse_chat,
                std::string(R"({"model":"deepseek-v4-flash","messages":[{"role":"user","content":"q"}],
      "tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"g"}}])") +
                    std::string(more) + (stream ? R"(,"stream":true})" : "}"));
}

Written run(const ChatRequest& request, const std::vector<Step>& steps, Ending ending) {
  return write_answer(request, make_chat_formatter(request, test_context()), steps,
                      {.ending = ending, .usage = test_usage()});
}

const std::vector<Step> kToolAnswer = {{Kind::kReasoning, "let me "},
                                       {Kind::kReasoning, "see"},
                                       {Kind::kContent, "I look."},
                                       {Kind::kCall, "f"},
                                       {Kind::kArguments, "{\"a\""},
                                       {Kind::kArguments, ": 1}"},
                                       {Kind::kCall, "g"},
                                       {Kind::kArguments, "{}"}};

std::string chunk(std::string_view delta, std::string_view after = "") {
  return R"(data: {"id":"chatcmpl-aaaaaaaaaaaaaaaaaaaaaaaa","object":"chat.completion.chunk",)" +
         std::string(kHead) + R"("choices":[{"index":0,"delta":)" + std::string(delta) +
         R"(,"logprobs":null,"finish_reason":null}])" + std::string(after) + "}";
}

const std::string kUsage =
    R"({"prompt_tokens":300,"completion_tokens":40,"total_tokens":340,"prompt_cache_hit_tokens":256,)"
    R"("prompt_cache_miss_tokens":44,"prompt_tokens_details":{"cached_tokens":256},)"
    R"("completion_tokens_details":{"reasoning_tokens":25},)"
    R"("kvasir":{"hit_tokens":256,"replayed_tokens":0,"tier":"memory","restore_ms":1.5}})";

TEST(ChatStream, IsTheseBytesInThisOrder) {
  const Written written = run(chat_request(true), kToolAnswer, Ending::kToolCalls);
  const std::vector<std::string> expected = {
      chunk(R"({"role":"assistant","content":""})"),
      chunk(R"({"content":null,"reasoning_content":"let me "})"),
      chunk(R"({"content":null,"reasoning_content":"see"})"),
      chunk(R"({"content":"I look."})"),
      chunk(R"({"tool_calls":[{"index":0,"id":"call_00_bbbbbbbbbbbbbbbbbbbbbbbb","type":"function",)"
            R"("function":{"name":"f","arguments":""}}]})"),
      chunk(R"({"tool_calls":[{"index":0,"function":{"arguments":"{\"a\""}}]})"),
      chunk(R"({"tool_calls":[{"index":0,"function":{"arguments":": 1}"}}]})"),
      chunk(R"({"tool_calls":[{"index":1,"id":"call_01_cccccccccccccccccccccccc","type":"function",)"
            R"("function":{"name":"g","arguments":""}}]})"),
      chunk(R"({"tool_calls":[{"index":1,"function":{"arguments":"{}"}}]})"),
      R"(data: {"id":"chatcmpl-aaaaaaaaaaaaaaaaaaaaaaaa","object":"chat.completion.chunk",)" +
          std::string(kHead) +
          R"("choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"tool_calls"}],"usage":)" +
          kUsage + "}",
      "data: [DONE]"};
  ASSERT_EQ(written.events.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(wire(written.events[i]), expected[i]) << i;
}

TEST(ChatStream, PutsUsageNullOnEarlierChunksOnlyIfUsageWasAskedFor) {
  const ChatRequest request = chat_request(true, R"(,"stream_options":{"include_usage":true})");
  const Written written = run(request, {{Kind::kContent, "a"}}, Ending::kStop);
  EXPECT_EQ(wire(written.events[1]), chunk(R"({"content":"a"})", R"(,"usage":null)"));
  EXPECT_EQ(at_path(json_of(written.events[2].data), "usage").dump(), json_of(kUsage).dump());
}

TEST(ChatAnswer, IsOneObject) {
  const Written written = run(chat_request(false), kToolAnswer, Ending::kToolCalls);
  EXPECT_TRUE(written.events.empty());
  EXPECT_EQ(
      written.whole,
      R"({"id":"chatcmpl-aaaaaaaaaaaaaaaaaaaaaaaa","object":"chat.completion",)" + std::string(kHead) +
          R"("choices":[{"index":0,"message":{"role":"assistant","content":"I look.",)"
          R"("reasoning_content":"let me see","tool_calls":[)"
          R"({"index":0,"id":"call_00_bbbbbbbbbbbbbbbbbbbbbbbb","type":"function",)"
          R"("function":{"name":"f","arguments":"{\"a\": 1}"}},)"
          R"({"index":1,"id":"call_01_cccccccccccccccccccccccc","type":"function",)"
          R"("function":{"name":"g","arguments":"{}"}}]},"logprobs":null,"finish_reason":"tool_calls"}],"usage":)" +
          kUsage + "}");
}

TEST(ChatAnswer, HasReasoningOnlyInThinkingMode) {
  const ChatRequest request = chat_request(false, R"(,"thinking":{"type":"disabled"})");
  const Written written = run(request, {{Kind::kContent, "a"}}, Ending::kStop);
  EXPECT_EQ(at_path(json_of(written.whole), "choices.0.message").dump(),
            R"({"role": "assistant", "content": "a"})");
}

TEST(ChatAnswer, NamesWhyItEnded) {
  for (const auto& [ending, name] :
       std::vector<std::pair<Ending, std::string>>{{Ending::kStop, "stop"},
                                                   {Ending::kStopString, "stop"},
                                                   {Ending::kLength, "length"},
                                                   {Ending::kToolCalls, "tool_calls"}}) {
    const Written written = run(chat_request(false), {{Kind::kContent, "a"}}, ending);
    EXPECT_EQ(text_at(json_of(written.whole), "choices.0.finish_reason"), name);
  }
}

TEST(ChatAnswer, HasLogprobsOfReasoningAndContentApart) {
  const TokenLogprob first{"a", -0.5, {{"a", -0.5}, {"\xC3", -2}}};
  const TokenLogprob second{"b", -0.25, {}};
  const std::vector<Step> steps = {{Kind::kReasoning, "a", {first}}, {Kind::kContent, "b", {second}}};
  const std::string more = R"(,"logprobs":true,"top_logprobs":2)";
  const std::string reasoning =
      R"([{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "a", "logprob": -0.5, )"
      R"("bytes": [97]}, {"token": "�", "logprob": -2, "bytes": [195]}]}])";
  const std::string content = R"([{"token": "b", "logprob": -0.25, "bytes": [98], "top_logprobs": []}])";
  const JsonValue whole = json_of(run(chat_request(false, more), steps, Ending::kStop).whole);
  EXPECT_EQ(at_path(whole, "choices.0.logprobs.reasoning_content").dump(), reasoning);
  EXPECT_EQ(at_path(whole, "choices.0.logprobs.content").dump(), content);
  const Written stream = run(chat_request(true, more), steps, Ending::kStop);
  EXPECT_EQ(at_path(json_of(stream.events[1].data), "choices.0.logprobs.reasoning_content").dump(),
            reasoning);
  EXPECT_TRUE(at_path(json_of(stream.events[1].data), "choices.0.logprobs.content").is_null());
  EXPECT_EQ(at_path(json_of(stream.events[2].data), "choices.0.logprobs.content").dump(), content);
}

TEST(ChatAnswer, SpellsTheEndTokenAsTheHostedServiceDoes) {
  const SampledToken token{.id = 1, .logprob = -1, .top = {{1, -1.0f}, {19923, -3.0f}}};
  const TokenLogprob seen = token_logprob(token, v4_tokenizer());
  EXPECT_EQ(seen.bytes, "<｜｜end▁of▁sentence｜｜>");
  EXPECT_EQ(seen.top[1].first, "Hello");
}

TEST(ChatStream, EndsWithAnErrorChunkAndNoDone) {
  const ChatRequest request = chat_request(true);
  auto formatter = make_chat_formatter(request, test_context());
  SseEvents out;
  formatter->begin(test_usage(), out);
  formatter->content("a", {}, out);
  formatter->fail({Fault::kInternal, "the model failed"}, out);
  formatter->fail({Fault::kInternal, "again"}, out);
  formatter->keep_alive(out);
  ASSERT_EQ(out.size(), 3u);
  EXPECT_EQ(wire(out[2]), R"(data: {"error":{"message":"the model failed","type":"api_error","param":null,)"
                          R"("code":"internal_error"}})");
}

// STR-1: a comment, before the first chunk and between chunks.
TEST(ChatStream, Str1KeepsAliveByComments) {
  const ChatRequest request = chat_request(true);
  auto formatter = make_chat_formatter(request, test_context());
  SseEvents out;
  formatter->keep_alive(out);
  formatter->begin(test_usage(), out);
  formatter->keep_alive(out);
  EXPECT_EQ(wire(out[0]), ": keep-alive");
  EXPECT_EQ(wire(out[2]), ": keep-alive");
}

}  // namespace
}  // namespace kvasir
