// Hits: how many tokens are not computed again, and that the logits are then the same bits as without a
// cache.
#include "engine_fixture.h"

namespace kvasir {
namespace {

class EngineCache : public testing::TestWithParam<Numerics> {
 protected:
  static std::unique_ptr<Engine> fresh(int drafts = 0) {
    EngineOptions options;
    options.draft_tokens = drafts;
    return make_engine(nano(), GetParam(), std::move(options));
  }
  static Answer cold(Request request) { return ask(*fresh(), std::move(request)); }
  static void forget_snapshot(Engine& engine, std::span<const int32_t> tokens) {
    engine.call([&](PrefixCache& cache) { cache.drop_snapshot({0, tokens}); });
  }
};

std::vector<int32_t> joined(std::vector<int32_t> a, std::span<const int32_t> b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST_P(EngineCache, ARepeatedPromptMissesItsLastTokenOnlyAndGivesTheSameBits) {
  auto engine = fresh();
  for (int64_t n : {1, 2, 5, 127, 128, 129, 130, 256, 300, 513, 700}) {
    std::vector<int32_t> prompt = some_prompt(n, n);
    Answer first = ask(*engine, with_logits(greedy(prompt, 3)));
    EXPECT_EQ(first.hit.hit_tokens, 0) << n;
    Answer again = ask(*engine, with_logits(greedy(prompt, 3)));
    EXPECT_EQ(again.hit.hit_tokens, n - 1);
    EXPECT_EQ(again.hit.tier, n > 1 ? CacheTier::kMemory : CacheTier::kNone);
    expect_same_bits(again, first, std::to_string(n) + " tokens");
  }
  engine->call([](PrefixCache& cache) { cache.audit(); });
}

// CACHE-3: the next prompt of a tool loop is this prompt, what was sampled, EOS and a suffix.
TEST_P(EngineCache, TheNextTurnMissesOnlyItsOwnSuffix) {
  for (int drafts : {0, 3}) {
    auto engine = fresh(drafts);
    std::vector<int32_t> prompt = some_prompt(333);
    int32_t eos = 6106;
    for (int turn = 0; turn < 6; ++turn) {
      Request request = seeded(prompt, turn % 2 ? 40 : 200, static_cast<uint64_t>(turn));
      request.stop_ids = {eos};
      if (turn % 2 == 0) {  // ends by its stop id, else by its length
        request.script = some_prompt(20 + turn * 17, turn);
        request.script.push_back(eos);
      }
      Answer a = ask(*engine, with_logits(std::move(request)));
      EXPECT_EQ(a.reason, turn % 2 ? EndReason::kLength : EndReason::kStop);
      std::vector<int32_t> suffix = some_prompt(31, 50 + turn);
      std::vector<int32_t> next = joined(joined(joined(prompt, a.ids), std::vector<int32_t>{eos}), suffix);
      Answer b = ask(*engine, with_logits(greedy(next, 2)));
      EXPECT_EQ(b.miss(static_cast<int64_t>(next.size())), 1 + static_cast<int64_t>(suffix.size()))
          << "turn " << turn << ", drafts " << drafts;
      if (GetParam() != Numerics::kFast)
        expect_same_bits(b, cold(with_logits(greedy(next, 2))), "turn " + std::to_string(turn));
      prompt = next;
    }
  }
}

TEST_P(EngineCache, ResumesAtEveryPointThatWasAskedFor) {
  std::vector<int32_t> prompt = some_prompt(900);
  for (int64_t point : {1, 63, 128, 129, 131, 255, 500, 897}) {
    auto engine = fresh();
    Request request = greedy(prompt, 2);
    request.resume_points = {point};
    ask(*engine, std::move(request));
    std::vector<int32_t> other = joined({prompt.begin(), prompt.begin() + point}, some_prompt(77, 5));
    Answer a = ask(*engine, with_logits(greedy(other, 2)));
    EXPECT_EQ(a.hit.hit_tokens, point);
    if (GetParam() != Numerics::kFast)
      expect_same_bits(a, cold(with_logits(greedy(other, 2))), std::to_string(point));
  }
}

TEST_P(EngineCache, ALongHistoryKeepsSnapshotsOfItsSystemTextAndItsLastTurnsOnly) {
  std::vector<int32_t> prompt = some_prompt(2050);
  auto ask_for = [&](Engine& engine, std::vector<int32_t> ids) {
    Request request = greedy(std::move(ids), 2);
    request.system_tokens = 50;
    for (int64_t point = 60; point < std::ssize(request.prompt); point += 10)
      request.resume_points.push_back(point);
    return ask(engine, std::move(request));
  };
  auto engine = fresh();
  ask_for(*engine, prompt);
  // The system text, four turns, the prompt without its last token, the answer.
  EXPECT_EQ(settled_metrics(*engine).cache.snapshots, 7);
  auto branch = [&](int64_t at, int64_t salt) {
    return joined({prompt.begin(), prompt.begin() + at}, some_prompt(300, salt));
  };
  EXPECT_EQ(ask_for(*engine, branch(50, 5)).hit.hit_tokens, 50);
  EXPECT_EQ(ask_for(*engine, branch(2020, 6)).hit.hit_tokens, 2020);
  // An old turn: the first to leave there finds pages, and leaves a snapshot for the second.
  EXPECT_LT(ask_for(*engine, branch(700, 7)).hit.hit_tokens, 700);
  EXPECT_EQ(ask_for(*engine, branch(700, 8)).hit.hit_tokens, 700);
}

TEST_P(EngineCache, StoredPagesBehindASnapshotAreReadAndNotWrittenAgain) {
  std::vector<int32_t> prompt = some_prompt(700);
  auto engine = fresh();
  Request request = greedy(prompt, 2);
  request.resume_points = {200};
  Answer first = ask(*engine, with_logits(std::move(request)));
  forget_snapshot(*engine, std::span(prompt).first(699));
  Answer again = ask(*engine, with_logits(greedy(prompt, 2)));
  EXPECT_EQ(again.hit.hit_tokens, 200);
  EXPECT_EQ(again.hit.replayed_tokens, 0);
  if (GetParam() != Numerics::kFast) expect_same_bits(again, first, "forward over stored pages");
  int64_t pages = 0;
  engine->call([&](PrefixCache& cache) {
    cache.audit();
    pages = cache.metrics().pages;
  });
  EXPECT_EQ(pages, 5) << "702 tokens have five full pages, and nothing has a second copy";
}

TEST_P(EngineCache, AReplayRebuildsTheWindowsExactlyWhereNoSnapshotIsLeft) {
  // 8 layers: 1,024 tokens of replay.
  for (int64_t n : {1282, 1500, 2050}) {
    std::vector<int32_t> prompt = some_prompt(n, n);
    auto engine = fresh();
    Answer first = ask(*engine, with_logits(greedy(prompt, 3)));
    forget_snapshot(*engine, std::span(prompt).first(n - 1));
    forget_snapshot(*engine, joined(prompt, first.ids));
    Answer again = ask(*engine, with_logits(greedy(prompt, 3)));
    EXPECT_EQ(again.hit.hit_tokens, (n - 1) / 128 * 128);
    EXPECT_EQ(again.hit.replayed_tokens, 1024);
    EXPECT_EQ(settled_metrics(*engine).replayed_tokens, 1024);
    if (GetParam() != Numerics::kFast) {
      expect_same_bits(again, first, std::to_string(n) + " tokens");
    } else {
      EXPECT_EQ(again.ids, first.ids);
    }
    // The point that the replay reached was kept: nobody pays for it twice.
    forget_snapshot(*engine, std::span(prompt).first(n - 1));
    forget_snapshot(*engine, joined(prompt, again.ids));
    Answer third = ask(*engine, greedy(prompt, 3));
    EXPECT_EQ(third.hit.hit_tokens, (n - 1) / 128 * 128);
    EXPECT_EQ(third.hit.replayed_tokens, 0);
  }
}

TEST_P(EngineCache, TheThirdBranchOfAPromptStartsWhereTheFirstTwoParted) {
  auto engine = fresh();
  std::vector<int32_t> system = some_prompt(1000);
  int64_t hits[3];
  for (int i = 0; i < 3; ++i) {
    std::vector<int32_t> prompt = joined(system, some_prompt(60, 20 + i));
    Answer a = ask(*engine, with_logits(greedy(prompt, 2)));
    hits[i] = a.hit.hit_tokens;
    if (GetParam() != Numerics::kFast)
      expect_same_bits(a, cold(with_logits(greedy(prompt, 2))), std::to_string(i));
  }
  EXPECT_EQ(hits[0], 0);
  EXPECT_GE(hits[2], 896) << "the last full page that all share, or better";
}

TEST_P(EngineCache, RequestsWithTheSameNewPromptComputeItOnce) {
  auto engine = fresh();
  std::vector<int32_t> prompt = some_prompt(2000),
                       branch = joined({prompt.begin(), prompt.begin() + 1500}, some_prompt(100, 4));
  Reader a(engine->submit(greedy(prompt, 5))), b(engine->submit(greedy(prompt, 5))),
      c(engine->submit(greedy(branch, 5)));
  Answer first = a.finish(), second = b.finish(), third = c.finish();
  EXPECT_EQ(second.ids, first.ids);
  EXPECT_EQ(first.hit.hit_tokens, 0);
  EXPECT_EQ(second.hit.hit_tokens, 1999);
  EXPECT_GE(third.hit.hit_tokens, 1408);
  EXPECT_LT(settled_metrics(*engine).step_tokens, 2000 + 250);
}

TEST_P(EngineCache, NamespacesShareNothing) {
  auto engine = fresh();
  std::vector<int32_t> prompt = some_prompt(300);
  ask(*engine, greedy(prompt, 2));
  Request other = greedy(prompt, 2);
  other.cache_namespace = 7;
  EXPECT_EQ(ask(*engine, std::move(other)).hit.hit_tokens, 0);
  EXPECT_EQ(ask(*engine, greedy(prompt, 2)).hit.hit_tokens, 299);
}

TEST_P(EngineCache, ACancelledPromptLeavesWhatItComputed) {
  auto engine = fresh();
  std::vector<int32_t> prompt = some_prompt(6000);
  int64_t done = 0;
  {
    Reader reader(engine->submit(greedy(prompt, 2)));
    reader.read_until([](const Answer& a) { return !a.prefilled.empty(); });
    reader.stream().cancel();
    Answer a = reader.finish();
    EXPECT_EQ(a.reason, EndReason::kCancelled);
    done = a.prefilled.back();
  }
  EXPECT_EQ(ask(*engine, greedy(prompt, 2)).hit.hit_tokens, done);
}

INSTANTIATE_TEST_SUITE_P(AllNumerics, EngineCache,
                         testing::Values(Numerics::kExact, Numerics::kNative, Numerics::kFast),
                         [](const auto& test) { return std::string(numerics_name(test.param)); });

}  // namespace
}  // namespace kvasir
