// The Responses API's answers: the events of protocol 7.2 in their order, and the same answer in one piece.
#include "api/api_fixture_test.h"

namespace kvasir {
namespace {

using Kind = Step::Kind;

ChatRequest responses_request(bool stream, std::string_view more = "") {
  return parsed(parse_responses,
                R"({"model":"m","input":"q","max_output_tokens":9,"tools":[{"type":"function","name":"f"},
      {"type":"namespace","name":"ns","tools":[{"type":"function","name":"g"}]},
      {"type":"custom","name":"apply_patch","format":{"type":"grammar","syntax":"lark","definition":"start: X"}}])" +
                    std::string(more) + (stream ? R"(,"stream":true})" : "}"));
}

Written run(const ChatRequest& request, const std::vector<Step>& steps, Ending ending) {
  return write_answer(request, make_responses_formatter(request, test_context()), steps,
                      {.ending = ending, .usage = test_usage()});
}

// One event without `response`, numbered.
std::string event(std::string_view type, int number, std::string_view members) {
  return "event: " + std::string(type) + "\ndata: {\"type\":\"" + std::string(type) +
         "\",\"sequence_number\":" + std::to_string(number) + std::string(members) + "}";
}

std::string response_object(std::string_view status, std::string_view output, std::string_view usage) {
  return R"({"id":"resp_aaaaaaaaaaaaaaaaaaaaaaaa","object":"response","created_at":1700000000,"status":")" +
         std::string(status) +
         R"(","error":null,"incomplete_details":null,"instructions":null,"max_output_tokens":9,)" +
         R"("model":"m","output":[)" + std::string(output) +
         R"(],"parallel_tool_calls":true,"previous_response_id":null,"reasoning":{"effort":"high","summary":null},)" +
         R"("store":false,"temperature":1,"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"top_p":1,)" +
         R"("truncation":"disabled","usage":)" + std::string(usage) + R"(,"metadata":{}})";
}

const std::string kUsage =
    R"({"input_tokens":300,"input_tokens_details":{"cached_tokens":256},"output_tokens":40,)"
    R"("output_tokens_details":{"reasoning_tokens":25},"total_tokens":340,)"
    R"("kvasir":{"hit_tokens":256,"replayed_tokens":0,"tier":"memory","restore_ms":1.5}})";
const std::string kReasoning =
    R"({"id":"rs_bbbbbbbbbbbbbbbbbbbbbbbb","type":"reasoning","summary":[],"content":[{"type":"reasoning_text",)"
    R"("text":"hm"}],"status":"completed"})";
const std::string kPart = R"({"type":"output_text","text":"I look.","annotations":[],"logprobs":[]})";
const std::string kMessage =
    R"({"id":"msg_cccccccccccccccccccccccc","type":"message","role":"assistant","content":[)" + kPart +
    R"(],"status":"completed"})";
const std::string kCall =
    R"({"id":"fc_dddddddddddddddddddddddd","type":"function_call","call_id":"call_eeeeeeeeeeeeeeeeeeeeeeee",)"
    R"("name":"f","arguments":"{\"a\": 1}","status":"completed"})";

const std::vector<Step> kToolAnswer = {{Kind::kReasoning, "hm"},
                                       {Kind::kContent, "I look."},
                                       {Kind::kCall, "f"},
                                       {Kind::kArguments, "{\"a\": 1}"}};

