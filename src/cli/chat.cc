// kvasir chat: a conversation at a terminal (or a pipe), on one sequence whose cache is reused turn by turn.
//
// The prompt of each turn is rendered whole; the part of it that equals what the sequence already holds is
// not computed again. A turn that changes earlier text (old reasoning is dropped, protocol 2.3) goes back to
// the snapshot taken just before the last answer (CACHE-4), else starts the sequence again.
#include "cli/chat.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdio>

#include "base/json_writer.h"
#include "cli/chat_command.h"
#include "cli/error.h"
#include "cli/interrupt.h"
#include "cli/line_reader.h"
#include "cli/progress_bar.h"
#include "cli/text_session.h"
#include "io/file.h"
#include "text/chat_json.h"

namespace kvasir {
namespace {

constexpr int64_t kMaxSavedBytes = int64_t{1} << 30;

class Chat {
 public:
  Chat(const ChatOptions& options, std::unique_ptr<TextSession> session, Sequence sequence)
      : options_(options),
        session_(std::move(session)),
        sequence_(std::move(sequence)),
        think_(options.think) {}

  int run() {
    LineReader reader(0, default_history_path(), [&] { return guard_.interrupted(); });
    if (reader.is_terminal()) std::puts("Type a message, or /help. Ctrl-C stops an answer, Ctrl-D ends.");
    std::string message;
    for (;;) {
      switch (reader.read("> ", message)) {
        case ReadOutcome::kEnd:
          return kExitOk;
        case ReadOutcome::kInterrupted:
          guard_.clear();
          continue;
        case ReadOutcome::kMessage:
          break;
      }
      if (message.empty()) continue;
      const char* home = std::getenv("HOME");
      auto command = parse_chat_command(message, home ? home : "");
      if (!command) {
        std::fprintf(stderr, "%s\n", error_line(command.error().message).c_str());
        continue;
      }
      if (std::holds_alternative<ExitCommand>(*command)) return kExitOk;
      Status status = std::visit([&](const auto& c) { return handle(c); }, *command);
      if (!status) std::fprintf(stderr, "%s\n", error_line(status.error().message).c_str());
      guard_.clear();
    }
  }

 private:
  Status handle(const SayCommand& c) { return say(c.text); }
  Status handle(const AttachFileCommand& c) {
    KVASIR_TRY(std::string text, file_for_prompt(c.path));
    attached_ += text;
    std::fprintf(stderr, "%s goes with your next message\n", printable(c.path).c_str());
    return {};
  }
  Status handle(const SetThinkCommand& c) {
    think_ = c.think;
    return {};
  }
  Status handle(const ShowStatsCommand&) {
    std::string line = last_stats_.prompt_tokens > 0 ? statistics_line(last_stats_, *session_, sequence_)
                                                     : "nothing has been said yet";
    std::fprintf(stderr, "%s\n", line.c_str());
    return {};
  }
  Status handle(const SaveCommand& c) {
    std::string text = saved_text();
    KVASIR_TRY(AtomicFile file, AtomicFile::create(c.path));
    KVASIR_TRY_STATUS(file.write(std::as_bytes(std::span(text))));
    KVASIR_TRY_STATUS(file.commit());
    std::fprintf(stderr, "saved %zu messages to %s\n", conversation_.messages.size(),
                 printable(c.path).c_str());
    return {};
  }
  Status handle(const LoadCommand& c) {
    KVASIR_TRY(std::string text, read_text_file(c.path, kMaxSavedBytes));
    auto json = JsonValue::parse(text);
    if (!json) return Error{json.error().code, c.path + ": " + json.error().message};
    auto loaded = conversation_from_json(*json, OtherParts::kReject);
    if (!loaded) return Error{loaded.error().code, c.path + ": " + loaded.error().message};
    conversation_ = std::move(*loaded);
    std::fprintf(stderr, "loaded %zu messages; the next answer reads them again\n",
                 conversation_.messages.size());
    return {};
  }
  Status handle(const HelpCommand&) {
    std::fputs(chat_help().c_str(), stdout);
    return {};
  }
  Status handle(const ExitCommand&) { return {}; }  // run() has left by then

  // One turn. On an error, or when nothing was answered, the conversation is as it was before; files whose
  // reading was stopped are let go of, since nothing else could.
  Status say(const std::string& text) {
    conversation_.messages.push_back({Role::kUser, attached_ + text});
    Message answer;
    answer.role = Role::kAssistant;
    Status status = reply(answer);
    if (!status || (answer.content.empty() && !answer.reasoning)) {
      conversation_.messages.pop_back();
      if (guard_.interrupted() && !attached_.empty()) {
        attached_.clear();
        std::fputs("the files do not go with your next message any more\n", stderr);
      }
      return status;
    }
    attached_.clear();
    conversation_.messages.push_back(std::move(answer));
    return status;
  }

