// EngineLoop: what the engine thread does, one step after another. Everything here belongs to that thread.
//
//   admit    waiting requests, in order, while their pages fit (engine_admission.cc)
//   plan     rows of each sequence (scheduler.h), pages for them; who must give way is preempted
//   compute  one Runner::step for everybody, then drafts (engine_step.cc)
//   commit   sample, publish full pages, keep snapshots, send events, end sequences
//
// Errors: a step that fails is sticky. Its sequences end with kFailed, so does everything that comes later.
#pragma once

#include <list>
#include <memory>
#include <vector>

#include "engine/active_request.h"
#include "engine/pacer.h"
#include "engine/restore_gate.h"
#include "engine/runner.h"
#include "engine/scheduler.h"

namespace kvasir {

class EngineLoop {
 public:
  using Clock = std::chrono::steady_clock;

  EngineLoop(std::unique_ptr<Runner> runner, std::unique_ptr<DiskStore> disk, const EngineOptions& options);
  ~EngineLoop();

  void submit(std::unique_ptr<ActiveRequest> request);
  // Everything one step does. Returns when to call again at the latest if nothing is signalled: now while
  // there is work.
  Clock::time_point turn(Clock::time_point now);
  // Ends everything, and tells the readers.
  void end_all(EndReason reason, const Error& error);
  bool idle() const { return requests_.empty(); }
  void fail(const Error& error);

  PrefixCache& cache() { return *cache_; }
  // All but the cache's, which cost a walk over its records: those are cache().metrics().
  EngineMetrics metrics() const;

 private:
  using Phase = ActiveRequest::Phase;
  using List = std::list<std::unique_ptr<ActiveRequest>>;

  // engine_admission.cc
  void admit(Clock::time_point now);
  bool try_admit(ActiveRequest& a, Clock::time_point now);
  bool waits_for_leader(ActiveRequest& a);
  bool follow_leader(ActiveRequest& a);
  int64_t pages_wanted(const ActiveRequest& a) const;
  bool pages_suffice(const ActiveRequest& a, int64_t adopted) const;
  bool make_way_for(Priority priority);
  void preempt(ActiveRequest& a);
  void poll_restores();
  void start(ActiveRequest& a);
  void start_early(Clock::time_point now);
  bool take_restored(ActiveRequest& a);
  void finish_restore(ActiveRequest& a, Clock::duration waited);
  void look_up_again(ActiveRequest& a, const Error& error);
  Status take_pages(ActiveRequest& a);
  void set_points(ActiveRequest& a, int64_t branch_length);
  void add_point(ActiveRequest& a, SnapshotPoint point);

  // engine_step.cc
  struct Row;
  bool plan();
  Schedulable describe(const ActiveRequest& a) const;
  void preempt_one();
  bool find_pages();
  void compute();
  bool end_early(ActiveRequest& a);
  void commit(Row& row);
  bool sample_rows(ActiveRequest& a, const Row& row);
  Status sample(ActiveRequest& a, int64_t logit, int64_t position, SampledToken& token);
  bool drafts_possible() const;
  void draft();
  void record(int64_t decode_rows, int64_t prefill_rows, Clock::time_point begin, Clock::time_point computed,
              Clock::time_point sampled, int64_t generated);

  // engine_loop.cc
  void send(ActiveRequest& a, StreamEvent event);
  void tell_readers();
  static bool exact(const ActiveRequest& a);
  void publish(ActiveRequest& a);
  void keep_snapshot(ActiveRequest& a, SnapshotUse use);
  void drop_preempted_snapshot(ActiveRequest& a);
  void expire(Clock::time_point now);
  // Sends kEnd; what was computed stays in the cache. The request is erased by remove_ended().
  void finish(ActiveRequest& a, EndReason reason, const Error& error = {});
  void remove_ended();

  View<const float, 1> logit_row(int64_t i) const {
    return {runner_->logits().row(i), {runner_->model().config.vocab_size}};
  }

  const EngineOptions& options_;
  std::unique_ptr<DiskStore> disk_;
  std::unique_ptr<Runner> runner_;
  std::unique_ptr<PrefixCache> cache_;  // its pages are the runner's
  RestoreGate gate_;
  List requests_;  // in order of arrival
  ChunkPacer chunks_;
  std::vector<DraftPacer> drafts_;  // by number of decoding sequences
  uint64_t releases_ = 1;  // how often pages came free: a request that did not fit need not ask before
  std::vector<std::shared_ptr<StreamState>> untold_;  // streams that turned from empty to not empty this turn
  bool failed_ = false;
  Error error_;

  // The step in progress.
  struct Row {
    ActiveRequest* request = nullptr;
    int64_t first_row = 0;     // in the step
    int64_t start = 0;         // length before the step
    int64_t drafts = 0;        // at the end of `ids`
    int64_t first_logit = -1;  // -1: none
    std::vector<int32_t> ids;
  };
  std::vector<Row> rows_;
  std::vector<Runner::Item> items_;
  std::vector<ActiveRequest*> running_;
  std::vector<Schedulable> schedulable_;
  std::vector<int64_t> planned_;  // rows of running_
  std::vector<Runner::DraftItem> draft_items_;
  std::vector<ActiveRequest*> draft_owners_;
  std::vector<uint32_t> mask_;
  bool drafting_ = false;
  EngineMetrics counters_;
};

}  // namespace kvasir
