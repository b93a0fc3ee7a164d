// What a request gets from a running engine: its tokens, its end, its place in the queue.
#include <atomic>
#include <chrono>
#include <set>
#include <thread>

#include "engine_fixture.h"

namespace kvasir {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

TEST(Engine, AnswersAPromptWithMaxTokensTokens) {
  auto engine = make_engine(nano(), Numerics::kFast);
  Answer a = ask(*engine, greedy(some_prompt(150), 12));
  EXPECT_EQ(a.reason, EndReason::kLength);
  EXPECT_EQ(a.ids.size(), 12u);
  EXPECT_EQ(a.admissions, 1);
  EXPECT_EQ(a.hit.hit_tokens, 0);
  ASSERT_FALSE(a.prefilled.empty());
  EXPECT_EQ(a.prefilled.back(), 150);
  EXPECT_TRUE(std::is_sorted(a.prefilled.begin(), a.prefilled.end()));
  EngineMetrics m = settled_metrics(*engine);
  EXPECT_EQ(m.finished, 1);
  EXPECT_EQ(m.generated_tokens, 12);
  EXPECT_EQ(m.prompt_tokens, 150);
  EXPECT_EQ(m.running, 0);
}

TEST(Engine, GivesTheTokensThatTheRunnerAloneWouldGive) {
  for (Numerics numerics : {Numerics::kExact, Numerics::kNative}) {
    std::vector<int32_t> prompt = some_prompt(200);
    auto ops = make_ops({tested_backend(), numerics, {}, 2});
    const Model& model = placed(nano(), **ops);
    auto runner = Runner::make(model, *std::move(ops), {});
    ASSERT_TRUE(runner);
    auto sequence = (*runner)->make_sequence();
    std::vector<int32_t> want, input = prompt;
    SamplingParams params;
    params.seed = 9;
    Sampler sampler(params);
    while (want.size() < 20) {
      Runner::Item item{&*sequence, input, Runner::Logits::kLast};
      ASSERT_TRUE((*runner)->step({&item, 1}));
      want.push_back(
          sampler.sample({(*runner)->logits().row(0), {nano().config.vocab_size}}, sequence->length()).id);
      input = {want.back()};
    }
    auto engine = make_engine(nano(), numerics);
    EXPECT_EQ(ask(*engine, seeded(prompt, 20, 9)).ids, want);
  }
}

TEST(Engine, EndsBeforeAStopIdThatIsNotShown) {
  auto engine = make_engine(nano(), Numerics::kFast);
  Answer whole = ask(*engine, greedy(some_prompt(40), 30));
  Request cut = greedy(some_prompt(40), 30);
  cut.stop_ids = {whole.ids[12]};
  Answer a = ask(*engine, std::move(cut));
  EXPECT_EQ(a.reason, EndReason::kStop);
  EXPECT_EQ(a.ids, std::vector<int32_t>(whole.ids.begin(),
                                        std::find(whole.ids.begin(), whole.ids.end(), whole.ids[12])));
}

TEST(Engine, RefusesWhatCannotBeServed) {
  EngineOptions options;
  options.max_context = 1000;
  auto engine = make_engine(nano(), Numerics::kFast, std::move(options));
  auto code = [&](Request request) {
    auto stream = engine->submit(std::move(request));
    EXPECT_FALSE(stream);
    return stream ? ErrorCode::kIo : stream.error().code;
  };
  EXPECT_EQ(code(greedy({}, 5)), ErrorCode::kInvalid);
  EXPECT_EQ(code(greedy({1, 2, 6144}, 5)), ErrorCode::kInvalid);
  EXPECT_EQ(code(greedy({1, -1}, 5)), ErrorCode::kInvalid);
  EXPECT_EQ(code(greedy(some_prompt(1000), 5)), ErrorCode::kInvalid);
  EXPECT_EQ(code(greedy(some_prompt(10), 0)), ErrorCode::kInvalid);
  Request script = greedy(some_prompt(10), 5);
  script.script = {7000};
  EXPECT_EQ(code(std::move(script)), ErrorCode::kInvalid);
  EXPECT_EQ(engine->max_context(), 1000);
  EXPECT_EQ(ask(*engine, greedy(some_prompt(990), 500)).ids.size(), 10u)
      << "an answer ends where the context does";
}

TEST(Engine, RefusesWhenTooManyWait) {
  EngineOptions options;
  options.max_running = 1;
  options.max_waiting = 2;
  auto engine = make_engine(nano(), Numerics::kFast, std::move(options));
  std::vector<std::unique_ptr<Reader>> readers;
  int refused = 0;
  for (int i = 0; i < 8; ++i) {
    auto stream = engine->submit(greedy(some_prompt(200, i), 200));
    if (stream) {
      readers.push_back(std::make_unique<Reader>(std::move(stream)));
    } else {
      EXPECT_EQ(stream.error().code, ErrorCode::kBusy);
      ++refused;
    }
  }
  EXPECT_GE(refused, 5);
  for (auto& reader : readers) EXPECT_EQ(reader->finish().ids.size(), 200u);
}

TEST(Engine, StopsACancelledRequestWithinAStepAndFreesItsPages) {
  auto engine = make_engine(nano(), Numerics::kFast);
  Reader reader(engine->submit(greedy(some_prompt(100), 100000)));
  reader.read_until([](const Answer& a) { return a.ids.size() == 3; });
  int64_t before = engine->metrics().steps;
  reader.stream().cancel();
  Answer a = reader.finish();
  EXPECT_EQ(a.reason, EndReason::kCancelled);
  EXPECT_LE(engine->metrics().steps - before, 3);
  EngineMetrics m = settled_metrics(*engine);
  EXPECT_EQ(m.cancelled, 1);
  StreamEvent event;
  EXPECT_FALSE(reader.stream().try_next(event)) << "nothing follows the end";
}

TEST(Engine, ADestroyedStreamCancelsItsRequest) {
  auto engine = make_engine(nano(), Numerics::kFast);
  {
    Reader reader(engine->submit(greedy(some_prompt(100), 100000)));
  }
  engine->drain(steady_clock::now() + std::chrono::seconds(30));
  EXPECT_EQ(engine->metrics().cancelled, 1);
  EXPECT_EQ(engine->metrics().running, 0);
}

TEST(Engine, EndsARequestAtItsDeadlineWhetherItRunsOrWaits) {
  EngineOptions options;
  options.max_running = 1;
  auto engine = make_engine(nano(), Numerics::kFast, std::move(options));
  Request first = greedy(some_prompt(100), 100000), second = greedy(some_prompt(100, 3), 10);
  first.deadline = steady_clock::now() + milliseconds(2000);
  second.deadline = steady_clock::now() + milliseconds(100);
  Reader a(engine->submit(std::move(first))), b(engine->submit(std::move(second)));
  EXPECT_EQ(b.finish().reason, EndReason::kDeadline);
  EXPECT_TRUE(b.answer.ids.empty());
  EXPECT_EQ(a.finish().reason, EndReason::kDeadline);
  EXPECT_FALSE(a.answer.ids.empty());
}

TEST(Engine, ServesInteractiveRequestsBeforeBatchOnesAndEachInOrder) {
  EngineOptions options;
  options.max_running = 1;
  auto engine = make_engine(nano(), Numerics::kFast, std::move(options));
  Reader running(engine->submit(greedy(some_prompt(300), 60)));
  std::mutex mutex;
  std::vector<int> order;
  std::vector<std::unique_ptr<TokenStream>> streams;
  for (int i = 0; i < 4; ++i) {
    Request request = greedy(some_prompt(20, i), 2);
    request.priority = i < 2 ? Priority::kBatch : Priority::kInteractive;
    auto stream = engine->submit(std::move(request));
    ASSERT_TRUE(stream);
    (*stream)->set_notify([&, i] {
      std::lock_guard lock(mutex);
      order.push_back(i);
    });
    streams.push_back(*std::move(stream));
  }
  running.finish();
  engine->drain(steady_clock::now() + std::chrono::seconds(30));
  std::lock_guard lock(mutex);
  EXPECT_EQ(order, (std::vector<int>{2, 3, 0, 1}));
}

TEST(Engine, TellsOnceAStepAfterAllReadersOfTheStep) {
  std::atomic<int> told{0};
  EngineOptions options;
  options.told = [&] { ++told; };
  auto engine = make_engine(nano(), Numerics::kNative, std::move(options));
  constexpr int kStreams = 8, kTokens = 40;
  std::vector<std::unique_ptr<TokenStream>> streams;
  engine->call([&](PrefixCache&) {  // between two steps: all of them begin together
    for (int i = 0; i < kStreams; ++i)
      streams.push_back(*engine->submit(greedy(some_prompt(40, i), kTokens)));
  });
  // Reads only when it is told, and then everything: were it told before the last stream, that one's end
  // would be missed.
  int ended = 0, tokens = 0;
  for (int seen = 0; ended < kStreams;) {
    if (told == seen) {
      std::this_thread::yield();
      continue;
    }
    seen = told;
    StreamEvent event;
    for (auto& stream : streams) {
      while (stream->try_next(event)) {
        tokens += event.kind == StreamEvent::Kind::kToken;
        ended += event.kind == StreamEvent::Kind::kEnd;
      }
    }
  }
  EXPECT_EQ(tokens, kStreams * kTokens);
  EXPECT_LE(told, settled_metrics(*engine).steps + 1) << "not once for each stream";
}

TEST(Engine, DrainServesWhatItHasAndTakesNothingNew) {
  auto engine = make_engine(nano(), Numerics::kFast);
  std::vector<std::unique_ptr<Reader>> readers;
  for (int i = 0; i < 4; ++i)
    readers.push_back(std::make_unique<Reader>(engine->submit(greedy(some_prompt(50, i), 10))));
  engine->drain(steady_clock::now() + std::chrono::seconds(30));
  for (auto& reader : readers) EXPECT_EQ(reader->finish().reason, EndReason::kLength);
  auto refused = engine->submit(greedy(some_prompt(5), 5));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kBusy);
}

