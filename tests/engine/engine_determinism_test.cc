// A seeded request gives the same text, and the same bits, alone and in any company: mixed arrivals, drafts,
// preemption.
#include <random>
#include <thread>

#include "engine_fixture.h"

namespace kvasir {
namespace {

// Eight requests of all sorts; `i` chooses one.
Request request_of(int i) {
  Request request = seeded(some_prompt(40 + 97 * i, i), 30 + 11 * (i % 4), static_cast<uint64_t>(100 + i));
  if (i % 4 == 1) request.sampling.temperature = 0;
  if (i % 4 == 2) request.sampling.top_p = 0.8f;
  if (i % 4 == 3) request.sampling.top_k = 20;
  if (i % 2) request.priority = Priority::kBatch;
  request.sampling.top_logprobs = 20;
  return request;
}

class EngineDeterminism : public testing::TestWithParam<Numerics> {
 protected:
  const std::vector<Answer>& alone() {
    static std::map<Numerics, std::vector<Answer>> answers;
    std::vector<Answer>& a = answers[GetParam()];
    for (int i = static_cast<int>(a.size()); i < 8; ++i)
      a.push_back(ask(*make_engine(nano(), GetParam()), request_of(i)));
    return a;
  }

  // All eight, arriving at random moments.
  void mix(EngineOptions options, uint32_t seed, const std::string& what) {
    alone();
    auto engine = make_engine(nano(), GetParam(), std::move(options));
    std::mt19937 rng(seed);
    std::vector<int> order = {0, 1, 2, 3, 4, 5, 6, 7};
    std::shuffle(order.begin(), order.end(), rng);
    std::vector<std::unique_ptr<Reader>> readers(8);
    for (int i : order) {
      readers[i] = std::make_unique<Reader>(engine->submit(request_of(i)));
      // Arrivals spread over the steps of the others; the calls pace them without a clock.
      for (uint32_t calls = rng() % 12; calls > 0; --calls)
        engine->call([](PrefixCache& cache) { cache.audit(); });
    }
    for (int i = 0; i < 8; ++i) {
      Answer a = readers[i]->finish();
      EXPECT_EQ(a.admissions, 1);
      expect_same_bits(a, alone()[i], what + ", request " + std::to_string(i));
    }
    metrics = settled_metrics(*engine);
  }

  EngineMetrics metrics;
};

TEST_P(EngineDeterminism, InAnyMix) {
  for (uint32_t seed : {1, 2, 3}) mix({}, seed, "mix " + std::to_string(seed));
  EXPECT_EQ(metrics.preemptions, 0);
}

TEST_P(EngineDeterminism, WithSmallStepsAndFewRunning) {
  EngineOptions options;
  options.step_tokens = 37;
  options.max_running = 3;
  mix(std::move(options), 4, "small steps");
}

TEST_P(EngineDeterminism, WithDrafts) {
  for (int running : {1, 2, 8}) {
    EngineOptions options;
    options.draft_tokens = 3;
    options.draft_max_running = running;
    mix(std::move(options), 5, "drafts while at most " + std::to_string(running) + " decode");
    EXPECT_GT(metrics.drafted_tokens, 0);
    EXPECT_LE(metrics.accepted_tokens, metrics.drafted_tokens);
  }
}

TEST_P(EngineDeterminism, WithPagesForHalfOfThem) {
  for (int drafts : {0, 2}) {
    EngineOptions options;
    options.draft_tokens = drafts;
    options.cache_bytes = 13 * page_bytes(nano(), GetParam());
    mix(std::move(options), 6, "preempted");
    EXPECT_LE(metrics.cache.page_bytes, 13 * page_bytes(nano(), GetParam()));
  }
}

TEST_P(EngineDeterminism, APreemptedSequenceResumesWithTheSameBits) {
  auto request = [](int i) {
    Request r = seeded(some_prompt(100 + 30 * i, i), 700, static_cast<uint64_t>(i));
    r.sampling.top_logprobs = 5;
    return r;
  };
  std::vector<Answer> want;
  for (int i = 0; i < 3; ++i) want.push_back(ask(*make_engine(nano(), GetParam()), request(i)));
  EngineOptions options;
  options.cache_bytes = 10 * page_bytes(nano(), GetParam());  // each grows to 7 or 8 pages
  auto engine = make_engine(nano(), GetParam(), std::move(options));
  std::vector<std::unique_ptr<Reader>> readers;
  for (int i = 0; i < 3; ++i) readers.push_back(std::make_unique<Reader>(engine->submit(request(i))));
  for (int i = 0; i < 3; ++i) expect_same_bits(readers[i]->finish(), want[i], "request " + std::to_string(i));
  EXPECT_GT(settled_metrics(*engine).preemptions, 0);
  engine->call([](PrefixCache& cache) {
    cache.audit();
    EXPECT_EQ(cache.metrics().idle_pages, cache.metrics().pages) << "nobody reads a page any more";
  });
}

TEST_P(EngineDeterminism, AnInteractiveRequestTakesTheRoomOfABatchOneThatResumes) {
  Request batch = seeded(some_prompt(200), 150, 3);
  batch.priority = Priority::kBatch;
  Answer want = ask(*make_engine(nano(), GetParam()), seeded(some_prompt(200), 150, 3));
  EngineOptions options;
  options.max_running = 1;
  auto engine = make_engine(nano(), GetParam(), std::move(options));
  Reader reader(engine->submit(std::move(batch)));
  reader.read_until([](const Answer& a) { return a.ids.size() == 20; });
  ask(*engine, greedy(some_prompt(50, 2), 5));
  Answer got = reader.finish();
  EXPECT_EQ(got.ids, want.ids);
  EXPECT_EQ(got.admissions, 1);
  EXPECT_EQ(settled_metrics(*engine).preemptions, 1);
}

INSTANTIATE_TEST_SUITE_P(Independent, EngineDeterminism, testing::Values(Numerics::kExact, Numerics::kNative),
                         [](const auto& test) { return std::string(numerics_name(test.param)); });

}  // namespace
}  // namespace kvasir
