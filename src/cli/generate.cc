// kvasir generate: files and a question in, text out as it comes.
#include "cli/generate.h"

#include <fmt/core.h>

#include <cstdio>

#include "base/json_writer.h"
#include "cli/error.h"
#include "cli/interrupt.h"
#include "cli/progress_bar.h"
#include "cli/text_session.h"

namespace kvasir {
namespace {

Result<TextPrompt> make_prompt(const GenerateOptions& options, const TextSession& session) {
  std::string text;
  for (const std::string& file : options.files) {
    KVASIR_TRY(std::string part, file_for_prompt(file));
    text += part;
  }
  text += options.prompt;
  if (options.raw) return session.raw_prompt(text);
  Conversation conversation;
  conversation.messages.push_back({Role::kUser, text});
  return session.chat_prompt(conversation, options.think);
}

const char* end_name(GenerationEnd end) {
  switch (end) {
    case GenerationEnd::kStop:
      return "stop";
    case GenerationEnd::kLength:
      return "length";
    case GenerationEnd::kCancelled:
      return "cancelled";
  }
  return "?";
}

// The answer as the JSON object of --json.
class JsonAnswer {
 public:
  void show(Delta::Kind kind, std::string_view text) {
    (kind == Delta::Kind::kReasoning ? reasoning_ : content_) += text;
  }
  void token(const SampledToken& token) { tokens_.push_back(token); }

  std::string text(const GenerationResult& result, uint64_t seed, int logprobs, TextSession& session,
                   const Sequence& sequence) const {
    const GenerationStats& s = result.stats;
    JsonWriter json(JsonWriter::Layout::kIndented);
    json.begin_object().field("text", content_);
    if (!reasoning_.empty()) json.field("reasoning", reasoning_);
    json.field("finish_reason", end_name(result.end)).field("seed", seed).begin_array("ids");
    for (const SampledToken& t : tokens_) json.value(t.id);
    json.end_array();
    if (logprobs > 0) {
      json.begin_array("logprobs");
      for (const SampledToken& t : tokens_) {
        json.begin_object()
            .field("id", t.id)
            .field("token", session.tokenizer().token_bytes(t.id))
            .field("logprob", double{t.logprob});
        json.begin_array("top");
        for (auto [id, logprob] : t.top)
          json.begin_object()
              .field("id", id)
              .field("token", session.tokenizer().token_bytes(id))
              .field("logprob", double{logprob})
              .end_object();
        json.end_array().end_object();
      }
      json.end_array();
    }
    json.begin_object("statistics")
        .field("prompt_tokens", s.prompt_tokens)
        .field("generated_tokens", s.generated_tokens);
    json.field("prefill_seconds", s.prefill_seconds)
        .field("decode_seconds", s.decode_seconds)
        .field("decode_steps", s.decode_steps);
    json.field("drafted", s.drafted)
        .field("accepted", s.accepted)
        .field("kv_bytes_held", sequence.held_bytes());
    json.field("numerics", numerics_name(session.session().numerics)).end_object().end_object();
    return json.text();
  }

 private:
  std::string content_, reasoning_;
  std::vector<SampledToken> tokens_;
};

// The answer on a terminal: reasoning first, set apart by a line.
class PlainAnswer {
 public:
  void show(Delta::Kind kind, std::string_view text) {
    if (kind == Delta::Kind::kContent && in_reasoning_) std::fputs("\n--- end of reasoning ---\n", stdout);
    in_reasoning_ = kind == Delta::Kind::kReasoning;
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }

 private:
  bool in_reasoning_ = false;
};

Result<int> run(const GenerateOptions& options) {
  ProgressBar bar;
  RunnerOptions runner_options;
  runner_options.max_step_tokens = kPrefillChunk;
  runner_options.mtp = options.sampling.draft == DraftChoice::kMtp;
  KVASIR_TRY(auto session, TextSession::open(options.model_dir, options.compute, runner_options, &bar));
  KVASIR_TRY(TextPrompt prompt, make_prompt(options, *session));
  uint64_t seed = options.sampling.seed.value_or(fresh_seed());
  KVASIR_TRY(GenerationOptions generation,
             generation_options(options.sampling, options.max_tokens, *session, seed));
  if (options.logprobs > 0) generation.sampling.top_logprobs = options.logprobs;
  InterruptGuard guard(SecondInterrupt::kEndsProgram);
  generation.interrupted = &guard.flag();
  generation.progress = &bar;

  JsonAnswer json;
  PlainAnswer plain;
  std::optional<OutputFormat> format;
  if (!options.raw) format = OutputFormat{prompt.in_reasoning, ToolChoice::kAuto, {}};
  AnswerText answer(session->tokenizer(), format, options.sampling.stop);
  auto show = [&](const std::vector<Delta>& deltas) {
    for (const Delta& delta : deltas)
      options.json ? json.show(delta.kind, delta.text) : plain.show(delta.kind, delta.text);
  };
  KVASIR_TRY(Sequence sequence, session->runner().make_sequence());
  KVASIR_TRY(GenerationResult result,
             generate(session->runner(), sequence, prompt.ids, generation, [&](const SampledToken& token) {
               json.token(token);
               show(answer.push(token.id));
               return !answer.is_done();
             }));
  show(answer.finish(EndCause::kStop));
  if (options.json) {
    std::puts(json.text(result, seed, options.logprobs, *session, sequence).c_str());
  } else {
    std::puts("");
    std::fflush(stdout);
    std::fprintf(stderr, "%s; seed %llu\n", statistics_line(result.stats, *session, sequence).c_str(),
                 static_cast<unsigned long long>(seed));
  }
  return result.end == GenerationEnd::kCancelled ? kExitInterrupted : kExitOk;
}

}  // namespace

int run_generate(const GenerateOptions& options) {
  auto code = run(options);
  return code ? *code : report_error(code.error());
}

}  // namespace kvasir
