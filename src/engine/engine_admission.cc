// Who may run: waiting requests in order, what the cache has of them, and who gives way; see engine_loop.h.
//
// Pages are promised, not allocated: a request is admitted if its prompt and the next kGrowthTokens of its
// answer fit beside what was promised to those that run. Answers that grow beyond that meet a full pool
// sooner or later: then the latest of the lowest priority gives way. Since one sequence of max_context always
// fits alone, the first of the highest priority always goes on: there is no deadlock, and nothing is held
// back for answers that stay short.
#include <algorithm>

#include "engine/engine_loop.h"
#include "engine/packed_state.h"

namespace kvasir {
namespace {

constexpr int64_t kGrowthTokens = 256;  // of an answer, promised at admission
constexpr int64_t kWorthWaiting = 256;  // tokens that another request is about to compute anyway
constexpr size_t kLatePoints = 4;       // resume points of a prompt, from its end, that get a snapshot
constexpr int kMaxAttempts = 3;         // at reading a prefix that turns out damaged; then it is computed
constexpr std::chrono::milliseconds kLongestHold{500};  // by a step that computes while its pages are read

}  // namespace

int64_t EngineLoop::pages_wanted(const ActiveRequest& a) const {
  int64_t growth = std::min(a.max_tokens - a.generated, kGrowthTokens);
  return KvLayout::pages_for(a.known() + std::max<int64_t>(growth, 0));
}

// Whether `a` fits if `adopted` of its pages are there (pinned) already.
bool EngineLoop::pages_suffice(const ActiveRequest& a, int64_t adopted) const {
  int64_t promised = 0;
  bool alone = true;
  for (const auto& other : requests_) {
    if (other.get() == &a || other->phase == Phase::kWaiting || other->phase == Phase::kEnded) continue;
    int64_t held = other->sequence ? static_cast<int64_t>(other->sequence->page_ids().size())
                                   : other->plan.stored / kPageTokens;
    promised += std::max<int64_t>(0, pages_wanted(*other) - held);
    alone = false;
  }
  if (alone) return true;
  return pages_wanted(a) - adopted + promised <= runner_->pool().available_pages() + cache_->idle_pages();
}

void EngineLoop::admit(Clock::time_point now) {
  auto running = std::count_if(requests_.begin(), requests_.end(),
                               [](const auto& a) { return a->phase != Phase::kWaiting; });
  for (Priority priority : {Priority::kInteractive, Priority::kBatch}) {
    for (const auto& a : requests_) {
      if (a->phase != Phase::kWaiting || a->request.priority != priority || waits_for_leader(*a)) continue;
      bool admitted = false;
      while (!admitted) {
        // Nothing came free since it last did not fit: those behind it wait as well.
        if (running > 0 && a->tried_at == releases_) return;
        bool room = running < options_.max_running;
        if (room && try_admit(*a, now)) {
          admitted = true;
          ++running;
        } else if (room && a->leader != 0) {
          break;
        } else if (make_way_for(priority)) {
          --running;
        } else {
          a->tried_at = releases_;
          return;
        }
      }
    }
  }
}

bool EngineLoop::try_admit(ActiveRequest& a, Clock::time_point now) {
  PrefixMatch match = cache_->lookup(a.key(a.known()), a.known() - 1);
  if (a.attempts < kMaxAttempts)
    a.plan = plan_resume(match, runner_->model().config.num_layers);
  else
    a.plan = {};
  if (follow_leader(a)) return false;
  if (a.plan.stored > 0 || a.plan.snapshot > 0) {
    auto restore = cache_->restore(a.key(a.known()), a.plan.stored, a.plan.snapshot);
    if (!restore) return false;
    a.restore = std::move(*restore);
  }
  if (!pages_suffice(a, a.plan.stored / kPageTokens)) {
    a.restore.reset();
    return false;
  }
  a.phase = Phase::kRestoring;
  set_points(a, match.branch_length);
  a.restore_begin = now;
  if (!a.restore || a.restore->done()) start(a);
  return true;
}

bool EngineLoop::waits_for_leader(ActiveRequest& a) {
  if (a.leader == 0) return false;
  for (const auto& other : requests_) {
    bool computes = other->phase == Phase::kRunning || other->phase == Phase::kRestoring;
    if (other->order == a.leader && computes && other->length() < a.leader_tokens) return true;
  }
  a.leader = 0;
  return false;
}

// Waits for a request that is about to compute what this one needs, and has it keep a snapshot where the two
// part.
bool EngineLoop::follow_leader(ActiveRequest& a) {
  for (const auto& other : requests_) {
    ActiveRequest& l = *other;
    if (&l == &a || (l.phase != Phase::kRunning && l.phase != Phase::kRestoring)) continue;
    if (l.request.cache_namespace != a.request.cache_namespace || l.request.priority > a.request.priority)
      continue;
    auto parted = std::mismatch(a.tokens.begin(), a.tokens.end(), l.tokens.begin(), l.tokens.end()).first;
    int64_t common =
        std::min({static_cast<int64_t>(parted - a.tokens.begin()), a.known() - 1, l.known() - 1});
    if (common - a.plan.start < kWorthWaiting || common <= std::max(l.length(), l.plan.stored)) continue;
    a.leader = l.order;
    a.leader_tokens = common;
    add_point(l, {common, SnapshotUse::kBranch});
    return true;
  }
  return false;
}

// An interactive request need not wait for batch ones that run.
bool EngineLoop::make_way_for(Priority priority) {
  if (priority != Priority::kInteractive) return false;
  for (auto it = requests_.rbegin(); it != requests_.rend(); ++it) {
    bool runs = (*it)->phase == Phase::kRunning || (*it)->phase == Phase::kRestoring;
    if (!runs || (*it)->request.priority == Priority::kInteractive) continue;
    preempt(**it);
    return true;
  }
  return false;
}

void EngineLoop::preempt(ActiveRequest& a) {
  ++counters_.preemptions;
  ++releases_;
  if (a.phase == Phase::kClosing) return finish(a, a.reason);
  if (exact(a) && a.length() > 0) {
    drop_preempted_snapshot(a);
    keep_snapshot(a, SnapshotUse::kPreempted);
    a.preempted_at = a.length();
  }
  a.phase = Phase::kWaiting;
  a.restore.reset();
  a.sequence.reset();
  a.drafts.clear();
  a.published = 0;
  a.tried_at = 0;
}

void EngineLoop::poll_restores() {
  for (const auto& a : requests_)
    if (a->phase == Phase::kRestoring && a->restore->done()) start(*a);
}

void EngineLoop::start(ActiveRequest& a) {
  if (take_restored(a)) finish_restore(a, Clock::now() - a.restore_begin);
}

// While nothing runs, a request need not wait for the last of its pages: it begins with the layers whose
// sections are there (restore_gate.h; compute() sees it through). Not before the rest is about to come: new
// requests and cancellations are held up as long as its first step takes.
void EngineLoop::start_early(Clock::time_point now) {
  for (const auto& a : requests_)
    if (a->phase == Phase::kRunning || a->phase == Phase::kClosing) return;
  for (const auto& a : requests_) {
    if (a->phase != Phase::kRestoring) continue;
    int ready = a->restore->sections_ready(),
        left = static_cast<int>(runner_->layout().section_bytes().size()) - ready;
    bool readable = ready > 0 && a->restore->page_tokens() >= a->plan.stored &&
                    (a->plan.snapshot == 0 || a->restore->snapshot());
    if (!readable || (now - a->restore_begin) * left > kLongestHold * ready) continue;
    if (take_restored(*a)) {
      ++counters_.early_starts;
      a->waited = now - a->restore_begin;
    }
    return;
  }
}

// False: there is less than was planned with, and the request waits again.
bool EngineLoop::take_restored(ActiveRequest& a) {
  if (auto taken = take_pages(a); !taken) {
    look_up_again(a, taken.error());
    return false;
  }
  a.phase = Phase::kRunning;
  a.published = a.plan.stored / kPageTokens;
  return true;
}

// Bytes were lost, or memory is short: what is left is looked up again, and at last done without.
void EngineLoop::look_up_again(ActiveRequest& a, const Error& error) {
  if (++a.attempts > 2 * kMaxAttempts) return finish(a, EndReason::kFailed, error);
  if (a.plan.snapshot > 0 && error.code == ErrorCode::kInvalid) cache_->drop_snapshot(a.key(a.plan.snapshot));
  a.phase = Phase::kWaiting;
  a.sequence.reset();
  a.restore.reset();
  ++releases_;
}

// All that was asked for is there.
void EngineLoop::finish_restore(ActiveRequest& a, Clock::duration waited) {
  CacheHit hit;
  hit.tier = a.restore ? a.restore->tier() : CacheTier::kNone;
  a.restore.reset();
  drop_preempted_snapshot(a);
  counters_.replayed_tokens += a.plan.replayed;
  if (a.admitted) return;
  a.admitted = true;
  hit.hit_tokens = a.plan.hit;
  hit.replayed_tokens = a.plan.replayed;
  if (hit.hit_tokens == 0) hit.tier = CacheTier::kNone;
  hit.restore_ms = std::chrono::duration<double, std::milli>(waited).count();
  (hit.tier == CacheTier::kDisk ? counters_.hit_tokens_disk : counters_.hit_tokens_memory) += hit.hit_tokens;
  StreamEvent event;
  event.kind = StreamEvent::Kind::kAdmitted;
  event.hit = hit;
  send(a, std::move(event));
}

Status EngineLoop::take_pages(ActiveRequest& a) {
  KVASIR_TRY(Sequence sequence, runner_->make_sequence());
  a.sequence.emplace(std::move(sequence));
  if (!a.restore) return {};
  const std::vector<std::byte>* snapshot = a.plan.snapshot > 0 ? a.restore->snapshot() : nullptr;
  if (a.restore->page_tokens() < a.plan.stored || (a.plan.snapshot > 0 && !snapshot))
    return Error{ErrorCode::kNotFound, "a part of the prefix was lost on its way"};
  a.sequence->adopt(a.restore->take_pages(), a.plan.start);
  if (!snapshot) return {};
  KVASIR_TRY_STATUS(cache_->make_room(1));
  return unpack_state(runner_->layout(), *snapshot, *a.sequence);
}

void EngineLoop::set_points(ActiveRequest& a, int64_t branch_length) {
  a.points.clear();
  a.next_point = 0;
  if (a.request.system_tokens < a.prompt_tokens)
    add_point(a, {a.request.system_tokens, SnapshotUse::kSystem});
  // A long history that comes for the first time has a point for each of its turns. Where others than the
  // last turns are resumed, two prompts part, and the cache says so.
  std::span<const int64_t> wanted = a.request.resume_points;
  for (int64_t point : wanted.last(std::min(wanted.size(), kLatePoints)))
    if (point < a.prompt_tokens) add_point(a, {point, SnapshotUse::kPromptEnd});
  // All but the last token, which the same prompt has to compute again for its logits.
  add_point(a, {a.prompt_tokens - 1, SnapshotUse::kPromptEnd});
  add_point(a, {branch_length, SnapshotUse::kBranch});
  if (a.plan.replayed > 0) add_point(a, {a.plan.stored, SnapshotUse::kBranch});
}

void EngineLoop::add_point(ActiveRequest& a, SnapshotPoint point) {
  int64_t from = std::max(a.length(), a.plan.replayed > 0 ? a.plan.stored - 1 : a.plan.start);
  if (point.length <= from || point.length > a.known()) return;
  auto at = std::lower_bound(a.points.begin(), a.points.end(), point,
                             [](const auto& x, const auto& y) { return x.length < y.length; });
  if (at == a.points.end() || at->length != point.length) a.points.insert(at, point);
}

}  // namespace kvasir
