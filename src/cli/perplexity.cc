// kvasir perplexity: -log p of every token of a file given all before it, in one pass over the file.
#include "cli/perplexity.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/json_writer.h"
#include "cli/error.h"
#include "cli/interrupt.h"
#include "cli/progress_bar.h"
#include "cli/text_session.h"
#include "io/file.h"

namespace kvasir {
namespace {

constexpr int64_t kMaxBytes = int64_t{256} << 20;
constexpr int64_t kChunk = 256;  // every row's logits are kept: [kChunk, vocab] f32

double negative_log_probability(const float* logits, int64_t vocab, int32_t id) {
  float max = *std::max_element(logits, logits + vocab);
  double sum = 0;
  for (int64_t v = 0; v < vocab; ++v) sum += std::exp(static_cast<double>(logits[v] - max));
  return std::log(sum) - (logits[id] - max);
}

Result<int> run(const PerplexityOptions& options) {
  ProgressBar bar;
  RunnerOptions runner_options;
  runner_options.max_step_tokens = kChunk;
  runner_options.max_logit_rows = kChunk;
  KVASIR_TRY(auto session, TextSession::open(options.model_dir, options.compute, runner_options, &bar));
  KVASIR_TRY(std::string text, read_text_file(options.file, kMaxBytes));
  KVASIR_TRY(TextPrompt prompt, session->raw_prompt(text));
  auto tokens = static_cast<int64_t>(prompt.ids.size());
  if (tokens < 2)
    return Error{ErrorCode::kInvalid,
                 fmt::format("{}: the file is empty, there is nothing to predict", options.file)};

  InterruptGuard guard(SecondInterrupt::kEndsProgram);
  Runner& runner = session->runner();
  KVASIR_TRY(Sequence sequence, runner.make_sequence());
  double nats = 0;
  bar.begin("reading", ProgressUnit::kTokens, tokens);
  for (int64_t at = 0; at + 1 < tokens;) {
    if (guard.interrupted()) return kExitInterrupted;
    int64_t n = std::min(kChunk, tokens - 1 - at);  // the last token is predicted, not read
    Runner::Item item{&sequence, std::span(prompt.ids).subspan(at, n), Runner::Logits::kAll};
    KVASIR_TRY_STATUS(runner.step({&item, 1}));
    for (int64_t i = 0; i < n; ++i)
      nats += negative_log_probability(runner.logits().row(i), session->session().config().vocab_size,
                                       prompt.ids[at + i + 1]);
    at += n;
    bar.tick(at);
  }
  bar.end();
  auto predicted = static_cast<double>(tokens - 1);
  double perplexity = std::exp(nats / predicted),
         bits_per_byte = nats / std::log(2.0) / static_cast<double>(text.size());
  if (options.json) {
    JsonWriter json;
    json.begin_object()
        .field("tokens", tokens - 1)
        .field("bytes", text.size())
        .field("perplexity", perplexity);
    json.field("nats_per_token", nats / predicted).field("bits_per_byte", bits_per_byte);
    json.field("numerics", numerics_name(session->session().numerics)).end_object();
    std::puts(json.text().c_str());
  } else {
    std::printf("perplexity %.4f over %lld tokens (%.4f bits per byte of %zu)\n", perplexity,
                static_cast<long long>(tokens - 1), bits_per_byte, text.size());
  }
  return kExitOk;
}

}  // namespace

int run_perplexity(const PerplexityOptions& options) {
  auto code = run(options);
  return code ? *code : report_error(code.error());
}

}  // namespace kvasir
