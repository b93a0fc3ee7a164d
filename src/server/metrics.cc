// Families of the registry; the only file that includes prometheus-cpp.
#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <mutex>

namespace kvasir {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;

const prometheus::Histogram::BucketBoundaries kSeconds = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
                                                          2.5,   5,    10,    30,   60,  300,  1800};

}  // namespace

struct Metrics::Families {
  prometheus::Registry registry;

  prometheus::Family<prometheus::Counter>& requests = BuildCounter()
                                                          .Name("kvasir_http_requests_total")
                                                          .Help("Requests answered, by endpoint and status")
                                                          .Register(registry);
  prometheus::Family<prometheus::Histogram>& request_seconds =
      BuildHistogram()
          .Name("kvasir_http_request_seconds")
          .Help("From the head of a request to the end of its answer")
          .Register(registry);
  prometheus::Histogram& first_token = BuildHistogram()
                                           .Name("kvasir_time_to_first_token_seconds")
                                           .Help("From the head of a request to its first sampled token")
                                           .Register(registry)
                                           .Add({}, kSeconds);
  prometheus::Family<prometheus::Counter>& tokens =
      BuildCounter()
          .Name("kvasir_tokens_total")
          .Help("Tokens of answered requests: prompt_hit, prompt_miss, output, reasoning (part of output)")
          .Register(registry);
  prometheus::Counter& aborted = BuildCounter()
                                     .Name("kvasir_http_aborted_total")
                                     .Help("Requests whose client went away before the end")
                                     .Register(registry)
                                     .Add({});

  // Engine: absolute values of counters that it keeps itself, so each is brought up to what it says.
  prometheus::Family<prometheus::Counter>& engine_requests = BuildCounter()
                                                                 .Name("kvasir_engine_requests_total")
                                                                 .Help("Requests of the engine by outcome")
                                                                 .Register(registry);
  prometheus::Family<prometheus::Counter>& engine_tokens = BuildCounter()
                                                               .Name("kvasir_engine_tokens_total")
                                                               .Help("Tokens of the engine by kind")
                                                               .Register(registry);
  prometheus::Family<prometheus::Counter>& steps =
      BuildCounter().Name("kvasir_engine_steps_total").Help("Steps run").Register(registry);
  prometheus::Family<prometheus::Counter>& step_seconds =
      BuildCounter()
          .Name("kvasir_engine_step_seconds_total")
          .Help("Time in steps: all, by what they held, and by part")
          .Register(registry);
  prometheus::Family<prometheus::Counter>& cache_events =
      BuildCounter()
          .Name("kvasir_cache_events_total")
          .Help("Evictions and refusals of the prefix cache")
          .Register(registry);
  prometheus::Family<prometheus::Gauge>& sequences =
      BuildGauge().Name("kvasir_engine_sequences").Help("Sequences by state").Register(registry);
  prometheus::Family<prometheus::Gauge>& kv_bytes =
      BuildGauge().Name("kvasir_kv_bytes").Help("KV bytes by kind and tier").Register(registry);
  prometheus::Family<prometheus::Gauge>& entries = BuildGauge()
                                                       .Name("kvasir_cache_entries")
                                                       .Help("Entries of the prefix cache by kind and tier")
                                                       .Register(registry);
  prometheus::Gauge& healthy =
      BuildGauge().Name("kvasir_healthy").Help("1 while the engine answers").Register(registry).Add({});
  std::mutex mutex;  // of text(): a counter is read, then raised

  static void raise(prometheus::Family<prometheus::Counter>& family, const char* label, const char* name,
                    double to) {
    prometheus::Counter& counter = family.Add({{label, name}});
    if (to > counter.Value()) counter.Increment(to - counter.Value());
  }

