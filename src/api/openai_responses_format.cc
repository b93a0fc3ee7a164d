// The Responses API's answers: a response object with its output items, whole or as the events of
// protocol 7.2.
//
// Output items are, in order: reasoning, message, calls; each there only if it has text. One is open at a
// time: an event of another kind closes it, which repeats the whole item, and opens the next. What a custom
// tool gets is known only once its arguments are complete, so its input is one delta.
#include <fmt/format.h>

#include "api/logprobs.h"
#include "api/response_formatter.h"
#include "base/check.h"

namespace kvasir {
namespace {

class ResponsesFormatter : public ResponseFormatter {
 public:
  ResponsesFormatter(const ChatRequest& request, ResponseContext context)
      : ResponseFormatter(request, std::move(context)),
        id_("resp_" + context_.new_id()),
        reasoning_id_("rs_" + context_.new_id()),
        message_id_("msg_" + context_.new_id()) {}

  std::string whole() const override {
    JsonWriter json;
    write_response(json, final_status(), nullptr);
    return json.text();
  }

 private:
  enum class Item { kNone, kReasoning, kMessage, kCall };

  void on_begin(SseEvents& out) override {
    for (const char* type : {"response.created", "response.in_progress"}) {
      event(type, out, [&](JsonWriter& json) {
        json.key("response");
        write_response(json, "in_progress", nullptr);
      });
    }
  }

  void on_reasoning(std::string_view text, const Logprobs&, SseEvents& out) override {
    if (text.empty()) return;
    open(Item::kReasoning, out);
    item_event("response.reasoning_text.delta", out,
               [&](JsonWriter& json) { json.field("content_index", 0).field("delta", text); });
  }

  void on_content(std::string_view text, const Logprobs& logprobs, SseEvents& out) override {
    if (text.empty()) return;
    open(Item::kMessage, out);
    item_event("response.output_text.delta", out, [&](JsonWriter& json) {
      json.field("content_index", 0).field("delta", text).key("logprobs");
      write_logprob_list(logprobs, json);
    });
  }

  void on_call_begin(SseEvents& out) override {
    close("completed", out);
    open(Item::kCall, out);
  }

  void on_arguments(std::string_view text, SseEvents& out) override {
    if (is_custom(answer_.calls.back())) return;
    item_event("response.function_call_arguments.delta", out,
               [&](JsonWriter& json) { json.field("delta", text); });
  }

  void on_finish(SseEvents& out) override {
    close(item_status(), out);
    const std::string type = fmt::format("response.{}", final_status());
    event(type, out, [&](JsonWriter& json) {
      json.key("response");
      write_response(json, final_status(), nullptr);
    });
  }

  void on_fail(const ApiError& error, SseEvents& out) override {
    event("response.failed", out, [&](JsonWriter& json) {
      json.key("response");
      write_response(json, "failed", &error);
    });
  }

  // The item's own id is made with it.
  std::string new_call_id(size_t) override {
    item_ids_.push_back(context_.new_id());
    return "call_" + context_.new_id();
  }

  const char* final_status() const { return is_cut() ? "incomplete" : "completed"; }
  const char* item_status() const { return final_status(); }
  bool is_cut() const { return finish_.ending == Ending::kLength; }

  bool is_custom(const AnswerCall& call) const {
    const OfferedTool* tool = tool_of(call);
    return tool != nullptr && tool->custom;
  }

  template <class WriteMembers>
  void event(std::string_view type, SseEvents& out, WriteMembers write_members) {
    JsonWriter json;
    json.begin_object().field("type", type).field("sequence_number", next_number_++);
    write_members(json);
    json.end_object();
    out.push_back({std::string(type), json.text()});
  }

  // An event of the open item.
  template <class WriteMembers>
  void item_event(std::string_view type, SseEvents& out, WriteMembers write_members) {
    event(type, out, [&](JsonWriter& json) {
      json.field("item_id", open_id()).field("output_index", index_);
      write_members(json);
    });
  }

  std::string open_id() const {
    if (open_ == Item::kReasoning) return reasoning_id_;
    if (open_ == Item::kMessage) return message_id_;
    return call_item_id(answer_.calls.size() - 1);
  }
  std::string call_item_id(size_t i) const {
    return (is_custom(answer_.calls[i]) ? "ctc_" : "fc_") + item_ids_[i];
  }

