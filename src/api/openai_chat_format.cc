// The chat API's answers: chat.completion, and chat.completion.chunk in the order of protocol 5.3.
#include <fmt/format.h>

#include "api/logprobs.h"
#include "api/response_formatter.h"

namespace kvasir {
namespace {

const char* finish_name(Ending ending) {
  switch (ending) {
    case Ending::kStop:
    case Ending::kStopString:
      return "stop";
    case Ending::kLength:
      return "length";
    case Ending::kToolCalls:
      return "tool_calls";
  }
  return "stop";
}

class ChatFormatter : public ResponseFormatter {
 public:
  ChatFormatter(const ChatRequest& request, ResponseContext context)
      : ResponseFormatter(request, std::move(context)), id_("chatcmpl-" + context_.new_id()) {}

  std::string whole() const override {
    JsonWriter json;
    begin_object(json, "chat.completion");
    json.begin_array("choices").begin_object().field("index", 0).begin_object("message");
    json.field("role", "assistant").field("content", answer_.content);
    if (request_.thinks()) json.field("reasoning_content", answer_.reasoning);
    if (!answer_.calls.empty()) {
      json.begin_array("tool_calls");
      for (size_t i = 0; i < answer_.calls.size(); ++i) {
        write_call(json, i, Fragment::kWhole, answer_.calls[i].arguments);
      }
      json.end_array();
    }
    json.end_object().key("logprobs");
    write_chat_logprobs(request_.sampling.top_logprobs >= 0, answer_.content_logprobs,
                        answer_.reasoning_logprobs, json);
    json.field("finish_reason", finish_name(finish_.ending)).end_object().end_array().key("usage");
    write_chat_usage(finish_.usage, json);
    json.end_object();
    return json.text();
  }

 private:
  enum class Fragment { kWhole, kFirst, kMore };

  void on_begin(SseEvents& out) override {
    chunk(out, [](JsonWriter& json) { json.field("role", "assistant").field("content", ""); });
  }

  void on_reasoning(std::string_view text, const Logprobs& logprobs, SseEvents& out) override {
    chunk(
        out, [&](JsonWriter& json) { json.key("content").null().field("reasoning_content", text); }, {},
        logprobs);
  }

  void on_content(std::string_view text, const Logprobs& logprobs, SseEvents& out) override {
    chunk(out, [&](JsonWriter& json) { json.field("content", text); }, logprobs, {});
  }

  void on_call_begin(SseEvents& out) override { call_chunk(Fragment::kFirst, "", out); }
  void on_arguments(std::string_view text, SseEvents& out) override {
    call_chunk(Fragment::kMore, text, out);
  }

  // The vendor's form: usage stands on the chunk with the finish reason, not on one of its own.
  void on_finish(SseEvents& out) override {
    JsonWriter json;
    begin_object(json, "chat.completion.chunk");
    json.begin_array("choices").begin_object().field("index", 0);
    json.begin_object("delta").end_object().key("logprobs").null();
    json.field("finish_reason", finish_name(finish_.ending)).end_object().end_array().key("usage");
    write_chat_usage(finish_.usage, json);
    json.end_object();
    out.push_back({"", json.text()});
    out.push_back({"", "[DONE]"});
  }

  void on_fail(const ApiError& error, SseEvents& out) override {
    out.push_back({"", error_body(error, Dialect::kChat, "")});
  }

  std::string new_call_id(size_t index) override {
    return fmt::format("call_{:02}_{}", index, context_.new_id());
  }

  void begin_object(JsonWriter& json, std::string_view type) const {
    json.begin_object().field("id", id_).field("object", type).field("created", context_.created);
    json.field("model", request_.model).field("system_fingerprint", context_.fingerprint);
  }

  template <class WriteDelta>
  void chunk(SseEvents& out, WriteDelta write_delta, const Logprobs& content = {},
             const Logprobs& reasoning = {}) {
    JsonWriter json;
    begin_object(json, "chat.completion.chunk");
    json.begin_array("choices").begin_object().field("index", 0).begin_object("delta");
    write_delta(json);
    json.end_object().key("logprobs");
    write_chat_logprobs(!content.empty() || !reasoning.empty(), content, reasoning, json);
    json.key("finish_reason").null().end_object().end_array();
    if (request_.include_usage) json.key("usage").null();
    json.end_object();
    out.push_back({"", json.text()});
  }

  void call_chunk(Fragment fragment, std::string_view arguments, SseEvents& out) {
    chunk(out, [&](JsonWriter& json) {
      json.begin_array("tool_calls");
      write_call(json, answer_.calls.size() - 1, fragment, arguments);
      json.end_array();
    });
  }

  void write_call(JsonWriter& json, size_t index, Fragment fragment, std::string_view arguments) const {
    const AnswerCall& call = answer_.calls[index];
    json.begin_object().field("index", index);
    if (fragment != Fragment::kMore) json.field("id", call.id).field("type", "function");
    json.begin_object("function");
    if (fragment != Fragment::kMore) json.field("name", client_name(call));
    json.field("arguments", arguments).end_object().end_object();
  }

  const std::string id_;
};

}  // namespace

std::unique_ptr<ResponseFormatter> make_chat_formatter(const ChatRequest& request, ResponseContext context) {
  return std::make_unique<ChatFormatter>(request, std::move(context));
}

}  // namespace kvasir
