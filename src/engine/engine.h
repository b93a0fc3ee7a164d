// Engine: the thread that runs the model for everyone. Requests go in, tokens come out.
//
// One thread owns the runner, the sequences and the prefix cache; it schedules, runs one step, samples,
// publishes, and repeats. Everybody else talks to it through submit(), TokenStream and call(). Design:
// docs/engine.md.
#pragma once

#include <functional>
#include <memory>

#include "cache/disk_store.h"
#include "cache/prefix_cache.h"
#include "engine/request.h"
#include "engine/runner.h"

namespace kvasir {

struct EngineOptions {
  int64_t step_tokens = 512;  // budget of one step: decode rows first, prefill chunks fill the rest
  int max_running = 64;       // sequences in one step
  int max_waiting = 1024;     // more are refused with kBusy
  int64_t cache_bytes =
      0;  // memory for pages of running sequences and of the cache together; 0: a share of the machine's
  int64_t snapshot_bytes = 0;  // memory for snapshots; 0: a share
  int64_t max_context = 0;     // tokens of one sequence; 0: the model's
  int draft_tokens = 0;        // MTP drafts per sequence and step while few run
  int draft_max_running = 2;   // drafts are off while more sequences than this decode
  double gap_seconds =
      0.05;  // a prefill beside running streams is cut so that steps stay this short, or twice a decode step
  std::unique_ptr<DiskStore> disk;      // null: memory only
  ForwardObserver* observer = nullptr;  // of every step; outlives the engine
  // Runs on the engine thread after the `notify` of all streams that a step has news for: who reads many
  // streams can wake once for all of them. Must not block.
  std::function<void()> told;
};

struct StreamState;  // what the two ends of a stream share

// Reader's end of one request. Destroying it cancels the request. One reader; try_next never blocks.
class TokenStream {
 public:
  ~TokenStream();
  // `notify` runs on the engine thread when the stream has turned from empty to not empty, at the end of the
  // step (at once, if it already is not); it must not block, nor touch the stream. EngineOptions::told
  // follows. Set before the first try_next.
  void set_notify(std::function<void()> notify);
  // False: nothing there now. After kEnd there is never anything more.
  bool try_next(StreamEvent& event);
  // Ends the request within one step; the stream still delivers its kEnd. What was computed stays in the
  // cache.
  void cancel();

 private:
  friend class Engine;
  explicit TokenStream(std::shared_ptr<StreamState> state);
  std::shared_ptr<StreamState> state_;
};

// Counters since the start, and gauges of the last step.
struct EngineMetrics {
  int64_t running = 0, restoring = 0, waiting = 0,
          preempted = 0;  // preempted: those of the waiting that ran before
  int64_t requests = 0, finished = 0, cancelled = 0, failed = 0, preemptions = 0;
  int64_t prompt_tokens = 0, hit_tokens_memory = 0, hit_tokens_disk = 0, replayed_tokens = 0;
  int64_t early_starts = 0,
          early_losses =
              0;  // restores that computed while being read; those of them that lost bytes, and began again
  int64_t generated_tokens = 0, drafted_tokens = 0, accepted_tokens = 0;
  int64_t steps = 0, step_tokens = 0;
  double step_seconds = 0, prefill_step_seconds = 0, decode_step_seconds = 0;
  double forward_seconds = 0, sample_seconds = 0, draft_seconds = 0;  // parts of step_seconds
  int64_t page_bytes = 0, state_bytes = 0;                            // held by running sequences
  PrefixCacheMetrics cache;                                           // at most a quarter of a second old
  bool healthy = true;
};

class Engine {
 public:
  // `model` outlives the engine. Starts the thread.
  static Result<std::unique_ptr<Engine>> make(const Model& model, std::unique_ptr<Ops> ops,
                                              EngineOptions options);
  // Cancels what runs, writes what the disk tier should keep, joins.
  ~Engine();

  // kInvalid: the prompt is empty, has an id outside the vocabulary, or does not fit the context. kBusy: too
  // many are waiting, or the engine drains. Any thread.
  Result<std::unique_ptr<TokenStream>> submit(Request request);

  // Takes no new requests from now on; returns when the running ones have ended or `deadline` has come.
  void drain(std::chrono::steady_clock::time_point deadline);

  // Runs `work` on the engine thread between two steps and waits for it (administration: list, save, delete,
  // fork).
  void call(const std::function<void(PrefixCache&)>& work);

  EngineMetrics metrics() const;
  int64_t max_context() const;

  // Fills in what the disk tier must know of pages and snapshots: page_tokens, section_bytes, model.layout
  // and model.numerics. The rest is the caller's. Pages of one numerics are good for every backend and
  // instruction set.
  static void describe_pages(const Model& model, Numerics numerics, DiskOptions& disk);

 private:
  struct Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvasir
