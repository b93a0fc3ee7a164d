// The prefill and decode loops, with and without drafts; see generator.h.
#include "engine/generator.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>

namespace kvasir {
namespace {

double seconds_since(std::chrono::steady_clock::time_point t) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - t).count();
}

class Generation {
 public:
  Generation(Runner& runner, Sequence& sequence, const GenerationOptions& options, const std::function<bool(const SampledToken&)>& on_token)
      : runner_(runner), sequence_(sequence), options_(options), on_token_(on_token), sampler_(options.sampling) {}

  Result<GenerationResult> run(std::span<const int32_t> prompt) {
    auto begin = std::chrono::steady_clock::now();
    KVASIR_TRY(bool running, prefill(prompt));
    result_.stats.prefill_seconds = seconds_since(begin);
    begin = std::chrono::steady_clock::now();
    while (running) {
      KVASIR_TRY(running, decode());
    }
    result_.stats.decode_seconds = seconds_since(begin);
    return result_;
  }

 private:
  bool interrupted() {
    if (!options_.interrupted || !options_.interrupted->load(std::memory_order_relaxed)) return false;
    result_.end = GenerationEnd::kCancelled;
    return true;
  }

  // The whole prompt in chunks; then samples the first token. False: generation is over.
  Result<bool> prefill(std::span<const int32_t> prompt) {
    auto total = static_cast<int64_t>(prompt.size());
    KVASIR_TRY_STATUS(sequence_.reserve(sequence_.length() + total + options_.max_tokens + options_.draft_tokens));
    if (options_.progress) options_.progress->begin("reading the prompt", ProgressUnit::kTokens, total);
    for (int64_t done = 0; done < total;) {
      if (interrupted()) return false;
      int64_t n = std::min(total - done, runner_.options().max_step_tokens);
      if (done < options_.snapshot_after) n = std::min(n, options_.snapshot_after - done);
      bool last = done + n == total;
      int64_t start = sequence_.length();
      Runner::Item item{&sequence_, prompt.subspan(done, n), last ? Runner::Logits::kLast : Runner::Logits::kNone};
      KVASIR_TRY_STATUS(runner_.step({&item, 1}));
      done += n;
      result_.stats.prompt_tokens = done;
      if (options_.snapshot && done == options_.snapshot_after) sequence_.take_snapshot(*options_.snapshot);
      if (options_.progress) options_.progress->tick(done);
      if (last) {
        if (options_.progress) options_.progress->end();
        return first_token(prompt.subspan(done - n, n), start);
      }
      // The draft block sees a window only, so it need not read what lies further back than that.
      if (options_.draft_tokens > 0 && total - done <= runner_.model().config.window)
        KVASIR_TRY_STATUS(runner_.draft(sequence_, start, prompt.subspan(done - n + 1, n)));
    }
    return false;
  }

  Result<bool> first_token(std::span<const int32_t> chunk, int64_t start) {
    SampledToken token = sampler_.sample(logit_row(0), sequence_.length());
    if (!emit(token)) return false;
    last_ = token.id;
    if (options_.draft_tokens > 0) {
      std::vector<int32_t> next(chunk.begin() + 1, chunk.end());
      next.push_back(last_);
      KVASIR_TRY_STATUS(runner_.draft(sequence_, start, next));
      draft_row_ = static_cast<int64_t>(next.size());
    }
    return true;
  }

  // One step on the last token and its drafts; emits what the trunk agrees with. False: it is over.
  Result<bool> decode() {
    if (interrupted()) return false;
    KVASIR_TRY_STATUS(make_drafts());
    int64_t start = sequence_.length();
    Runner::Item item{&sequence_, step_tokens_, Runner::Logits::kAll};
    KVASIR_TRY_STATUS(runner_.step({&item, 1}));
    ++result_.stats.decode_steps;
    auto drafts = static_cast<int64_t>(step_tokens_.size()) - 1;
    result_.stats.drafted += drafts;

    next_.clear();
    bool running = true;
    for (int64_t i = 0; running && i <= drafts; ++i) {
      SampledToken token = sampler_.sample(logit_row(i), start + i + 1);
      running = emit(token);
      next_.push_back(token.id);
      if (i == drafts || token.id != step_tokens_[i + 1]) break;
      if (running) ++result_.stats.accepted;
    }
    sequence_.roll_back(start + static_cast<int64_t>(next_.size()));
    last_ = next_.back();
    if (running && options_.draft_tokens > 0) {
      KVASIR_TRY_STATUS(runner_.draft(sequence_, start, next_));
      draft_row_ = static_cast<int64_t>(next_.size());
    }
    return running;
  }