  void open(Item item, SseEvents& out) {
    if (open_ == item) return;
    close("completed", out);
    open_ = item;
    event("response.output_item.added", out, [&](JsonWriter& json) {
      json.field("output_index", index_).key("item");
      write_item(json, item, last_call(), "in_progress", false);
    });
    if (item == Item::kMessage) {
      item_event("response.content_part.added", out, [&](JsonWriter& json) {
        json.field("content_index", 0).key("part");
        write_text_part(json, false);
      });
    }
  }

  void close(const char* status, SseEvents& out) {
    if (open_ == Item::kNone) return;
    if (open_ == Item::kReasoning) {
      item_event("response.reasoning_text.done", out,
                 [&](JsonWriter& json) { json.field("content_index", 0).field("text", answer_.reasoning); });
    } else if (open_ == Item::kMessage) {
      close_message(out);
    } else {
      close_call(out);
    }
    event("response.output_item.done", out, [&](JsonWriter& json) {
      json.field("output_index", index_).key("item");
      write_item(json, open_, last_call(), status, true);
    });
    open_ = Item::kNone;
    ++index_;
  }

  void close_message(SseEvents& out) {
    item_event("response.output_text.done", out, [&](JsonWriter& json) {
      json.field("content_index", 0).field("text", answer_.content).key("logprobs");
      write_logprob_list(answer_.content_logprobs, json);
    });
    item_event("response.content_part.done", out, [&](JsonWriter& json) {
      json.field("content_index", 0).key("part");
      write_text_part(json, true);
    });
  }

  void close_call(SseEvents& out) {
    const AnswerCall& call = answer_.calls.back();
    if (!is_custom(call)) {
      item_event("response.function_call_arguments.done", out,
                 [&](JsonWriter& json) { json.field("arguments", arguments_of(call)); });
      return;
    }
    const std::string input = custom_input(call);
    item_event("response.custom_tool_call_input.delta", out,
               [&](JsonWriter& json) { json.field("delta", input); });
    item_event("response.custom_tool_call_input.done", out,
               [&](JsonWriter& json) { json.field("input", input); });
  }

  static std::string arguments_of(const AnswerCall& call) {
    return call.arguments.empty() ? "{}" : call.arguments;
  }

  // RSP-3. What the model did not put into `input` is still what it wants to say.
  static std::string custom_input(const AnswerCall& call) {
    const auto arguments = JsonValue::parse(call.arguments);
    const JsonValue* input = arguments ? arguments->find("input") : nullptr;
    return input != nullptr && input->is_string() ? input->as_string() : call.arguments;
  }

  size_t last_call() const { return answer_.calls.empty() ? 0 : answer_.calls.size() - 1; }

  // `filled`: with everything in it, as it stands in a finished response.
  void write_item(JsonWriter& json, Item item, size_t call, const char* status, bool filled) const {
    if (item == Item::kReasoning) {
      json.begin_object().field("id", reasoning_id_).field("type", "reasoning");
      json.begin_array("summary").end_array().begin_array("content");
      if (filled) {
        json.begin_object().field("type", "reasoning_text").field("text", answer_.reasoning).end_object();
      }
      json.end_array();
      if (filled && request_.encrypted_reasoning) json.field("encrypted_content", "kvasir-" + reasoning_id_);
    } else if (item == Item::kMessage) {
      json.begin_object().field("id", message_id_).field("type", "message").field("role", "assistant");
      json.begin_array("content");
      if (filled) write_text_part(json, true);
      json.end_array();
    } else {
      write_call(json, call, filled);
    }
    json.field("status", status).end_object();
  }

  void write_call(JsonWriter& json, size_t i, bool filled) const {
    const AnswerCall& call = answer_.calls[i];
    const bool custom = is_custom(call);
    json.begin_object()
        .field("id", call_item_id(i))
        .field("type", custom ? "custom_tool_call" : "function_call");
    json.field("call_id", call.id).field("name", client_name(call));
    const OfferedTool* tool = tool_of(call);
    if (tool != nullptr && !tool->name_space.empty()) json.field("namespace", tool->name_space);  // RSP-2
    if (custom) {
      json.field("input", filled ? custom_input(call) : std::string());
    } else {
      json.field("arguments", filled ? arguments_of(call) : std::string());
    }
  }

