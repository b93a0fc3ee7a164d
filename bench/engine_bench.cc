// engine_bench: what the engine adds to the runner, and what a long prefill does to a running stream.
//
//   cmake --preset cpu -DKVASIR_BENCH=ON && cmake --build build --target engine_bench
//   build/bench/engine_bench batch [--out FILE.json] [--streams 1,8,64] [--rounds 15] [--threads 0]
//   [--numerics fast] build/bench/engine_bench gap [--out FILE.json] [--tokens 262144] [--gap-ms 50]
//   build/bench/engine_bench hit [--out FILE.json] [--tokens 131072]
//   build/bench/engine_bench drafts [--out FILE.json]
//   build/bench/engine_bench sample [--out FILE.json] [--tokens 129280]
//
// batch   tokens/s of N streams through Engine, and of the same tokens of the same N sequences stepped by the
// Runner alone, in turns gap     times between the tokens of one stream, alone and while a prompt of --tokens
// is prefilled beside it hit     time to the first token of a prompt: cold, repeated (a snapshot), repeated
// after its snapshots are gone (replay) sample  microseconds to sample one token from the logits of --tokens,
// by parameters drafts  tokens/s of one stream with MTP drafts allowed and not: what the measured choice
// comes to The bundled model, greedy. Prints a table and writes JSON.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <fstream>
#include <thread>

#include "backend/backend.h"
#include "base/json_writer.h"
#include "bench/local_engine.h"
#include "engine/engine.h"
#include "model/load.h"