TEST(ResponsesStream, IsTheseBytesInThisOrder) {
  const Written written = run(responses_request(true), kToolAnswer, Ending::kToolCalls);
  const std::string rs = R"(,"item_id":"rs_bbbbbbbbbbbbbbbbbbbbbbbb","output_index":0,"content_index":0)";
  const std::string msg = R"(,"item_id":"msg_cccccccccccccccccccccccc","output_index":1,"content_index":0)";
  const std::string fc = R"(,"item_id":"fc_dddddddddddddddddddddddd","output_index":2)";
  const std::string started = ",\"response\":" + response_object("in_progress", "", "null");
  const std::vector<std::string> expected = {
      event("response.created", 0, started),
      event("response.in_progress", 1, started),
      event("response.output_item.added", 2,
            R"(,"output_index":0,"item":{"id":"rs_bbbbbbbbbbbbbbbbbbbbbbbb","type":"reasoning","summary":[],)"
            R"("content":[],"status":"in_progress"})"),
      event("response.reasoning_text.delta", 3, rs + R"(,"delta":"hm")"),
      event("response.reasoning_text.done", 4, rs + R"(,"text":"hm")"),
      event("response.output_item.done", 5, R"(,"output_index":0,"item":)" + kReasoning),
      event(
          "response.output_item.added", 6,
          R"(,"output_index":1,"item":{"id":"msg_cccccccccccccccccccccccc","type":"message","role":"assistant",)"
          R"("content":[],"status":"in_progress"})"),
      event("response.content_part.added", 7,
            msg + R"(,"part":{"type":"output_text","text":"","annotations":[],"logprobs":[]})"),
      event("response.output_text.delta", 8, msg + R"(,"delta":"I look.","logprobs":[])"),
      event("response.output_text.done", 9, msg + R"(,"text":"I look.","logprobs":[])"),
      event("response.content_part.done", 10, msg + R"(,"part":)" + kPart),
      event("response.output_item.done", 11, R"(,"output_index":1,"item":)" + kMessage),
      event("response.output_item.added", 12,
            R"(,"output_index":2,"item":{"id":"fc_dddddddddddddddddddddddd","type":"function_call",)"
            R"("call_id":"call_eeeeeeeeeeeeeeeeeeeeeeee","name":"f","arguments":"","status":"in_progress"})"),
      event("response.function_call_arguments.delta", 13, fc + R"(,"delta":"{\"a\": 1}")"),
      event("response.function_call_arguments.done", 14, fc + R"(,"arguments":"{\"a\": 1}")"),
      event("response.output_item.done", 15, R"(,"output_index":2,"item":)" + kCall),
      event("response.completed", 16,
            ",\"response\":" +
                response_object("completed", kReasoning + "," + kMessage + "," + kCall, kUsage))};
  ASSERT_EQ(written.events.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(wire(written.events[i]), expected[i]) << i;
}

TEST(ResponsesAnswer, IsTheObjectOfTheLastEvent) {
  const Written whole = run(responses_request(false), kToolAnswer, Ending::kToolCalls);
  EXPECT_EQ(whole.whole, response_object("completed", kReasoning + "," + kMessage + "," + kCall, kUsage));
}

TEST(ResponsesStream, HasExactlyOneTerminalEvent) {
  const auto terminals = [](const SseEvents& events) {
    std::vector<std::string> names;
    for (const SseEvent& e : events) {
      if (e.name == "response.completed" || e.name == "response.incomplete" || e.name == "response.failed") {
        names.push_back(e.name);
      }
    }
    EXPECT_EQ(events.back().name, names.empty() ? "" : names.back());
    return names;
  };
  const ChatRequest request = responses_request(true);
  EXPECT_EQ(terminals(run(request, kToolAnswer, Ending::kToolCalls).events),
            std::vector<std::string>{"response.completed"});
  const Written cut = run(request, {{Kind::kReasoning, "h"}}, Ending::kLength);
  EXPECT_EQ(terminals(cut.events), std::vector<std::string>{"response.incomplete"});
  const JsonValue last = json_of(cut.events.back().data);
  EXPECT_EQ(text_at(last, "response.incomplete_details.reason"), "max_output_tokens");
  EXPECT_EQ(text_at(last, "response.output.0.status"), "incomplete");

  auto formatter = make_responses_formatter(request, test_context());
  SseEvents out;
  formatter->begin(test_usage(), out);
  formatter->content("a", {}, out);
  formatter->fail({Fault::kInternal, "the model failed"}, out);
  formatter->fail({Fault::kInternal, "again"}, out);
  EXPECT_EQ(terminals(out), std::vector<std::string>{"response.failed"});
  EXPECT_EQ(at_path(json_of(out.back().data), "response.error").dump(),
            R"({"code": "internal_error", "message": "the model failed"})");
}

TEST(ResponsesStream, Rsp2RestoresNameAndNamespace) {
  const Written written =
      run(responses_request(true), {{Kind::kCall, "ns__g"}, {Kind::kArguments, "{}"}}, Ending::kToolCalls);
  for (const SseEvent& e : written.events) {
    if (!e.name.starts_with("response.output_item")) continue;
    EXPECT_EQ(text_at(json_of(e.data), "item.name"), "g");
    EXPECT_EQ(text_at(json_of(e.data), "item.namespace"), "ns");
  }
}

TEST(ResponsesStream, Rsp3CustomToolsGetRawInput) {
  const std::vector<Step> steps = {{Kind::kCall, "apply_patch"},
                                   {Kind::kArguments, R"({"input": "*** Be)"},
                                   {Kind::kArguments, R"(gin\n\"x\""})"}};
  const Written written = run(responses_request(true), steps, Ending::kToolCalls);
  std::vector<std::string> names;
  for (const SseEvent& e : written.events) names.push_back(e.name);
  EXPECT_EQ(names, (std::vector<std::string>{
                       "response.created", "response.in_progress", "response.output_item.added",
                       "response.custom_tool_call_input.delta", "response.custom_tool_call_input.done",
                       "response.output_item.done", "response.completed"}));
  const std::string input = "*** Begin\n\"x\"";
  EXPECT_EQ(text_at(json_of(written.events[2].data), "item.input"), "");
  EXPECT_EQ(text_at(json_of(written.events[3].data), "delta"), input);
  EXPECT_EQ(text_at(json_of(written.events[4].data), "input"), input);
  EXPECT_EQ(text_at(json_of(written.events[5].data), "item.type"), "custom_tool_call");
  EXPECT_EQ(text_at(json_of(written.events[5].data), "item.input"), input);
  EXPECT_EQ(
      text_at(json_of(run(responses_request(false), steps, Ending::kToolCalls).whole), "output.0.input"),
      input);
}

TEST(ResponsesAnswer, HasEncryptedReasoningIfAskedFor) {
  const ChatRequest request = responses_request(false, R"(,"include":["reasoning.encrypted_content"])");
  const JsonValue whole = json_of(run(request, kToolAnswer, Ending::kToolCalls).whole);
  EXPECT_EQ(text_at(whole, "output.0.encrypted_content"), "kvasir-rs_bbbbbbbbbbbbbbbbbbbbbbbb");
}

}  // namespace
}  // namespace kvasir
