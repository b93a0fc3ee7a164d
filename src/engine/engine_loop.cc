// The order of a turn, ends of requests, and what the cache gets to keep; see engine_loop.h.
#include "engine/engine_loop.h"

#include <algorithm>

#include "engine/packed_state.h"

namespace kvasir {

EngineLoop::EngineLoop(std::unique_ptr<Runner> runner, std::unique_ptr<DiskStore> disk,
                       const EngineOptions& options)
    : options_(options),
      disk_(std::move(disk)),
      runner_(std::move(runner)),
      gate_(runner_->layout()),
      chunks_(options.step_tokens, options.gap_seconds),
      drafts_(static_cast<size_t>(std::max(0, options.draft_max_running)) + 1) {
  runner_->set_observer(options.observer);
  PrefixCacheOptions cache;
  cache.page_tokens = kPageTokens;
  cache.section_bytes = runner_->layout().section_bytes();
  cache.snapshot_bytes = options.snapshot_bytes;
  cache_ = std::make_unique<PrefixCache>(runner_->pool(), disk_.get(), cache);
  mask_.resize((static_cast<size_t>(runner_->model().config.vocab_size) + 31) / 32);
}

EngineLoop::~EngineLoop() { requests_.clear(); }

void EngineLoop::submit(std::unique_ptr<ActiveRequest> request) {
  ++counters_.requests;
  counters_.prompt_tokens += request->prompt_tokens;
  requests_.push_back(std::move(request));
}

// Readers are told once a turn, when everybody's token is there: a reader that wakes at the first takes the
// processor from the engine between two samples, and sleeps again before the next.
void EngineLoop::send(ActiveRequest& a, StreamEvent event) {
  if (a.stream->push(std::move(event))) untold_.push_back(a.stream);
}

void EngineLoop::tell_readers() {
  if (untold_.empty()) return;
  for (const auto& stream : untold_) stream->tell_reader();
  untold_.clear();
  if (options_.told) options_.told();
}

EngineLoop::Clock::time_point EngineLoop::turn(Clock::time_point now) {
  if (failed_) end_all(EndReason::kFailed, error_);
  expire(now);
  poll_restores();
  admit(now);
  start_early(now);
  if (plan()) {
    compute();
    remove_ended();
    tell_readers();
    return now;
  }
  remove_ended();
  tell_readers();
  auto next = Clock::time_point::max();
  for (const auto& a : requests_) {
    next = std::min(next, a->request.deadline);
    // Nothing signals that a read is done or that the disk has let go of pages.
    auto poll =
        a->phase == Phase::kRestoring ? std::chrono::microseconds(200) : std::chrono::microseconds(2000);
    next = std::min(next, now + poll);
  }
  return next;
}

void EngineLoop::expire(Clock::time_point now) {
  for (const auto& a : requests_) {
    if (a->phase == Phase::kEnded) continue;
    // A closing request has all its text: whoever goes away now has missed nothing.
    if (a->phase != Phase::kClosing && a->stream->cancelled.load(std::memory_order_relaxed)) {
      finish(*a, EndReason::kCancelled);
    } else if (a->phase != Phase::kClosing && now >= a->request.deadline) {
      finish(*a, EndReason::kDeadline);
    }
  }
  remove_ended();
}

void EngineLoop::end_all(EndReason reason, const Error& error) {
  for (const auto& a : requests_) finish(*a, reason, error);
  remove_ended();
  tell_readers();
}

void EngineLoop::fail(const Error& error) {
  failed_ = true;
  error_ = error;
  end_all(EndReason::kFailed, error);
}

// False inside a replay, where windows and tails are not yet what they would have been, and while pages are
// being read.
bool EngineLoop::exact(const ActiveRequest& a) {
  return a.sequence && !a.restore && (a.plan.replayed == 0 || a.length() >= a.plan.stored);
}

void EngineLoop::publish(ActiveRequest& a) {
  int64_t full = a.length() / kPageTokens;
  if (a.length() < a.plan.stored || full <= a.published) return;
  cache_->publish(a.key(full * kPageTokens), a.published,
                  a.sequence->page_ids().subspan(a.published, full - a.published));
  a.published = full;
}

void EngineLoop::keep_snapshot(ActiveRequest& a, SnapshotUse use) {
  if (a.length() == 0 || !exact(a)) return;
  publish(a);
  DraftWindow draft = drafts_possible() ? DraftWindow::kKeep : DraftWindow::kLeave;
  cache_->put_snapshot(a.key(a.length()), pack_state(runner_->layout(), *a.sequence, draft), use);
}

void EngineLoop::finish(ActiveRequest& a, EndReason reason, const Error& error) {
  if (a.phase == Phase::kEnded) return;
  if (!failed_) {
    if (a.sequence && a.length() > a.plan.start) {
      keep_snapshot(a, a.generated > 0 ? SnapshotUse::kOutputEnd : SnapshotUse::kPromptEnd);
      cache_->write_behind(a.key(a.length()));
    }
    drop_preempted_snapshot(a);
  }
  a.phase = Phase::kEnded;
  a.restore.reset();
  a.sequence.reset();
  ++releases_;
  counters_.cancelled += reason == EndReason::kCancelled || reason == EndReason::kDeadline;
  counters_.failed += reason == EndReason::kFailed;
  counters_.finished += reason == EndReason::kStop || reason == EndReason::kLength;
  StreamEvent end;
  end.kind = StreamEvent::Kind::kEnd;
  end.reason = reason;
  end.error = error;
  send(a, std::move(end));
}

void EngineLoop::drop_preempted_snapshot(ActiveRequest& a) {
  if (a.preempted_at > 0) cache_->drop_snapshot(a.key(a.preempted_at));
  a.preempted_at = 0;
}

void EngineLoop::remove_ended() {
  std::erase_if(requests_, [](const auto& a) { return a->phase == Phase::kEnded; });
}

EngineMetrics EngineLoop::metrics() const {
  EngineMetrics m = counters_;
  for (const auto& a : requests_) {
    bool runs = a->phase == Phase::kRunning || a->phase == Phase::kClosing;
    m.running += runs;
    m.restoring += a->phase == Phase::kRestoring;
    m.waiting += a->phase == Phase::kWaiting;
    m.preempted += a->phase == Phase::kWaiting && a->admitted;
    if (!a->sequence) continue;
    m.state_bytes += runner_->layout().state_bytes;
    m.page_bytes += a->sequence->held_bytes() - runner_->layout().state_bytes;
  }
  m.healthy = !failed_;
  return m;
}

}  // namespace kvasir
