// The engine thread and the doors to it; see engine.h. What it does in a turn: engine_loop.h.
#include "engine/engine.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "engine/engine_loop.h"
#include "engine/packed_state.h"

namespace kvasir {
namespace {

constexpr int64_t kDeviceScratch = int64_t{2} << 30;  // of a device backend's ops, with room for what it allocates late
constexpr double kCacheShare = 0.25,
                 kSnapshotShare = 0.0625;  // of the machine's memory, unless told otherwise

// The disk tier counts by a walk over all its records: too dear for every step.
constexpr auto kCacheCountInterval = std::chrono::milliseconds(250);

int64_t machine_bytes() { return int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE); }

Status check_options(const EngineOptions& o) {
  if (o.step_tokens < 1 || o.max_running < 1 || o.max_waiting < 0 || o.draft_max_running < 0)
    return Error{
        ErrorCode::kInvalid,
        fmt::format(
            "engine: step_tokens {}, max_running {}, max_waiting {}, draft_max_running {}: the first two "
            "must be at least 1, the others not negative",
            o.step_tokens, o.max_running, o.max_waiting, o.draft_max_running)};
  if (o.draft_tokens < 0 || o.draft_tokens >= kRollbackSlack)
    return Error{ErrorCode::kInvalid, fmt::format("engine: draft_tokens {}: 0 to {} are possible",
                                                  o.draft_tokens, kRollbackSlack - 1)};
  return {};
}

// On the host a share of the machine; of a device all that weights, activations, running sequences and the scratch of
// its ops leave.
Result<int64_t> default_cache_bytes(const Model& model, const KvLayout& layout, Ops& ops, const RunnerOptions& r, int max_running) {
  if (ops.memory().on_host()) return static_cast<int64_t>(kCacheShare * static_cast<double>(machine_bytes()));
  KVASIR_TRY(int64_t available, ops.memory().available());
  int64_t activations = Workspace::bytes(model.config, layout, r.max_step_tokens, r.max_logit_rows, r.mtp, ops);
  int64_t states = max_running * layout.state_bytes;
  int64_t left = available - activations - states - kDeviceScratch;
  if (left < 2 * PagePool::kSlabPages * layout.page_bytes) {
    return Error{ErrorCode::kBusy,
                 fmt::format("the device has {:.2f} GB left beside the weights; activations of {} rows need {:.2f}, {} running sequences {:.2f}, "
                             "scratch {:.2f}: nothing is left for the cache. Lower limits.step_tokens or limits.running, or load fewer layers",
                             available * 1e-9, r.max_step_tokens, activations * 1e-9, max_running, states * 1e-9, kDeviceScratch * 1e-9)};
  }
  return left;
}

// A call from another thread, on its stack.
struct Call {
  const std::function<void(PrefixCache&)>& work;
  bool done = false;
};

}  // namespace

struct Engine::Impl {
  explicit Impl(EngineOptions o) : options(std::move(o)) {}

  void run();
  // Takes what came in. False: the engine ends.
  bool take_inbox();
  void publish_metrics();

  EngineOptions options;
  int64_t vocab_size = 0, max_context = 0;
  std::shared_ptr<WakeUp> wake_up = std::make_shared<WakeUp>();
  std::unique_ptr<EngineLoop> loop;  // these: engine thread; made before it starts
  PrefixCacheMetrics cache_metrics;
  EngineLoop::Clock::time_point cache_counted{};

  mutable std::mutex mutex;
  std::condition_variable changed;                    // a call is done, or nothing is left to do
  std::vector<std::unique_ptr<ActiveRequest>> inbox;  // these: guarded by mutex
  std::vector<Call*> calls;
  EngineMetrics metrics;
  uint64_t arrivals = 0;
  bool idle = true, draining = false, stopping = false;

  std::thread thread;
};