  Status reply(Message& answer) {
    KVASIR_TRY(TextPrompt prompt, session_->chat_prompt(conversation_, think_));
    KVASIR_TRY(GenerationOptions generation,
               generation_options(options_.sampling, options_.max_tokens, *session_, fresh_seed()));
    ProgressBar bar;
    generation.progress = &bar;
    generation.interrupted = &guard_.flag();
    int64_t shared = share_prefix(prompt.ids);
    // The answer of a thinking turn is rendered without its reasoning in the next prompt, which then differs
    // from the prompt's last token on.
    generation.snapshot_after = static_cast<int64_t>(prompt.ids.size()) - 1 - shared;
    generation.snapshot = &snapshot_;
    bool in_reasoning = false;
    auto show = [&](const std::vector<Delta>& deltas) {
      for (const Delta& delta : deltas) {
        bool reasoning = delta.kind == Delta::Kind::kReasoning;
        if (in_reasoning && !reasoning) std::fputs("\n--- end of reasoning ---\n", stdout);
        in_reasoning = reasoning;
        if (reasoning && !answer.reasoning) answer.reasoning.emplace();
        (reasoning ? *answer.reasoning : answer.content) += delta.text;
        std::fwrite(delta.text.data(), 1, delta.text.size(), stdout);
        std::fflush(stdout);
      }
    };
    AnswerText text(session_->tokenizer(), OutputFormat{prompt.in_reasoning, ToolChoice::kAuto, {}},
                    options_.sampling.stop);
    auto result = generate(session_->runner(), sequence_, std::span(prompt.ids).subspan(shared), generation,
                           [&](const SampledToken& token) {
                             held_.push_back(token.id);
                             show(text.push(token.id));
                             return !text.is_done();
                           });
    if (!result) {
      forget();
      return result.error();
    }
    show(text.finish(EndCause::kStop));
    std::puts(result->end == GenerationEnd::kCancelled ? "\n[stopped]" : "");
    held_.resize(sequence_.length());  // the last token shown may not be in the cache
    last_stats_ = result->stats;
    last_stats_.cached_tokens = shared;
    return {};
  }

  // Makes the sequence hold a proper prefix of `ids`, as long as it can, and returns its length. The rest of
  // `ids` is about to be computed, so held_ becomes all of them.
  int64_t share_prefix(const std::vector<int32_t>& ids) {
    auto both = static_cast<int64_t>(std::min(held_.size(), ids.size() - 1));
    int64_t same = std::mismatch(held_.begin(), held_.begin() + both, ids.begin()).first - held_.begin();
    if (sequence_.length() - same <= kRollbackSlack) {
      sequence_.roll_back(same);
    } else if (snapshot_.length <= same) {
      sequence_.restore(snapshot_);
    } else {
      forget();
    }
    same = sequence_.length();
    if (snapshot_.length > same) snapshot_.length = 0;  // its last tokens are about to be overwritten
    held_ = ids;
    return same;
  }

  void forget() {
    sequence_.reset();
    snapshot_.length = 0;
    held_.clear();
  }

  // The conversation as /load reads it: an OpenAI-style message list.
  std::string saved_text() const {
    JsonWriter json(JsonWriter::Layout::kIndented);
    json.begin_object().begin_array("messages");
    for (const Message& m : conversation_.messages) {
      json.begin_object().field("role", m.role == Role::kAssistant ? "assistant"
                                        : m.role == Role::kSystem  ? "system"
                                                                   : "user");
      json.field("content", m.content);
      if (m.reasoning) json.field("reasoning_content", *m.reasoning);
      json.end_object();
    }
    json.end_array().end_object();
    return json.text() + "\n";
  }

  const ChatOptions& options_;
  std::unique_ptr<TextSession> session_;
  Sequence sequence_;
  ThinkChoice think_;
  Conversation conversation_;
  std::string attached_;       // files that go with the next message
  std::vector<int32_t> held_;  // the tokens that sequence_ holds
  Snapshot snapshot_;          // of sequence_, just before the last answer
  GenerationStats last_stats_;
  InterruptGuard guard_{SecondInterrupt::kIsIgnored};
};

Result<int> run(const ChatOptions& options) {
  ProgressBar bar;
  RunnerOptions runner_options;
  runner_options.max_step_tokens = kPrefillChunk;
  runner_options.mtp = options.sampling.draft == DraftChoice::kMtp;
  KVASIR_TRY(auto session, TextSession::open(options.model_dir, options.compute, runner_options, &bar));
  KVASIR_TRY(Sequence sequence, session->runner().make_sequence());
  return Chat(options, std::move(session), std::move(sequence)).run();
}

}  // namespace

int run_chat(const ChatOptions& options) {
  auto code = run(options);
  return code ? *code : report_error(code.error());
}

}  // namespace kvasir