TEST(Engine, DestructionEndsWhatRunsAndWaits) {
  EngineOptions options;
  options.max_running = 1;
  auto engine = make_engine(nano(), Numerics::kFast, std::move(options));
  Reader a(engine->submit(greedy(some_prompt(100), 100000))), b(engine->submit(greedy(some_prompt(100), 10)));
  a.read_until([](const Answer& answer) { return !answer.ids.empty(); });
  engine.reset();
  EXPECT_EQ(a.finish().reason, EndReason::kCancelled);
  EXPECT_EQ(b.finish().reason, EndReason::kCancelled);
}

TEST(Engine, RunsCallsBetweenSteps) {
  auto engine = make_engine(nano(), Numerics::kFast);
  Reader reader(engine->submit(greedy(some_prompt(100), 50)));
  int calls = 0;
  for (int i = 0; i < 5; ++i) engine->call([&](PrefixCache&) { ++calls; });
  EXPECT_EQ(calls, 5);
  EXPECT_EQ(reader.finish().ids.size(), 50u);
}

TEST(Engine, AScriptForcesTheTokensAndTheModelGoesOnFromThem) {
  auto engine = make_engine(nano(), Numerics::kNative);
  std::vector<int32_t> prompt = some_prompt(60), script = {500, 501, 777, 12};
  Request forced = greedy(prompt, 10);
  forced.script = script;
  Answer a = ask(*engine, std::move(forced));
  ASSERT_EQ(a.ids.size(), 10u);
  EXPECT_EQ(std::vector<int32_t>(a.ids.begin(), a.ids.begin() + 4), script);
  std::vector<int32_t> longer = prompt;
  longer.insert(longer.end(), script.begin(), script.end());
  EXPECT_EQ(ask(*make_engine(nano(), Numerics::kNative), greedy(longer, 6)).ids,
            std::vector<int32_t>(a.ids.begin() + 4, a.ids.end()));

  Request ends = greedy(prompt, 10);
  ends.script = {500, 501, 9};
  ends.stop_ids = {9};
  Answer e = ask(*engine, std::move(ends));
  EXPECT_EQ(e.reason, EndReason::kStop);
  EXPECT_EQ(e.ids, (std::vector<int32_t>{500, 501}));
}