  void take(const EngineMetrics& m) {
    raise(engine_requests, "outcome", "submitted", static_cast<double>(m.requests));
    raise(engine_requests, "outcome", "finished", static_cast<double>(m.finished));
    raise(engine_requests, "outcome", "cancelled", static_cast<double>(m.cancelled));
    raise(engine_requests, "outcome", "failed", static_cast<double>(m.failed));
    raise(engine_requests, "outcome", "preempted", static_cast<double>(m.preemptions));
    raise(engine_tokens, "kind", "prompt", static_cast<double>(m.prompt_tokens));
    raise(engine_tokens, "kind", "hit_memory", static_cast<double>(m.hit_tokens_memory));
    raise(engine_tokens, "kind", "hit_disk", static_cast<double>(m.hit_tokens_disk));
    raise(engine_tokens, "kind", "replayed", static_cast<double>(m.replayed_tokens));
    raise(engine_tokens, "kind", "generated", static_cast<double>(m.generated_tokens));
    raise(engine_tokens, "kind", "drafted", static_cast<double>(m.drafted_tokens));
    raise(engine_tokens, "kind", "draft_accepted", static_cast<double>(m.accepted_tokens));
    raise(engine_tokens, "kind", "computed", static_cast<double>(m.step_tokens));
    raise(steps, "kind", "all", static_cast<double>(m.steps));
    raise(step_seconds, "part", "all", m.step_seconds);
    raise(step_seconds, "part", "with_prefill", m.prefill_step_seconds);
    raise(step_seconds, "part", "decode_only", m.decode_step_seconds);
    raise(step_seconds, "part", "forward", m.forward_seconds);
    raise(step_seconds, "part", "sample", m.sample_seconds);
    raise(step_seconds, "part", "draft", m.draft_seconds);
    raise(cache_events, "event", "page_evicted", static_cast<double>(m.cache.evicted_pages));
    raise(cache_events, "event", "snapshot_evicted", static_cast<double>(m.cache.evicted_snapshots));
    raise(cache_events, "event", "corrupt_record", static_cast<double>(m.cache.corrupt_records));
    raise(cache_events, "event", "early_start", static_cast<double>(m.early_starts));
    raise(cache_events, "event", "early_loss", static_cast<double>(m.early_losses));
    raise(cache_events, "event", "disk_error", static_cast<double>(m.cache.disk_errors));
    sequences.Add({{"state", "running"}}).Set(static_cast<double>(m.running));
    sequences.Add({{"state", "restoring"}}).Set(static_cast<double>(m.restoring));
    sequences.Add({{"state", "waiting"}}).Set(static_cast<double>(m.waiting));
    sequences.Add({{"state", "preempted"}}).Set(static_cast<double>(m.preempted));
    kv_bytes.Add({{"kind", "pages"}, {"tier", "running"}}).Set(static_cast<double>(m.page_bytes));
    kv_bytes.Add({{"kind", "state"}, {"tier", "running"}}).Set(static_cast<double>(m.state_bytes));
    kv_bytes.Add({{"kind", "pages"}, {"tier", "memory"}}).Set(static_cast<double>(m.cache.page_bytes));
    kv_bytes.Add({{"kind", "snapshots"}, {"tier", "memory"}})
        .Set(static_cast<double>(m.cache.snapshot_bytes));
    kv_bytes.Add({{"kind", "all"}, {"tier", "disk"}}).Set(static_cast<double>(m.cache.disk_bytes));
    entries.Add({{"kind", "pages"}, {"tier", "memory"}}).Set(static_cast<double>(m.cache.pages));
    entries.Add({{"kind", "idle_pages"}, {"tier", "memory"}}).Set(static_cast<double>(m.cache.idle_pages));
    entries.Add({{"kind", "snapshots"}, {"tier", "memory"}}).Set(static_cast<double>(m.cache.snapshots));
    entries.Add({{"kind", "pages"}, {"tier", "disk"}}).Set(static_cast<double>(m.cache.disk_pages));
    entries.Add({{"kind", "snapshots"}, {"tier", "disk"}}).Set(static_cast<double>(m.cache.disk_snapshots));
    healthy.Set(m.healthy ? 1 : 0);
  }
};

Metrics::Metrics() : families_(std::make_unique<Families>()) {}
Metrics::~Metrics() = default;

void Metrics::request(std::string_view endpoint, int status, double seconds) {
  std::string name(endpoint);
  families_->requests.Add({{"endpoint", name}, {"status", std::to_string(status)}}).Increment();
  families_->request_seconds.Add({{"endpoint", name}}, kSeconds).Observe(seconds);
}

void Metrics::first_token(double seconds) { families_->first_token.Observe(seconds); }

void Metrics::usage(int64_t prompt_tokens, int64_t hit_tokens, int64_t output_tokens,
                    int64_t reasoning_tokens) {
  auto& tokens = families_->tokens;
  tokens.Add({{"kind", "prompt_hit"}}).Increment(static_cast<double>(hit_tokens));
  tokens.Add({{"kind", "prompt_miss"}}).Increment(static_cast<double>(prompt_tokens - hit_tokens));
  tokens.Add({{"kind", "output"}}).Increment(static_cast<double>(output_tokens));
  tokens.Add({{"kind", "reasoning"}}).Increment(static_cast<double>(reasoning_tokens));
}

void Metrics::aborted() { families_->aborted.Increment(); }

std::string Metrics::text(const EngineMetrics& engine) {
  std::lock_guard lock(families_->mutex);
  families_->take(engine);
  return prometheus::TextSerializer().Serialize(families_->registry.Collect());
}

}  // namespace kvasir
