// What this room's tests share: V4's tokenizer, requests parsed or failing, prompts as text, answers as
// events.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "api/anthropic_messages.h"
#include "api/json_fields.h"
#include "api/openai_chat.h"
#include "api/openai_completions.h"
#include "api/openai_responses.h"
#include "api/prompt.h"
#include "api/response_formatter.h"
#include "text/golden_files_test.h"
#include "text/tokenizer_test_data.h"

namespace kvasir {

using Parser = Result<ChatRequest> (*)(std::string_view, const ApiOptions&);

inline ChatRequest parsed(Parser parse, std::string_view body, const ApiOptions& options = {}) {
  auto request = parse(body, options);
  EXPECT_TRUE(request) << request.error().message << "\n" << body;
  return request ? *std::move(request) : ChatRequest();
}

inline std::string parse_error(Parser parse, std::string_view body, const ApiOptions& options = {}) {
  auto request = parse(body, options);
  return request ? "no error" : request.error().message;
}

inline Prompt prompt_of(const ChatRequest& request, const PromptOptions& options = {}) {
  auto prompt = build_prompt(request, v4_tokenizer(), options);
  EXPECT_TRUE(prompt) << prompt.error().message;
  return prompt ? *std::move(prompt) : Prompt();
}

inline std::string prompt_text(const ChatRequest& request, const PromptOptions& options = {}) {
  return v4_tokenizer().decode(prompt_of(request, options).ids);
}

inline std::string prompt_error(const ChatRequest& request, const PromptOptions& options = {}) {
  auto prompt = build_prompt(request, v4_tokenizer(), options);
  return prompt ? "no error" : prompt.error().message;
}

// "aaaaaaaaaaaaaaaaaaaaaaaa", then b, c ...
inline ResponseContext test_context() {
  auto next = std::make_shared<char>('a');
  return {.created = 1700000000, .fingerprint = "fp_test", .new_id = [next] {
            return std::string(24, (*next)++);
          }};
}

// One event of an answer, as the engine's side of the server sees it.
struct Step {
  enum class Kind { kReasoning, kContent, kCall, kArguments, kKeepAlive };
  Kind kind;
  std::string text = {};
  Logprobs logprobs = {};
};

struct Written {
  SseEvents events;
  std::string whole;
  Answer answer;
};

inline Usage test_usage() {
  Usage usage{.prompt_tokens = 300, .completion_tokens = 40, .reasoning_tokens = 25};
  usage.cache = {.hit_tokens = 256, .replayed_tokens = 0, .tier = CacheTier::kMemory, .restore_ms = 1.5};
  return usage;
}

// Runs the events through a new formatter of the request's dialect.
inline Written write_answer(const ChatRequest& request, std::unique_ptr<ResponseFormatter> formatter,
                            const std::vector<Step>& steps, const Finish& finish) {
  Written written;
  formatter->begin({.prompt_tokens = finish.usage.prompt_tokens, .cache = finish.usage.cache},
                   written.events);
  for (const Step& step : steps) {
    switch (step.kind) {
      case Step::Kind::kReasoning:
        formatter->reasoning(step.text, step.logprobs, written.events);
        break;
      case Step::Kind::kContent:
        formatter->content(step.text, step.logprobs, written.events);
        break;
      case Step::Kind::kCall:
        formatter->call_begin(step.text, written.events);
        break;
      case Step::Kind::kArguments:
        formatter->arguments(step.text, written.events);
        break;
      case Step::Kind::kKeepAlive:
        formatter->keep_alive(written.events);
        break;
    }
  }
  formatter->finish(finish, written.events);
  if (!request.stream) written.whole = formatter->whole();
  written.answer = formatter->answer();
  return written;
}

// An event as it stands on the wire, without the empty line.
inline std::string wire(const SseEvent& event) {
  if (event.comment) return ": " + event.data;
  return (event.name.empty() ? "" : "event: " + event.name + "\n") + "data: " + event.data;
}

// The value at a path such as "choices.0.delta.content"; null if there is none.
inline JsonValue at_path(const JsonValue& root, std::string_view path) {
  const JsonValue* value = &root;
  while (!path.empty()) {
    const size_t dot = std::min(path.find('.'), path.size());
    const std::string key(path.substr(0, dot));
    path.remove_prefix(std::min(dot + 1, path.size()));
    if (value->is_array()) {
      const size_t i = std::stoul(key);
      if (i >= value->as_array().size()) return {};
      value = &value->as_array()[i];
    } else {
      value = value->find(key);
      if (value == nullptr) return {};
    }
  }
  return *value;
}

inline std::string text_at(const JsonValue& root, std::string_view path) {
  const JsonValue value = at_path(root, path);
  return value.is_string() ? value.as_string() : value.dump();
}

inline JsonValue json_of(std::string_view text) {
  auto value = JsonValue::parse(text);
  EXPECT_TRUE(value) << text;
  return value ? *std::move(value) : JsonValue();
}

}  // namespace kvasir