  // step_tokens_ = the last token, then greedy drafts from the draft block's logits.
  Status make_drafts() {
    step_tokens_.assign(1, last_);
    int64_t room = options_.max_tokens - result_.stats.generated_tokens - 1;  // tokens beyond the next one
    int64_t wanted = std::min<int64_t>(options_.draft_tokens, room);
    for (int64_t i = 0; i < wanted; ++i) {
      auto row = logit_row(0);
      auto best = static_cast<int32_t>(std::max_element(row.data(), row.data() + row.shape(0)) - row.data());
      step_tokens_.push_back(best);
      if (i + 1 < wanted) {
        KVASIR_TRY_STATUS(runner_.chain_draft(sequence_, sequence_.length() + i, draft_row_, best));
        draft_row_ = 1;
      }
    }
    return {};
  }

  // Shows a token. False: it ended the generation.
  bool emit(const SampledToken& token) {
    if (std::find(options_.stop_ids.begin(), options_.stop_ids.end(), token.id) != options_.stop_ids.end()) {
      result_.end = GenerationEnd::kStop;
      return false;
    }
    ++result_.stats.generated_tokens;
    if (!on_token_(token)) {
      result_.end = GenerationEnd::kStop;
      return false;
    }
    if (result_.stats.generated_tokens >= options_.max_tokens) {
      result_.end = GenerationEnd::kLength;
      return false;
    }
    return true;
  }

  View<const float, 1> logit_row(int64_t i) { return {runner_.logits().row(i), {runner_.model().config.vocab_size}}; }

  Runner& runner_;
  Sequence& sequence_;
  const GenerationOptions& options_;
  const std::function<bool(const SampledToken&)>& on_token_;
  Sampler sampler_;
  GenerationResult result_;
  int32_t last_ = 0;                  // sampled, not yet in the cache
  int64_t draft_row_ = 1;             // rows of the last draft call; its last one holds the streams to chain from
  std::vector<int32_t> step_tokens_;  // last_ and its drafts
  std::vector<int32_t> next_;         // what the trunk sampled after each accepted row
};

}  // namespace

Result<GenerationResult> generate(Runner& runner, Sequence& sequence, std::span<const int32_t> prompt, const GenerationOptions& options,
                                const std::function<bool(const SampledToken&)>& on_token) {
  KVASIR_CHECK(options.draft_tokens < kRollbackSlack, "{} drafts, rollback reaches {}", options.draft_tokens, kRollbackSlack);
  if (prompt.empty()) return Error{ErrorCode::kInvalid, "the prompt is empty: at least one token is needed"};
  if (options.draft_tokens > 0 && !runner.model().mtp) {
    return Error{ErrorCode::kUnsupported, "drafts were asked for, but this checkpoint has no MTP block that kvasir can use"};
  }
  int64_t context = runner.model().config.max_context, held = sequence.length() + static_cast<int64_t>(prompt.size());
  if (held >= context) {
    return Error{ErrorCode::kInvalid, fmt::format("{} tokens of prompt{} leave no room for an answer: the model's context is {} tokens",
                                                  prompt.size(), sequence.length() > 0 ? fmt::format(" after {} in the cache", sequence.length()) : "",
                                                  context)};
  }
  GenerationOptions fitting = options;
  fitting.max_tokens = std::min(options.max_tokens, context - held);
  return Generation(runner, sequence, fitting, on_token).run(prompt);
}

}  // namespace kvasir
