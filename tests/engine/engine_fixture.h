// An engine on the bundled model, and readers that collect what it says.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "../placed_model.h"
#include "engine/engine.h"
#include "model/load.h"

namespace kvasir {

inline const Model& nano() {
  static auto* loaded = new Result<LoadedModel>(load_checkpoint(KVASIR_SOURCE_DIR "/models/nano", {}));
  if (!*loaded) {
    ADD_FAILURE() << loaded->error().message;
    std::abort();
  }
  return (*loaded)->model;
}

inline std::vector<int32_t> some_prompt(int64_t tokens, int64_t salt = 0) {
  std::vector<int32_t> ids(tokens);
  for (int64_t i = 0; i < tokens; ++i)
    ids[i] = static_cast<int32_t>(300 + (i * i + salt * (i + 7)) % 97 + salt % 11);
  return ids;
}

inline std::unique_ptr<Engine> make_engine(const Model& model, Numerics numerics, EngineOptions options = {},
                                           int threads = 2) {
  auto ops = make_ops({tested_backend(), numerics, {}, threads});
  EXPECT_TRUE(ops) << ops.error().message;
  const Model& there = placed(model, **ops);
  if (options.cache_bytes == 0) options.cache_bytes = int64_t{1} << 30;
  if (options.snapshot_bytes == 0) options.snapshot_bytes = int64_t{1} << 29;
  auto engine = Engine::make(there, *std::move(ops), std::move(options));
  EXPECT_TRUE(engine) << engine.error().message;
  return *std::move(engine);
}

inline int64_t page_bytes(const Model& model, Numerics numerics) {
  return KvLayout::make(model.config, numerics).page_bytes;
}

// After the turn in progress: a reader may see an event before the turn that sent it is counted.
inline EngineMetrics settled_metrics(Engine& engine) {
  engine.call([](PrefixCache&) {});
  return engine.metrics();
}

// Everything one request got.
struct Answer {
  std::vector<int32_t> ids;
  std::vector<SampledToken> tokens;
  CacheHit hit;
  std::vector<int64_t> prefilled;
  int admissions = 0;
  EndReason reason = EndReason::kFailed;
  Error error;

  int64_t miss(int64_t prompt) const { return prompt - hit.hit_tokens; }
};

// A reader that blocks its own thread.
class Reader {
 public:
  explicit Reader(Result<std::unique_ptr<TokenStream>> stream) {
    EXPECT_TRUE(stream) << stream.error().message;
    if (!stream) return;
    stream_ = *std::move(stream);
    stream_->set_notify([this] {
      std::lock_guard lock(mutex_);
      ready_ = true;
      condition_.notify_all();
    });
  }
  ~Reader() { stream_.reset(); }

  TokenStream& stream() { return *stream_; }
  StreamEvent next() {
    StreamEvent event;
    while (!stream_->try_next(event)) {
      std::unique_lock lock(mutex_);
      condition_.wait(lock, [&] { return ready_; });
      ready_ = false;
    }
    return event;
  }
  // Reads until `stop` says so or the request ends; true: it has ended.
  template <class Stop>
  bool read_until(Stop&& stop) {
    for (;;) {
      StreamEvent event = next();
      switch (event.kind) {
        case StreamEvent::Kind::kAdmitted:
          answer.hit = event.hit;
          ++answer.admissions;
          break;
        case StreamEvent::Kind::kPrefill:
          answer.prefilled.push_back(event.prefilled);
          break;
        case StreamEvent::Kind::kToken:
          answer.ids.push_back(event.token.id);
          answer.tokens.push_back(event.token);
          break;
        case StreamEvent::Kind::kEnd:
          answer.reason = event.reason;
          answer.error = event.error;
          return true;
      }
      if (stop(answer)) return false;
    }
  }
  Answer finish() {
    read_until([](const Answer&) { return false; });
    return answer;
  }

  Answer answer;

 private:
  std::mutex mutex_;
  std::condition_variable condition_;
  bool ready_ = false;
  std::unique_ptr<TokenStream> stream_;
};

inline Answer ask(Engine& engine, Request request) {
  return Reader(engine.submit(std::move(request))).finish();
}

inline Request greedy(std::vector<int32_t> prompt, int64_t max_tokens) {
  Request request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.sampling.temperature = 0;
  return request;
}

inline Request seeded(std::vector<int32_t> prompt, int64_t max_tokens, uint64_t seed) {
  Request request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.sampling.temperature = 1.0f;
  request.sampling.seed = seed;
  return request;
}

// With every log probability of every token: equal answers had equal logits, bit for bit.
inline Request with_logits(Request request) {
  request.sampling.top_logprobs = static_cast<int>(nano().config.vocab_size);
  return request;
}

inline void expect_same_bits(const Answer& a, const Answer& b, const std::string& what) {
  ASSERT_EQ(a.ids, b.ids) << what;
  for (size_t i = 0; i < a.tokens.size(); ++i) {
    ASSERT_EQ(a.tokens[i].logprob, b.tokens[i].logprob) << what << ", token " << i;
    ASSERT_EQ(a.tokens[i].top, b.tokens[i].top) << what << ", token " << i;
  }
}

}  // namespace kvasir
