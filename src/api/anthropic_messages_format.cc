// The Messages API's answers: one message of blocks, whole or as the events of protocol 8.3.
//
//   message_start ─► (content_block_start ─► content_block_delta* ─► content_block_stop)* ─► message_delta ─►
//   message_stop
//
// One block is open at a time; an event of another kind closes it and opens the next.
#include "api/response_formatter.h"
#include "base/check.h"

namespace kvasir {
namespace {

const char* stop_reason(Ending ending) {
  switch (ending) {
    case Ending::kStop:
      return "end_turn";
    case Ending::kStopString:
      return "stop_sequence";
    case Ending::kLength:
      return "max_tokens";
    case Ending::kToolCalls:
      return "tool_use";
  }
  return "end_turn";
}

class MessagesFormatter : public ResponseFormatter {
 public:
  MessagesFormatter(const ChatRequest& request, ResponseContext context)
      : ResponseFormatter(request, std::move(context)),
        id_("msg_" + context_.new_id()),
        signature_("kvasir-" + context_.new_id()) {}

  std::string whole() const override {
    JsonWriter json;
    write_message(json, finish_.usage, true);
    return json.text();
  }

 private:
  enum class Block { kNone, kThinking, kText, kToolUse };

  void on_begin(SseEvents& out) override {
    event("message_start", out, [&](JsonWriter& json) {
      json.key("message");
      write_message(json, prompt_, false);
    });
  }

  void on_reasoning(std::string_view text, const Logprobs&, SseEvents& out) override {
    if (text.empty()) return;
    open(Block::kThinking, out);
    delta(out, [&](JsonWriter& json) { json.field("type", "thinking_delta").field("thinking", text); });
  }

  void on_content(std::string_view text, const Logprobs&, SseEvents& out) override {
    if (text.empty()) return;
    open(Block::kText, out);
    delta(out, [&](JsonWriter& json) { json.field("type", "text_delta").field("text", text); });
  }

  void on_call_begin(SseEvents& out) override {
    close(out);
    open(Block::kToolUse, out);
  }

  void on_arguments(std::string_view text, SseEvents& out) override {
    delta(out, [&](JsonWriter& json) { json.field("type", "input_json_delta").field("partial_json", text); });
  }

  // Before message_start only a comment is safe.
  void on_keep_alive(SseEvents& out) override {
    if (!has_begun()) {
      ResponseFormatter::on_keep_alive(out);
    } else {
      event("ping", out, [](JsonWriter&) {});
    }
  }

  void on_finish(SseEvents& out) override {
    close(out);
    event("message_delta", out, [&](JsonWriter& json) {
      json.begin_object("delta");
      write_stop(json, true);
      json.end_object().key("usage");
      write_messages_usage(finish_.usage, json);
    });
    event("message_stop", out, [](JsonWriter&) {});
  }

  void on_fail(const ApiError& error, SseEvents& out) override {
    out.push_back({"error", error_body(error, Dialect::kMessages, context_.request_id)});
  }

  std::string new_call_id(size_t) override { return "toolu_" + context_.new_id(); }

  template <class WriteMembers>
  void event(const char* type, SseEvents& out, WriteMembers write_members) {
    JsonWriter json;
    json.begin_object().field("type", type);
    write_members(json);
    json.end_object();
    out.push_back({type, json.text()});
  }

  template <class WriteDelta>
  void delta(SseEvents& out, WriteDelta write_delta) {
    event("content_block_delta", out, [&](JsonWriter& json) {
      json.field("index", index_).begin_object("delta");
      write_delta(json);
      json.end_object();
    });
  }

  void open(Block block, SseEvents& out) {
    if (open_ == block) return;
    close(out);
    open_ = block;
    event("content_block_start", out, [&](JsonWriter& json) {
      json.field("index", index_).key("content_block");
      write_block(json, block, {});
    });
  }

  // A thinking block without a signature would not come back from some clients, and with it the reasoning.
  void close(SseEvents& out) {
    if (open_ == Block::kNone) return;
    if (open_ == Block::kThinking) {
      delta(out,
            [&](JsonWriter& json) { json.field("type", "signature_delta").field("signature", signature_); });
    }
    event("content_block_stop", out, [&](JsonWriter& json) { json.field("index", index_); });
    open_ = Block::kNone;
    ++index_;
  }

  // What a block holds: nothing yet at its start, everything in a whole answer.
  struct BlockValue {
    std::string_view text = {};
    std::string_view signature = {};
    const AnswerCall* call = nullptr;
  };
  void write_block(JsonWriter& json, Block block, const BlockValue& value) const {
    json.begin_object();
    if (block == Block::kThinking) {
      json.field("type", "thinking").field("thinking", value.text).field("signature", value.signature);
    } else if (block == Block::kText) {
      json.field("type", "text").field("text", value.text);
    } else {
      const AnswerCall& call = value.call != nullptr ? *value.call : answer_.calls.back();
      json.field("type", "tool_use").field("id", call.id).field("name", client_name(call)).key("input");
      const bool filled = value.call != nullptr && !call.arguments.empty();
      json.json(filled ? std::string_view(call.arguments) : "{}");
    }
    json.end_object();
  }

  void write_content(JsonWriter& json) const {
    if (!answer_.reasoning.empty()) {
      write_block(json, Block::kThinking, {.text = answer_.reasoning, .signature = signature_});
    }
    if (!answer_.content.empty()) write_block(json, Block::kText, {.text = answer_.content});
    for (const AnswerCall& call : answer_.calls) write_block(json, Block::kToolUse, {.call = &call});
  }

  void write_stop(JsonWriter& json, bool ended) const {
    json.key("stop_reason");
    if (ended) {
      json.value(stop_reason(finish_.ending));
    } else {
      json.null();
    }
    json.key("stop_sequence");
    if (ended && finish_.ending == Ending::kStopString) {
      json.value(finish_.stop_string);
    } else {
      json.null();
    }
  }

  void write_message(JsonWriter& json, const Usage& usage, bool ended) const {
    json.begin_object().field("id", id_).field("type", "message").field("role", "assistant");
    json.field("model", request_.model).begin_array("content");
    if (ended) write_content(json);
    json.end_array();
    write_stop(json, ended);
    json.key("usage");
    write_messages_usage(usage, json);
    json.end_object();
  }

  const std::string id_;
  const std::string signature_;
  Block open_ = Block::kNone;
  int index_ = 0;  // of the open or the next block
};

}  // namespace

std::unique_ptr<ResponseFormatter> make_messages_formatter(const ChatRequest& request,
                                                           ResponseContext context) {
  return std::make_unique<MessagesFormatter>(request, std::move(context));
}

}  // namespace kvasir