  void write_text_part(JsonWriter& json, bool filled) const {
    json.begin_object()
        .field("type", "output_text")
        .field("text", filled ? std::string_view(answer_.content) : "");
    json.begin_array("annotations").end_array().key("logprobs");
    write_logprob_list(filled ? answer_.content_logprobs : Logprobs(), json);
    json.end_object();
  }

  void write_output(JsonWriter& json, bool started, const char* last_status) const {
    json.begin_array("output");
    if (started) {
      const bool has_message = !answer_.content.empty();
      const bool has_calls = !answer_.calls.empty();
      if (!answer_.reasoning.empty()) {
        write_item(json, Item::kReasoning, 0, has_message || has_calls ? "completed" : last_status, true);
      }
      if (has_message) write_item(json, Item::kMessage, 0, has_calls ? "completed" : last_status, true);
      for (size_t i = 0; i < answer_.calls.size(); ++i) {
        write_item(json, Item::kCall, i, i + 1 < answer_.calls.size() ? "completed" : last_status, true);
      }
    }
    json.end_array();
  }

  const char* effort_name() const {
    if (!request_.thinks()) return "none";
    switch (request_.render.effort) {
      case Effort::kLow:
        return "low";
      case Effort::kMax:
        return "max";
      default:
        return "high";
    }
  }

  void write_format(JsonWriter& json) const {
    json.begin_object("text").begin_object("format");
    switch (request_.reply_format.kind) {
      case ReplyFormat::Kind::kText:
        json.field("type", "text");
        break;
      case ReplyFormat::Kind::kJsonObject:
        json.field("type", "json_object");
        break;
      case ReplyFormat::Kind::kJsonSchema:
        json.field("type", "json_schema").field("name", request_.reply_format.name);
        json.key("schema").json(request_.reply_format.schema.dump());
        json.field("strict", request_.reply_format.strict);
        break;
    }
    json.end_object().end_object();
  }

  void write_tool_choice(JsonWriter& json) const {
    json.key("tool_choice");
    switch (request_.tool_use) {
      case ToolUse::kNone:
        json.value("none");
        break;
      case ToolUse::kAuto:
        json.value("auto");
        break;
      case ToolUse::kRequired:
        json.value("required");
        break;
      case ToolUse::kNamed:
        json.begin_object().field("type", "function").field("name", request_.forced_tool).end_object();
        break;
    }
  }

  void write_response(JsonWriter& json, std::string_view status, const ApiError* error) const {
    const bool started = status != "in_progress";
    json.begin_object().field("id", id_).field("object", "response").field("created_at", context_.created);
    json.field("status", status).key("error");
    if (error != nullptr) {
      json.begin_object().field("code", error_code(*error)).field("message", error->message).end_object();
    } else {
      json.null();
    }
    json.key("incomplete_details");
    if (status == "incomplete") {
      json.begin_object().field("reason", "max_output_tokens").end_object();
    } else {
      json.null();
    }
    json.key("instructions")
        .null()
        .field("max_output_tokens", request_.max_tokens)
        .field("model", request_.model);
    write_output(json, started, error != nullptr ? "incomplete" : item_status());
    json.field("parallel_tool_calls", true).key("previous_response_id").null();
    json.begin_object("reasoning").field("effort", effort_name()).key("summary").null().end_object();
    json.field("store", false).field("temperature", double{request_.sampling.temperature});
    write_format(json);
    write_tool_choice(json);
    json.begin_array("tools").end_array().field("top_p", double{request_.sampling.top_p});
    json.field("truncation", "disabled").key("usage");
    if (started && error == nullptr) {
      write_responses_usage(finish_.usage, json);
    } else {
      json.null();
    }
    json.begin_object("metadata").end_object().end_object();
  }

  const std::string id_;
  const std::string reasoning_id_;
  const std::string message_id_;
  std::vector<std::string> item_ids_;  // of the calls, without their prefix
  Item open_ = Item::kNone;
  int index_ = 0;  // of the open or the next item
  int64_t next_number_ = 0;
};

}  // namespace

std::unique_ptr<ResponseFormatter> make_responses_formatter(const ChatRequest& request,
                                                            ResponseContext context) {
  return std::make_unique<ResponsesFormatter>(request, std::move(context));
}

}  // namespace kvasir
