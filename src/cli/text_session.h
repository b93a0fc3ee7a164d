// TextSession: a Session with its tokenizer and chat template: what generate and chat need to go from a
// conversation to token ids and from sampled tokens to text on a terminal.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cli/sampling_options.h"
#include "cli/session.h"
#include "engine/generator.h"
#include "text/chat_template.h"
#include "text/detokenizer.h"
#include "text/output_parser.h"
#include "text/stop_text.h"
#include "text/tokenizer.h"

namespace kvasir {

struct TextPrompt {
  std::vector<int32_t> ids;
  bool in_reasoning = false;
};

class TextSession {
 public:
  static Result<std::unique_ptr<TextSession>> open(const std::string& dir, const ComputeOptions& compute, const RunnerOptions& options,
                                                   ProgressSink* progress);

  // The conversation as this checkpoint's chat template has it.
  Result<TextPrompt> chat_prompt(const Conversation& conversation, ThinkChoice think) const;
  // BOS and the text as it is.
  Result<TextPrompt> raw_prompt(const std::string& text) const;

  Session& session() { return *session_; }
  Runner& runner() { return *session_->runner; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  int32_t eos_id() const { return session_->config().eos_id; }

 private:
  TextSession(std::unique_ptr<Session> session, Tokenizer tokenizer) : session_(std::move(session)), tokenizer_(std::move(tokenizer)) {}
  Status check_ids(const std::vector<int32_t>& ids) const;

  std::unique_ptr<Session> session_;
  Tokenizer tokenizer_;
};

// Sampling and drafts as the engine wants them. `seed` replaces an unset one. Errors: a biased id outside the vocabulary.
Result<GenerationOptions> generation_options(const SamplingOptions& sampling, int64_t max_tokens, TextSession& session, uint64_t seed);
uint64_t fresh_seed();

// Sampled tokens to text: whole characters, reasoning and content apart, nothing of the markup, nothing
// from a stop string on.
class AnswerText {
 public:
  using Show = std::function<void(Delta::Kind kind, std::string_view text)>;
  // `chat` false: everything is content, special tokens included. The tokenizer outlives this.
  AnswerText(const Tokenizer& tokenizer, bool chat, bool in_reasoning, std::vector<std::string> stop, Show show);

  // False: a stop string was reached.
  bool push(int32_t id);
  void finish();

 private:
  void take(std::string_view text, TextKind kind);
  void show(const std::vector<Delta>& deltas);

  const Tokenizer& tokenizer_;
  bool chat_;
  Detokenizer detokenizer_;
  OutputParser parser_;
  StopText stop_;
  Show show_;
};

// A file's text as it stands in a prompt, in the form that DeepSeek recommends for file uploads: its name, then
// its contents between two marker lines. Errors: unreadable, too large.
Result<std::string> file_for_prompt(const std::string& path);

// "prompt 812 tokens at 954.1/s, 120 generated at 61.0/s, ...": one line, without a line end.
std::string statistics_line(const GenerationStats& stats, TextSession& session, const Sequence& sequence);

}  // namespace kvasir