// Lets only even ids through, odd ones after `odd_after` tokens; remembers what it was told.
class Parity final : public TokenConstraint {
 public:
  Parity(std::vector<int32_t>& accepted, size_t odd_after) : accepted_(accepted), odd_after_(odd_after) {}
  bool restrict(std::span<uint32_t> mask) override {
    for (uint32_t& word : mask) word &= accepted_.size() < odd_after_ ? 0x55555555u : 0xaaaaaaaau;
    return true;
  }
  void accept(int32_t token) override { accepted_.push_back(token); }

 private:
  std::vector<int32_t>& accepted_;
  size_t odd_after_;
};

TEST(Engine, AConstraintChoosesWhatMayBeSampledAndSeesEveryToken) {
  for (int drafts : {0, 3}) {
    for (float temperature : {0.f, 1.f}) {
      EngineOptions options;
      options.draft_tokens = drafts;
      auto engine = make_engine(nano(), Numerics::kFast, std::move(options));
      std::vector<int32_t> accepted;
      Request request = greedy(some_prompt(60), 40);
      request.sampling.temperature = temperature;
      request.constraint = std::make_unique<Parity>(accepted, 20);
      Answer a = ask(*engine, std::move(request));
      ASSERT_EQ(a.ids.size(), 40u);
      for (size_t i = 0; i < 40; ++i) EXPECT_EQ(a.ids[i] % 2, i < 20 ? 0 : 1) << i;
      engine.reset();
      EXPECT_EQ(accepted, a.ids);
    }
  }
}

