// TextSession: a Session with its tokenizer and chat template: what generate and chat need to go from a
// conversation to token ids and from sampled tokens to text on a terminal.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/sampling_options.h"
#include "cli/session.h"
#include "engine/generator.h"
#include "text/answer_text.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace kvasir {

struct TextPrompt {
  std::vector<int32_t> ids;
  bool in_reasoning = false;
};

class TextSession {
 public:
  static Result<std::unique_ptr<TextSession>> open(const std::string& dir, const ComputeOptions& compute,
                                                   const RunnerOptions& options, ProgressSink* progress);

  // The conversation as this checkpoint's chat template has it.
  Result<TextPrompt> chat_prompt(const Conversation& conversation, ThinkChoice think) const;
  // BOS and the text as it is.
  Result<TextPrompt> raw_prompt(const std::string& text) const;

  Session& session() { return *session_; }
  Runner& runner() { return *session_->runner; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  int32_t eos_id() const { return session_->config().eos_id; }

 private:
  TextSession(std::unique_ptr<Session> session, Tokenizer tokenizer)
      : session_(std::move(session)), tokenizer_(std::move(tokenizer)) {}
  Status check_ids(const std::vector<int32_t>& ids) const;

  std::unique_ptr<Session> session_;
  Tokenizer tokenizer_;
};

// Sampling and drafts as the engine wants them. `seed` replaces an unset one. Errors: a biased id outside the
// vocabulary.
Result<GenerationOptions> generation_options(const SamplingOptions& sampling, int64_t max_tokens,
                                             TextSession& session, uint64_t seed);
uint64_t fresh_seed();

// A file's text as it stands in a prompt, in the form that DeepSeek recommends for file uploads: its name,
// then its contents between two marker lines. Errors: unreadable, too large.
Result<std::string> file_for_prompt(const std::string& path);

// "prompt 812 tokens at 954.1/s, 120 generated at 61.0/s, ...": one line, without a line end.
std::string statistics_line(const GenerationStats& stats, TextSession& session, const Sequence& sequence);

}  // namespace kvasir
