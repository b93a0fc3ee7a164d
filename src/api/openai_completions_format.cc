// The completions API's answers: text_completion objects, in one piece or one for each delta.
#include "api/logprobs.h"
#include "api/response_formatter.h"
#include "base/check.h"

namespace kvasir {
namespace {

class CompletionFormatter : public ResponseFormatter {
 public:
  CompletionFormatter(const ChatRequest& request, ResponseContext context)
      : ResponseFormatter(request, std::move(context)), id_("cmpl-" + context_.new_id()) {
    KVASIR_CHECK(request.raw, "a completion needs its prompt");
  }

  std::string whole() const override {
    return object(echoed() + answer_.content, answer_.content_logprobs, 0, finish_name(), true);
  }

 private:
  void on_begin(SseEvents& out) override {
    if (!echoed().empty()) out.push_back({"", object(echoed(), {}, 0, nullptr, false)});
  }

  // There is no reasoning here: the prompt never opens one.
  void on_reasoning(std::string_view, const Logprobs&, SseEvents&) override {
    KVASIR_CHECK(false, "a completion has no reasoning");
  }

  void on_content(std::string_view text, const Logprobs& logprobs, SseEvents& out) override {
    out.push_back({"", object(text, logprobs, offset_, nullptr, false)});
    for (const TokenLogprob& token : logprobs) offset_ += token.bytes.size();
  }

  void on_call_begin(SseEvents&) override { KVASIR_CHECK(false, "a completion calls no tools"); }
  void on_arguments(std::string_view, SseEvents&) override {
    KVASIR_CHECK(false, "a completion calls no tools");
  }

  void on_finish(SseEvents& out) override {
    out.push_back({"", object("", {}, offset_, finish_name(), true)});
    out.push_back({"", "[DONE]"});
  }

  void on_fail(const ApiError& error, SseEvents& out) override {
    out.push_back({"", error_body(error, Dialect::kCompletions, "")});
  }

  std::string new_call_id(size_t) override { return context_.new_id(); }

  const char* finish_name() const { return finish_.ending == Ending::kLength ? "length" : "stop"; }
  std::string echoed() const { return request_.raw->echo ? request_.raw->text : std::string(); }

  // `finish`: null while there is more to come.
  std::string object(std::string_view text, const Logprobs& logprobs, size_t offset, const char* finish,
                     bool has_usage) const {
    JsonWriter json;
    json.begin_object()
        .field("id", id_)
        .field("object", "text_completion")
        .field("created", context_.created);
    json.field("model", request_.model).field("system_fingerprint", context_.fingerprint);
    json.begin_array("choices").begin_object().field("text", text).field("index", 0).key("logprobs");
    if (request_.sampling.top_logprobs >= 0) {
      write_completion_logprobs(logprobs, offset, json);
    } else {
      json.null();
    }
    json.key("finish_reason");
    if (finish != nullptr) {
      json.value(finish);
    } else {
      json.null();
    }
    json.end_object().end_array();
    if (has_usage) {
      json.key("usage");
      write_chat_usage(finish_.usage, json);
    } else if (request_.include_usage) {
      json.key("usage").null();
    }
    json.end_object();
    return json.text();
  }

  const std::string id_;
  size_t offset_ = 0;  // bytes of the tokens whose logprobs have been sent
};

}  // namespace

std::unique_ptr<ResponseFormatter> make_completion_formatter(const ChatRequest& request,
                                                             ResponseContext context) {
  return std::make_unique<CompletionFormatter>(request, std::move(context));
}

}  // namespace kvasir