class Nothing final : public TokenConstraint {
 public:
  bool restrict(std::span<uint32_t> mask) override {
    std::fill(mask.begin(), mask.end(), 0);
    return true;
  }
  void accept(int32_t) override {}
};

TEST(Engine, AConstraintThatLetsNothingThroughFailsItsRequestAlone) {
  auto engine = make_engine(nano(), Numerics::kFast);
  Request request = greedy(some_prompt(60), 40);
  request.constraint = std::make_unique<Nothing>();
  Answer a = ask(*engine, std::move(request));
  EXPECT_EQ(a.reason, EndReason::kFailed);
  EXPECT_FALSE(a.error.message.empty());
  EXPECT_TRUE(engine->metrics().healthy);
  EXPECT_EQ(ask(*engine, greedy(some_prompt(60), 4)).ids.size(), 4u);
}

class Throwing final : public TokenConstraint {
 public:
  bool restrict(std::span<uint32_t>) override { throw std::runtime_error("broken"); }
  void accept(int32_t) override {}
};

TEST(Engine, AFailureOnTheEngineThreadEndsEverySequenceAndStays) {
  auto engine = make_engine(nano(), Numerics::kFast);
  Reader other(engine->submit(greedy(some_prompt(60, 2), 100000)));
  other.read_until([](const Answer& a) { return !a.ids.empty(); });
  Request request = greedy(some_prompt(60), 40);
  request.constraint = std::make_unique<Throwing>();
  EXPECT_EQ(ask(*engine, std::move(request)).reason, EndReason::kFailed);
  EXPECT_EQ(other.finish().reason, EndReason::kFailed);
  engine->drain(steady_clock::now() + std::chrono::seconds(10));
  EXPECT_FALSE(engine->metrics().healthy);
  EXPECT_FALSE(engine->submit(greedy(some_prompt(5), 5)));
}

TEST(Engine, AShortPromptDoesNotWaitForALongOne) {
  auto engine = make_engine(nano(), Numerics::kFast);
  Reader big(engine->submit(greedy(some_prompt(20000, 1), 1)));
  big.read_until([](const Answer& a) { return !a.prefilled.empty(); });
  EXPECT_EQ(ask(*engine, greedy(some_prompt(50, 2), 3)).ids.size(), 3u);
  EXPECT_TRUE(big.answer.ids.empty());
  EXPECT_LT(engine->metrics().steps, 30) << "three tokens after one chunk of 50";
  big.stream().cancel();
  big.finish();
}

}  // namespace
}  // namespace kvasir