bool Engine::Impl::take_inbox() {
  std::vector<std::unique_ptr<ActiveRequest>> requests;
  std::vector<Call*> waiting_calls;
  bool stop;
  {
    std::lock_guard lock(mutex);
    requests.swap(inbox);
    waiting_calls.swap(calls);
    stop = stopping;
    metrics.waiting += static_cast<int64_t>(requests.size());  // until publish_metrics counts them
  }
  for (auto& request : requests) loop->submit(std::move(request));
  for (Call* call : waiting_calls) call->work(loop->cache());
  if (!waiting_calls.empty()) {
    std::lock_guard lock(mutex);
    for (Call* call : waiting_calls) call->done = true;
    changed.notify_all();
  }
  return !stop;
}

void Engine::Impl::publish_metrics() {
  auto now = EngineLoop::Clock::now();
  if (loop->idle() || now - cache_counted >= kCacheCountInterval) {
    cache_metrics = loop->cache().metrics();
    cache_counted = now;
  }
  EngineMetrics latest = loop->metrics();
  latest.cache = cache_metrics;
  std::lock_guard lock(mutex);
  metrics = latest;
  idle = loop->idle() && inbox.empty();
  if (idle) changed.notify_all();
}

void Engine::Impl::run() {
  while (take_inbox()) {
    EngineLoop::Clock::time_point next;
    try {
      next = loop->turn(EngineLoop::Clock::now());
    } catch (const std::exception& e) {  // out of memory, or a constraint that threw
      loop->fail({ErrorCode::kIo, fmt::format("the engine thread: {}", e.what())});
      next = EngineLoop::Clock::now();
    }
    publish_metrics();
    if (next > EngineLoop::Clock::now()) wake_up->wait(next);
  }
  loop->end_all(EndReason::kCancelled, {ErrorCode::kCancelled, "the engine is shutting down"});
  // The disk tier counts its own failures, and there is nobody left to tell.
  (void)loop->cache().flush();
  publish_metrics();
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<Engine>> Engine::make(const Model& model, std::unique_ptr<Ops> ops,
                                             EngineOptions options) {
  KVASIR_TRY_STATUS(check_options(options));
  if (options.draft_tokens > 0 && !model.mtp)
    return Error{ErrorCode::kUnsupported,
                 "drafts were asked for, but this checkpoint has no MTP block that kvasir can use"};
  KvLayout layout = KvLayout::make(model.config, ops->numerics());
  if (options.snapshot_bytes <= 0)
    options.snapshot_bytes = static_cast<int64_t>(kSnapshotShare * static_cast<double>(machine_bytes()));

  RunnerOptions r;
  r.max_logit_rows = options.max_running + int64_t{options.draft_max_running} * options.draft_tokens;
  r.max_step_tokens = std::max(options.step_tokens, r.max_logit_rows);
  r.mtp = options.draft_tokens > 0;
  if (options.cache_bytes <= 0) {
    KVASIR_TRY(options.cache_bytes, default_cache_bytes(model, layout, *ops, r, options.max_running));
  }
  r.max_pages = options.cache_bytes / std::max<int64_t>(1, layout.page_bytes);
  if (r.max_pages < 2) {
    return Error{
        ErrorCode::kInvalid,
        fmt::format("engine: {} bytes for the cache hold {} pages of {} bytes, at least 2 are needed",
                    options.cache_bytes, r.max_pages, layout.page_bytes)};
  }
  auto impl = std::make_unique<Impl>(std::move(options));
  // One sequence alone always fits: admission and preemption rely on it.
  impl->max_context = std::min<int64_t>(model.config.max_context, r.max_pages * kPageTokens);
  if (impl->options.max_context > 0)
    impl->max_context = std::min(impl->max_context, impl->options.max_context);
  impl->vocab_size = model.config.vocab_size;
  KVASIR_TRY(auto runner, Runner::make(model, std::move(ops), r));
  impl->loop = std::make_unique<EngineLoop>(std::move(runner), std::move(impl->options.disk), impl->options);
  impl->metrics = impl->loop->metrics();
  impl->thread = std::thread([i = impl.get()] { i->run(); });
  return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

Engine::~Engine() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->wake_up->signal();
  impl_->thread.join();
  for (auto& request : impl_->inbox) {  // came in while the thread ended
    StreamEvent end;
    end.kind = StreamEvent::Kind::kEnd;
    end.reason = EndReason::kCancelled;
    if (request->stream->push(std::move(end))) request->stream->tell_reader();
  }
  if (impl_->options.told) impl_->options.told();
}

Result<std::unique_ptr<TokenStream>> Engine::submit(Request request) {
  auto tokens = static_cast<int64_t>(request.prompt.size());
  if (tokens == 0) return Error{ErrorCode::kInvalid, "the prompt is empty: at least one token is needed"};
  if (tokens >= impl_->max_context) {
    return Error{ErrorCode::kInvalid,
                 fmt::format("{} tokens of prompt leave no room for an answer: the context is {} tokens",
                             tokens, impl_->max_context)};
  }
  if (request.max_tokens < 1)
    return Error{ErrorCode::kInvalid,
                 fmt::format("max_tokens is {}: at least 1 is needed", request.max_tokens)};
  for (const auto* ids : {&request.prompt, &request.script}) {
    for (size_t i = 0; i < ids->size(); ++i) {
      if ((*ids)[i] >= 0 && (*ids)[i] < impl_->vocab_size) continue;
      return Error{
          ErrorCode::kInvalid,
          fmt::format("token id {} at position {} of the {} is outside the vocabulary of {}", (*ids)[i], i,
                      ids == &request.prompt ? "prompt" : "script", impl_->vocab_size)};
    }
  }
  std::sort(request.resume_points.begin(), request.resume_points.end());
  auto shared = std::make_shared<StreamState>(impl_->wake_up);
  std::unique_ptr<TokenStream> stream(new TokenStream(shared));
  {
    std::lock_guard lock(impl_->mutex);
    if (!impl_->metrics.healthy) return Error{ErrorCode::kIo, "the engine has failed; it must be restarted"};
    if (impl_->draining || impl_->stopping) return Error{ErrorCode::kBusy, "the engine is shutting down"};
    int64_t waiting = impl_->metrics.waiting + static_cast<int64_t>(impl_->inbox.size());
    if (waiting >= impl_->options.max_waiting + impl_->options.max_running -
                       std::min<int64_t>(impl_->metrics.running, impl_->options.max_running))
      return Error{ErrorCode::kBusy, fmt::format("{} requests are waiting, at most {} may", waiting,
                                                 impl_->options.max_waiting)};
    auto active = std::make_unique<ActiveRequest>(std::move(request), shared, ++impl_->arrivals);
    active->max_tokens = std::min(active->request.max_tokens, impl_->max_context - tokens);
    impl_->inbox.push_back(std::move(active));
    impl_->idle = false;
  }
  impl_->wake_up->signal();
  return stream;
}

void Engine::drain(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(impl_->mutex);
  impl_->draining = true;
  impl_->changed.wait_until(lock, deadline, [&] { return impl_->idle; });
}

void Engine::call(const std::function<void(PrefixCache&)>& work) {
  Call call{work};
  std::unique_lock lock(impl_->mutex);
  impl_->calls.push_back(&call);
  impl_->wake_up->signal();
  impl_->changed.wait(lock, [&] { return call.done; });
}

EngineMetrics Engine::metrics() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->metrics;
}

int64_t Engine::max_context() const { return impl_->max_context; }

void Engine::describe_pages(const Model& model, Numerics numerics, DiskOptions& disk) {
  KvLayout layout = KvLayout::make(model.config, numerics);
  disk.page_tokens = kPageTokens;
  disk.section_bytes = layout.section_bytes();
  disk.model.numerics = static_cast<uint64_t>(numerics);
  disk.model.layout = layout.fingerprint() + kPackedVersion;
}

}  // namespace kvasir
