// From text to ids and from ids to shown text; see text_session.h.
#include "cli/text_session.h"

#include <fmt/core.h>

#include <filesystem>
#include <random>

#include "cli/table.h"
#include "io/file.h"
#include "model/accounting.h"

namespace kvasir {
namespace {

constexpr int64_t kMaxPromptFileBytes = int64_t{256} << 20;

}  // namespace

Result<std::unique_ptr<TextSession>> TextSession::open(const std::string& dir, const ComputeOptions& compute,
                                                       const RunnerOptions& options, ProgressSink* progress) {
  std::string folder = dir;
  if (folder.empty()) {
    KVASIR_TRY(folder, bundled_model_dir());
  }
  KVASIR_TRY(Tokenizer tokenizer, Tokenizer::load(folder));
  KVASIR_TRY(auto session, open_session(folder, compute, options, progress));
  return std::unique_ptr<TextSession>(new TextSession(std::move(session), std::move(tokenizer)));
}

Status TextSession::check_ids(const std::vector<int32_t>& ids) const {
  for (int32_t id : ids) {
    if (id >= session_->config().vocab_size) {
      return Error{ErrorCode::kInvalid,
                   fmt::format("{}: tokenizer.json gives token id {}, the model has {} (vocab_size)",
                               session_->dir, id, session_->config().vocab_size)};
    }
  }
  return {};
}

Result<TextPrompt> TextSession::chat_prompt(const Conversation& conversation, ThinkChoice think) const {
  RenderOptions options;
  options.revision =
      session_->loaded.revision == ChatRevision::kB ? TemplateRevision::kB : TemplateRevision::kA;
  options.thinking = think == ThinkChoice::kOff ? Thinking::kOff : Thinking::kOn;
  options.effort = think == ThinkChoice::kMax    ? Effort::kMax
                   : think == ThinkChoice::kHigh ? Effort::kHigh
                                                 : Effort::kNone;
  KVASIR_TRY(RenderedPrompt rendered, render_chat(conversation, options));
  TextPrompt prompt{tokenizer_.encode(rendered.text, rendered.protected_ranges), rendered.in_reasoning};
  KVASIR_TRY_STATUS(check_ids(prompt.ids));
  return prompt;
}

Result<TextPrompt> TextSession::raw_prompt(const std::string& text) const {
  TextPrompt prompt{{session_->config().bos_id}, false};
  std::vector<int32_t> ids = tokenizer_.encode(text);
  prompt.ids.insert(prompt.ids.end(), ids.begin(), ids.end());
  KVASIR_TRY_STATUS(check_ids(prompt.ids));
  return prompt;
}

uint64_t fresh_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

Result<GenerationOptions> generation_options(const SamplingOptions& sampling, int64_t max_tokens,
                                             TextSession& session, uint64_t seed) {
  GenerationOptions o;
  o.sampling.temperature = static_cast<float>(sampling.temperature);
  o.sampling.top_p = static_cast<float>(sampling.top_p);
  o.sampling.top_k = sampling.top_k;
  o.sampling.min_p = static_cast<float>(sampling.min_p);
  o.sampling.seed = sampling.seed.value_or(seed);
  o.sampling.top_logprobs = -1;
  int64_t vocab = session.session().config().vocab_size;
  for (auto [id, bias] : sampling.logit_bias) {
    if (id >= vocab) {
      return Error{
          ErrorCode::kInvalid,
          fmt::format("--logit-bias: token id {} is outside this model's vocabulary of {}", id, vocab)};
    }
    o.sampling.logit_bias.emplace_back(static_cast<int32_t>(id), bias);
  }
  o.max_tokens = max_tokens;
  o.stop_ids = {session.eos_id()};
  o.draft_tokens = sampling.draft == DraftChoice::kMtp ? 1 : 0;
  return o;
}

Result<std::string> file_for_prompt(const std::string& path) {
  KVASIR_TRY(std::string text, read_text_file(path, kMaxPromptFileBytes));
  bool ends_line = !text.empty() && text.back() == '\n';
  return fmt::format("[file name]: {}\n[file content begin]\n{}{}[file content end]\n", path, text,
                     ends_line ? "" : "\n");
}

std::string statistics_line(const GenerationStats& s, TextSession& session, const Sequence& sequence) {
  const ModelConfig& config = session.session().config();
  int64_t context = std::max<int64_t>(1, sequence.length());
  Footprint own = v4_footprint(config, context, CacheRows::stored(config, session.session().numerics));
  auto rate = [](int64_t tokens, double seconds) {
    return tokens > 0 && seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0;
  };
  std::string line = fmt::format("prompt {} tokens{} at {:.1f}/s, {} generated at {:.1f}/s", s.prompt_tokens,
                                 s.cached_tokens > 0 ? fmt::format(" after {} cached", s.cached_tokens) : "",
                                 rate(s.prompt_tokens, s.prefill_seconds), s.generated_tokens,
                                 rate(s.generated_tokens - 1, s.decode_seconds));
  if (s.drafted > 0) {
    line += fmt::format(", drafts {} of {} accepted ({:.2f} tokens a step)", s.accepted, s.drafted,
                        static_cast<double>(s.generated_tokens - 1) / static_cast<double>(s.decode_steps));
  }
  return line + fmt::format("; KV of {} tokens {} (GQA8 bf16: {})", context,
                            human_bytes(static_cast<double>(own.kv_bytes())),
                            human_bytes(static_cast<double>(gqa8_footprint(config, context).kv_bytes())));
}

}  // namespace kvasir