namespace kvasir {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

struct Settings {
  std::string mode, out;
  std::vector<int64_t> streams = {1, 8, 64};
  int64_t tokens = 0, rounds = 15;
  double gap_ms = 50;
  int threads = 0;
  Numerics numerics = Numerics::kFast;
};

std::vector<int32_t> some_prompt(int64_t tokens, int64_t salt) {
  std::vector<int32_t> ids(tokens);
  for (int64_t i = 0; i < tokens; ++i) ids[i] = static_cast<int32_t>(300 + (i * i + salt * (i + 7)) % 5000);
  return ids;
}

std::unique_ptr<Ops> cpu_ops(const Settings& s) {
  return value_of(make_ops({BackendKind::kCpu, s.numerics, {}, s.threads}));
}

Request request_of(std::vector<int32_t> prompt, int64_t max_tokens) {
  Request r;
  r.prompt = std::move(prompt);
  r.max_tokens = max_tokens;
  r.sampling.temperature = 0;
  r.sampling.top_logprobs = -1;
  return r;
}

constexpr int64_t kPrompt = 128, kUncounted = 16;

// Steps that are counted: of few streams more, so that each round takes about a second.
int64_t counted_steps(int64_t streams) { return std::max<int64_t>(96, 1024 / streams); }

// What both sides compute: stream `i`'s tokens after its prompt. Streams of the engine begin some steps
// apart, so there are more of them than are counted; and they are random, so that a step reads as many
// experts whichever of them meet in it.
std::vector<int32_t> forced_tokens(int64_t streams, int64_t i) {
  std::vector<int32_t> ids(4 * streams + 2 * counted_steps(streams));
  for (size_t n = 0; n < ids.size(); ++n)
    ids[n] = static_cast<int32_t>(300 + 5000 * uniform_at(static_cast<uint64_t>(i), n));
  return ids;
}

// Where the time of the engine went: in the forward, in sampling and telling the readers; the rest is
// planning and books.
struct Shares {
  double forward = 0, sample = 0;
};

// Decode rate once every stream runs, until enough is counted.
double engine_rate(const Model& model, const Settings& s, int64_t streams, Shares& shares) {
  EngineOptions options;
  options.max_running = static_cast<int>(streams);
  auto engine = value_of(Engine::make(model, cpu_ops(s), std::move(options)));
  Bell bell;
  std::vector<std::unique_ptr<TokenStream>> readers;
  for (int64_t i = 0; i < streams; ++i) {
    std::vector<int32_t> script = forced_tokens(streams, i);
    Request request = request_of(some_prompt(kPrompt, i + 1), std::ssize(script));
    request.script = std::move(script);
    readers.push_back(value_of(engine->submit(std::move(request))));
    readers.back()->set_notify([&] { bell.ring(); });
  }
  std::vector<int64_t> got(streams);
  int64_t counted = 0;
  Clock::time_point begin{};
  EngineMetrics before;
  bool started = false;
  for (;;) {
    bell.wait();
    for (int64_t i = 0; i < streams; ++i) {
      StreamEvent event;
      while (readers[i]->try_next(event)) {
        if (event.kind == StreamEvent::Kind::kEnd)
          die({ErrorCode::kInvalid, "a stream ended before its tokens were counted"});
        if (event.kind != StreamEvent::Kind::kToken) continue;
        ++got[i];
        counted += started;
      }
    }
    if (!started && *std::min_element(got.begin(), got.end()) >= kUncounted) {
      started = true;
      before = engine->metrics();
      begin = Clock::now();
    }
    if (started && counted >= counted_steps(streams) * streams) {
      double seconds = seconds_since(begin);
      EngineMetrics after = engine->metrics();
      shares = {(after.forward_seconds - before.forward_seconds) / seconds,
                (after.sample_seconds - before.sample_seconds) / seconds};
      return static_cast<double>(counted) / seconds;
    }
  }
}

// The same tokens of the same sequences, stepped by the runner: nothing is sampled, nobody is told.
double runner_rate(const Model& model, const Settings& s, int64_t streams) {
  RunnerOptions options;
  options.max_logit_rows = streams;
  auto runner = value_of(Runner::make(model, cpu_ops(s), options));
  std::vector<Sequence> sequences;
  std::vector<std::vector<int32_t>> forced;
  for (int64_t i = 0; i < streams; ++i) {
    sequences.push_back(value_of(runner->make_sequence()));
    forced.push_back(forced_tokens(streams, i));
    std::vector<int32_t> prompt = some_prompt(kPrompt, i + 1);
    Runner::Item item{&sequences.back(), prompt, Runner::Logits::kNone};
    if (Status status = runner->step({&item, 1}); !status) die(status.error());
  }
  Clock::time_point begin{};
  for (int64_t n = 0; n < kUncounted + counted_steps(streams); ++n) {
    if (n == kUncounted) begin = Clock::now();
    std::vector<Runner::Item> items;
    for (int64_t i = 0; i < streams; ++i)
      items.push_back({&sequences[i], std::span(forced[i]).subspan(n, 1), Runner::Logits::kLast});
    if (Status status = runner->step(items); !status) die(status.error());
  }
  return static_cast<double>(counted_steps(streams) * streams) / seconds_since(begin);
}

double quantile(std::vector<double> v, double share) {
  std::sort(v.begin(), v.end());
  return v[static_cast<size_t>(share * static_cast<double>(v.size() - 1) + 0.5)];
}

void batch(const Model& model, const Settings& s, JsonWriter& json) {
  fmt::print("{:>8} {:>12} {:>12} {:>8} {:>16} {:>14} {:>12}\n", "streams", "runner t/s", "engine t/s",
             "ratio", "(quartiles)", "in the forward", "in sampling");
  json.begin_array("batch");
  for (int64_t streams : s.streams) {
    std::vector<double> ratios, engine, runner, forward, sample;
    for (int64_t round = 0; round < s.rounds; ++round) {
      Shares shares;
      // Who goes first alternates, so that a machine that gets slower or faster favours neither.
      if (round % 2 == 0) runner.push_back(runner_rate(model, s, streams));
      engine.push_back(engine_rate(model, s, streams, shares));
      if (round % 2 == 1) runner.push_back(runner_rate(model, s, streams));
      forward.push_back(shares.forward);
      sample.push_back(shares.sample);
      ratios.push_back(engine.back() / runner.back());
    }
    double low = quantile(ratios, 0.25), middle = quantile(ratios, 0.5), high = quantile(ratios, 0.75);
    fmt::print("{:>8} {:>12.1f} {:>12.1f} {:>8.3f} {:>10.3f}-{:.3f} {:>14.3f} {:>12.3f}\n", streams,
               quantile(runner, 0.5), quantile(engine, 0.5), middle, low, high, quantile(forward, 0.5),
               quantile(sample, 0.5));
    json.begin_object()
        .field("streams", streams)
        .field("rounds", s.rounds)
        .field("counted_steps", counted_steps(streams));
    json.field("runner_tokens_per_second", quantile(runner, 0.5))
        .field("engine_tokens_per_second", quantile(engine, 0.5));
    json.field("ratio", middle).field("ratio_lower_quartile", low).field("ratio_upper_quartile", high);
    json.field("ratio_of_best_rounds", quantile(engine, 1) / quantile(runner, 1));
    json.field("share_of_time_in_the_forward", quantile(forward, 0.5));
    json.field("share_of_time_in_sampling", quantile(sample, 0.5)).begin_array("ratios");
    for (double r : ratios) json.value(r);
    json.end_array().end_object();
  }
  json.end_array();
}

struct Gaps {
  std::vector<double> ms;
  double at(double share) const {
    return ms.empty()
               ? 0
               : ms[std::min(ms.size() - 1, static_cast<size_t>(share * static_cast<double>(ms.size())))];
  }
};

void report_gaps(const char* what, Gaps gaps, JsonWriter& json) {
  std::sort(gaps.ms.begin(), gaps.ms.end());
  fmt::print("{:>24}: {} gaps, median {:.2f} ms, p99 {:.2f}, max {:.2f}\n", what, gaps.ms.size(),
             gaps.at(0.5), gaps.at(0.99), gaps.at(1));
  json.begin_object(what)
      .field("gaps", static_cast<int64_t>(gaps.ms.size()))
      .field("median_ms", gaps.at(0.5));
  json.field("p99_ms", gaps.at(0.99)).field("max_ms", gaps.at(1)).end_object();
}

void gap(const Model& model, const Settings& s, JsonWriter& json) {
  int64_t tokens = s.tokens > 0 ? s.tokens : 262144;
  EngineOptions options;
  options.gap_seconds = s.gap_ms / 1000;
  auto engine = value_of(Engine::make(model, cpu_ops(s), std::move(options)));
  Bell bell;
  auto stream = value_of(engine->submit(request_of(some_prompt(kPrompt, 1), 1 << 19)));
  stream->set_notify([&] { bell.ring(); });
  std::unique_ptr<TokenStream> prefill;
  Gaps alone, beside;
  Clock::time_point last{}, begin{};
  int64_t prefilled = 0, next_report = tokens / 4;
  while (prefilled < tokens) {
    bell.wait();
    StreamEvent event;
    while (stream->try_next(event)) {
      if (event.kind != StreamEvent::Kind::kToken) continue;
      auto now = Clock::now();
      if (last != Clock::time_point{})
        (prefill ? beside : alone).ms.push_back(1000 * std::chrono::duration<double>(now - last).count());
      last = now;
    }
    if (!prefill && alone.ms.size() >= 300) {
      begin = Clock::now();
      prefill = value_of(engine->submit(request_of(some_prompt(tokens, 2), 1)));
      prefill->set_notify([&] { bell.ring(); });
    }
    while (prefill && prefill->try_next(event)) {
      if (event.kind == StreamEvent::Kind::kPrefill) prefilled = event.prefilled;
    }
    if (prefilled >= next_report) {
      fmt::print("  {} tokens after {:.1f} s\n", prefilled, seconds_since(begin));
      next_report += tokens / 4;
    }
  }
  double seconds = seconds_since(begin);
  fmt::print("prefill of {} tokens beside one stream: {:.1f} s, {:.0f} tokens/s\n", tokens, seconds,
             static_cast<double>(tokens) / seconds);
  json.begin_object("gap")
      .field("prompt_tokens", tokens)
      .field("gap_target_ms", s.gap_ms)
      .field("prefill_seconds", seconds);
  json.field("prefill_tokens_per_second", static_cast<double>(tokens) / seconds);
  report_gaps("stream alone", std::move(alone), json);
  report_gaps("beside the prefill", std::move(beside), json);
  json.end_object();
}

// Seconds to the first token, and what was hit.
double first_token(Engine& engine, std::vector<int32_t> prompt, CacheHit& hit) {
  Bell bell;
  auto begin = Clock::now();
  auto stream = value_of(engine.submit(request_of(std::move(prompt), 1)));
  stream->set_notify([&] { bell.ring(); });
  for (double seconds = 0;;) {
    bell.wait();
    StreamEvent event;
    while (stream->try_next(event)) {
      if (event.kind == StreamEvent::Kind::kAdmitted) hit = event.hit;
      if (event.kind == StreamEvent::Kind::kToken) seconds = seconds_since(begin);
      if (event.kind == StreamEvent::Kind::kEnd) return seconds;
    }
  }
}

void hit(const Model& model, const Settings& s, JsonWriter& json) {
  int64_t tokens = s.tokens > 0 ? s.tokens : 131072;
  auto engine = value_of(Engine::make(model, cpu_ops(s), {}));
  std::vector<int32_t> prompt = some_prompt(tokens, 3);
  CacheHit none, memory, replay;
  double cold = first_token(*engine, prompt, none);
  double again = first_token(*engine, prompt, memory);
  engine->call([&](PrefixCache& cache) {
    for (int64_t n = tokens - 2; n <= tokens; ++n)
      cache.drop_snapshot({0, std::span(prompt).first(std::min(n, tokens))});
  });
  double replayed = first_token(*engine, prompt, replay);
  fmt::print(
      "{} tokens: cold {:.3f} s; again {:.4f} s ({:.2f} %), hit {}; without its snapshot {:.4f} s ({:.2f} "
      "%), hit {}, replayed {}\n",
      tokens, cold, again, 100 * again / cold, memory.hit_tokens, replayed, 100 * replayed / cold,
      replay.hit_tokens, replay.replayed_tokens);
  json.begin_object("hit")
      .field("prompt_tokens", tokens)
      .field("cold_seconds", cold)
      .field("memory_seconds", again);
  json.field("memory_hit_tokens", memory.hit_tokens)
      .field("replay_seconds", replayed)
      .field("replay_hit_tokens", replay.hit_tokens);
  json.field("replayed_tokens", replay.replayed_tokens).end_object();
}

void drafts(const Model& model, const Settings& s, JsonWriter& json) {
  json.begin_array("drafts");
  for (int allowed : {0, 1, 3, 0, 1, 3}) {
    EngineOptions options;
    options.draft_tokens = allowed;
    auto engine = value_of(Engine::make(model, cpu_ops(s), std::move(options)));
    Bell bell;
    auto stream = value_of(engine->submit(request_of(some_prompt(kPrompt, 1), 1500)));
    stream->set_notify([&] { bell.ring(); });
    for (bool ended = false; !ended;) {
      bell.wait();
      StreamEvent event;
      while (stream->try_next(event)) ended = ended || event.kind == StreamEvent::Kind::kEnd;
    }
    engine->call([](PrefixCache&) {});
    EngineMetrics m = engine->metrics();
    double rate = static_cast<double>(m.generated_tokens) / m.decode_step_seconds;
    fmt::print("drafts allowed {}: {:.1f} tokens/s, {} drafted, {} accepted, {} steps\n", allowed, rate,
               m.drafted_tokens, m.accepted_tokens, m.steps);
    json.begin_object()
        .field("allowed", allowed)
        .field("tokens_per_second", rate)
        .field("drafted", m.drafted_tokens);
    json.field("accepted", m.accepted_tokens).field("steps", m.steps).end_object();
  }
  json.end_array();
}

void sample(const Settings& s, JsonWriter& json) {
  int64_t vocab = s.tokens > 0 ? s.tokens : 129280;
  std::vector<float> logits(vocab);
  // Roughly a model's: a few tokens stand out of noise.
  for (int64_t i = 0; i < vocab; ++i)
    logits[i] = static_cast<float>(3 * uniform_at(1, i) + 12 * std::pow(uniform_at(2, i), 300.0));
  json.begin_object("sample").field("vocabulary", vocab);
  auto time = [&](const char* what, const SamplingParams& params) {
    Sampler sampler(params);
    int64_t n = 0, sum = 0;
    auto begin = Clock::now();
    for (; n < 20 || seconds_since(begin) < 0.5; ++n) sum += sampler.sample({logits.data(), {vocab}}, n).id;
    double microseconds = 1e6 * seconds_since(begin) / static_cast<double>(n);
    fmt::print("{:>28}: {:>9.1f} us (mean id {})\n", what, microseconds, sum / n);
    json.field(what, microseconds);
  };
  SamplingParams greedy, plain;
  greedy.temperature = 0;
  greedy.top_logprobs = plain.top_logprobs = -1;
  SamplingParams top_p = plain, top_k = plain, min_p = plain, own = greedy, best = greedy;
  top_p.top_p = 0.95f;
  top_k.top_k = 40;
  min_p.min_p = 0.05f;
  own.top_logprobs = 0;
  best.top_logprobs = 20;
  time("greedy", greedy);
  time("temperature 1", plain);
  time("top_p 0.95", top_p);
  time("top_k 40", top_k);
  time("min_p 0.05", min_p);
  time("greedy and its logprob", own);
  time("greedy and 20 logprobs", best);
  json.end_object();
}

int run(int argc, char** argv) {
  Settings s;
  std::string numerics = "fast";
  CLI::App app("what the engine costs and keeps");
  app.add_option("mode", s.mode)
      ->required()
      ->check(CLI::IsMember({"batch", "gap", "hit", "drafts", "sample"}));
  app.add_option("--out", s.out);
  app.add_option("--streams", s.streams)->delimiter(',');
  app.add_option("--rounds", s.rounds)->check(CLI::PositiveNumber);
  app.add_option("--tokens", s.tokens);
  app.add_option("--gap-ms", s.gap_ms);
  app.add_option("--threads", s.threads, "workers of the runner; 0: one per core")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--numerics", numerics)->check(CLI::IsMember({"exact", "native", "fast"}));
  CLI11_PARSE(app, argc, argv);
  s.numerics = numerics == "exact"    ? Numerics::kExact
               : numerics == "native" ? Numerics::kNative
                                      : Numerics::kFast;

  LoadedModel loaded = value_of(load_checkpoint(KVASIR_SOURCE_DIR "/models/nano", {}));
  JsonWriter json(JsonWriter::Layout::kIndented);
  std::string command = "engine_bench";
  for (int i = 1; i < argc; ++i) command += std::string(" ") + argv[i];
  json.begin_object()
      .field("command", command)
      .field("model", "models/nano")
      .field("numerics", numerics)
      .field("threads", static_cast<int64_t>(s.threads));
  json.field("cores", static_cast<int64_t>(std::thread::hardware_concurrency()));
  if (s.mode == "batch") batch(loaded.model, s, json);
  if (s.mode == "gap") gap(loaded.model, s, json);
  if (s.mode == "hit") hit(loaded.model, s, json);
  if (s.mode == "sample") sample(s, json);
  if (s.mode == "drafts") drafts(loaded.model, s, json);
  json.end_object();
  if (!s.out.empty()) std::ofstream(s.out) << json.text() << '\n';
  return 0;
}

}  // namespace
}  // namespace kvasir

int main(int argc, char** argv) { return kvasir::run(argc, argv); }
