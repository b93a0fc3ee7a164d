// What each parameter keeps, and that a seed decides the rest.
#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

namespace kvasir {
namespace {

SampledToken sample(const SamplingParams& params, std::vector<float> logits, int64_t position = 0) {
  Sampler sampler(params);
  return sampler.sample({logits.data(), {static_cast<int64_t>(logits.size())}}, position);
}

std::map<int32_t, int> histogram(const SamplingParams& params, std::vector<float> logits, int n) {
  Sampler sampler(params);
  std::map<int32_t, int> counts;
  for (int i = 0; i < n; ++i)
    ++counts[sampler.sample({logits.data(), {static_cast<int64_t>(logits.size())}}, i).id];
  return counts;
}

TEST(Sampler, GreedyTakesTheLowestIdOfEqualLogits) {
  SamplingParams p;
  p.temperature = 0;
  EXPECT_EQ(sample(p, {1, 3, 3, 2}).id, 1);
}

TEST(Sampler, FrequenciesFollowTheDistribution) {
  SamplingParams p;
  p.temperature = 2.0f;
  std::vector<float> logits = {0, 2 * std::log(2.f), 2 * std::log(5.f)};  // 1 : 2 : 5 at temperature 2
  auto counts = histogram(p, logits, 80000);
  // Standard deviation of a count is below sqrt(80000)/2 = 141; 5 of them.
  EXPECT_NEAR(counts[0], 10000, 700);
  EXPECT_NEAR(counts[1], 20000, 700);
  EXPECT_NEAR(counts[2], 50000, 700);
}

TEST(Sampler, TopKKeepsTheKBest) {
  SamplingParams p;
  p.top_k = 2;
  auto counts = histogram(p, {1.0f, 1.2f, 0.9f, 1.1f}, 2000);
  EXPECT_EQ(counts.size(), 2u);
  EXPECT_TRUE(counts.count(1) && counts.count(3));
}

TEST(Sampler, TopPKeepsTheSmallestSetThatReachesP) {
  SamplingParams p;
  p.top_p = 0.6f;
  // Probabilities 0.5, 0.3, 0.2: the first two reach 0.6.
  auto counts = histogram(p, {std::log(.5f), std::log(.3f), std::log(.2f)}, 4000);
  EXPECT_EQ(counts.size(), 2u);
  EXPECT_NEAR(counts[0], 2500, 160);
}

TEST(Sampler, MinPDropsWhatIsFarBelowTheBest) {
  SamplingParams p;
  p.min_p = 0.5f;
  auto counts = histogram(p, {std::log(.5f), std::log(.3f), std::log(.2f)}, 1000);
  EXPECT_EQ(counts.size(), 2u);  // 0.2 < 0.5 * 0.5
}

TEST(Sampler, MinPDoesNotChangeWhatTopPCounts) {
  SamplingParams p;
  p.top_p = 0.75f;
  p.min_p = 0.7f;  // keeps 0.5 and 0.4 of 0.5, 0.4, 0.1; top-p alone keeps both as well
  auto counts = histogram(p, {std::log(.5f), std::log(.4f), std::log(.1f)}, 1000);
  EXPECT_EQ(counts.size(), 2u);
}

// Beside a definition that sorts everything and uses the library's exp.
TEST(Sampler, FiltersOfALargeVocabularyKeepWhatTheirDefinitionKeeps) {
  constexpr int kVocab = 5003;
  std::vector<float> logits(kVocab);
  for (int i = 0; i < kVocab; ++i)
    logits[i] = static_cast<float>(4 * uniform_at(1, i) + 9 * std::pow(uniform_at(2, i), 40.0));
  struct Case {
    float temperature, top_p;
    int top_k;
    float min_p;
  };
  for (const Case& c :
       {Case{1, 1, 0, 0}, Case{1, 0.5f, 0, 0}, Case{0.7f, 0.95f, 0, 0.01f}, Case{1, 1, 7, 0},
        Case{2, 0.3f, 400, 0}, Case{0.3f, 0.9f, 50, 0.2f}, Case{1, 1, 0, 0.1f}, Case{0.01f, 1, 0, 0}}) {
    std::vector<std::pair<double, int>> order;
    double max = *std::max_element(logits.begin(), logits.end()), total = 0, sum = 0, kept_mass = 0;
    for (int i = 0; i < kVocab; ++i) order.emplace_back(-std::exp((logits[i] - max) / c.temperature), i);
    std::sort(order.begin(), order.end());
    if (c.top_k > 0) order.resize(c.top_k);
    for (auto [w, id] : order) total -= w;
    std::map<int32_t, double> kept;
    for (auto [w, id] : order) {
      if (c.top_p < 1 && sum >= c.top_p * total) break;
      sum -= w;
      if (-w >= c.min_p) kept[id] = -w;
    }
    for (auto [id, w] : kept) kept_mass += w;
    SamplingParams p;
    p.temperature = c.temperature;
    p.top_p = c.top_p;
    p.top_k = c.top_k;
    p.min_p = c.min_p;
    constexpr int kDraws = 4000;
    auto counts = histogram(p, logits, kDraws);
    for (auto [id, n] : counts)
      EXPECT_TRUE(kept.contains(id)) << id << " at top_p " << c.top_p << ", top_k " << c.top_k << ", min_p "
                                     << c.min_p;
    for (auto [id, w] : kept) {
      double share = w / kept_mass, deviation = std::sqrt(kDraws * share * (1 - share));
      EXPECT_NEAR(counts[id], kDraws * share, 6 * deviation + 3)
          << id << " at top_p " << c.top_p << ", top_k " << c.top_k << ", min_p " << c.min_p;
    }
  }
}

TEST(Sampler, LogprobsAreThoseOfTheLibraryInDoublePrecision) {
  std::vector<float> logits(5003);
  double sum = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i] = static_cast<float>(200 * uniform_at(3, i) - 150);  // far below the smallest weight as well
    sum += std::exp(static_cast<double>(logits[i]));
  }
  SamplingParams p;
  p.top_logprobs = 20;
  SampledToken token = sample(p, logits);
  EXPECT_NEAR(token.logprob, logits[token.id] - std::log(sum), 1e-5);
  for (auto [id, logprob] : token.top) EXPECT_NEAR(logprob, logits[id] - std::log(sum), 1e-5);
}

TEST(Sampler, LogitsThatAreNoNumbersStillGiveAToken) {
  SamplingParams p;
  for (float top_p : {1.0f, 0.5f}) {
    p.top_p = top_p;
    EXPECT_GE(sample(p, std::vector<float>(100, std::nanf(""))).id, 0);
  }
}

TEST(Sampler, SameSeedAndPositionGiveTheSameToken) {
  std::vector<float> logits(1000);
  for (int i = 0; i < 1000; ++i) logits[i] = std::sin(static_cast<float>(i));
  SamplingParams p;
  p.seed = 7;
  int differs = 0;
  for (int64_t position = 0; position < 50; ++position) {
    int32_t a = sample(p, logits, position).id;
    EXPECT_EQ(a, sample(p, logits, position).id);
    SamplingParams other = p;
    other.seed = 8;
    differs += a != sample(other, logits, position).id;
  }
  EXPECT_GT(differs, 40);
}

TEST(Sampler, AMaskForbidsBeforeEveryFilterAndLeavesLogprobsAlone) {
  std::vector<float> logits = {5, 4, 3, 2, 1};
  std::vector<uint32_t> mask = {0b11100};
  for (float temperature : {0.f, 1.f}) {
    SamplingParams p;
    p.temperature = temperature;
    p.top_k = 1;
    p.min_p = 0.9f;
    p.top_logprobs = 1;
    Sampler sampler(p);
    SampledToken token = sampler.sample({logits.data(), {5}}, 0, mask);
    EXPECT_EQ(token.id, 2) << "the best of what is allowed";
    EXPECT_EQ(token.top[0].first, 0) << "the best of all";
    EXPECT_FLOAT_EQ(token.logprob, token.top[0].second - 2);
  }
  SamplingParams p;
  p.logit_bias = {{0, 100.f}};
  Sampler sampler(p);
  for (int i = 0; i < 200; ++i) EXPECT_GE(sampler.sample({logits.data(), {5}}, i, mask).id, 2);
}

TEST(Sampler, PenaltiesLowerTheTokensThatTheTextHas) {
  SamplingParams p;
  p.temperature = 0;
  p.presence_penalty = 0.5f;
  p.frequency_penalty = 0.25f;
  std::vector<float> logits = {3.0f, 2.9f, 2.0f, -1.0f};
  Sampler sampler(p);
  auto next = [&] {
    SampledToken token = sampler.sample({logits.data(), {4}}, 0);
    sampler.accept(token.id);
    return token.id;
  };
  // The best of 3, 2.9, 2; 2.25, 2.9, 2; 2.25, 2.15, 2; 2, 2.15, 2; 2, 1.9, 2; 1.75, 1.9, 2.
  EXPECT_EQ((std::vector<int32_t>{next(), next(), next(), next(), next(), next()}),
            (std::vector<int32_t>{0, 1, 0, 1, 0, 2}));
  SamplingParams none;
  none.temperature = 0;
  Sampler free(none);
  free.accept(0);
  EXPECT_EQ(free.sample({logits.data(), {4}}, 0).id, 0);
}

TEST(Sampler, LogProbabilitiesAreThoseOfThePenalisedDistribution) {
  SamplingParams p;
  p.temperature = 0;
  p.presence_penalty = 1;
  std::vector<float> logits = {1.0f, 1.0f};
  Sampler sampler(p);
  sampler.accept(0);
  SampledToken token = sampler.sample({logits.data(), {2}}, 0);
  EXPECT_EQ(token.id, 1);
  EXPECT_NEAR(token.logprob, -std::log(1 + std::exp(-1.0)), 1e-5);
}

TEST(Sampler, ABannedTokenIsDrawnAsLittleAsOneThatAMaskForbids) {
  constexpr int64_t kTokens = 200;
  for (int way = 0; way < 6; ++way) {
    SamplingParams p;
    p.seed = 7;
    p.temperature = way == 0 ? 0.0f : 1.3f;
    if (way == 2) p.top_k = 9;
    if (way == 3) p.top_p = 0.6f;
    if (way == 4) p.min_p = 0.1f;
    if (way == 5) p.logit_bias = {{3, 40.0f}};
    Sampler masked(p), banning(p);
    for (int64_t i = 0; i < 300; ++i) {
      std::vector<float> logits(kTokens);
      for (int64_t t = 0; t < kTokens; ++t)
        logits[t] = static_cast<float>(6 * uniform_at(static_cast<uint64_t>(i), static_cast<uint64_t>(t)));
      // Every other time the best token of all, which would nearly always be drawn.
      auto banned = static_cast<int32_t>(i % kTokens);
      if (i % 2 == 0) logits[banned] = 30;
      if (way == 5) banned = 3;
      std::vector<uint32_t> mask((kTokens + 31) / 32, ~0u);
      mask[banned / 32] &= ~(1u << (banned % 32));
      SampledToken token = banning.sample({logits.data(), {kTokens}}, i, {}, banned);
      EXPECT_NE(token.id, banned);
      EXPECT_EQ(token.id, masked.sample({logits.data(), {kTokens}}, i, mask).id)
          << "way " << way << ", " << i;
    }
  }
}

TEST(Sampler, AForcedTokenHasItsOwnLogprob) {
  SamplingParams p;
  p.top_logprobs = 2;
  Sampler sampler(p);
  std::vector<float> logits = {std::log(.5f), std::log(.3f), std::log(.2f)};
  SampledToken token = sampler.force({logits.data(), {3}}, 2);
  EXPECT_EQ(token.id, 2);
  EXPECT_NEAR(token.logprob, std::log(.2f), 1e-6);
  EXPECT_EQ(token.top[0].first, 0);
}

TEST(Sampler, LogitBiasMovesTheChoiceAndLogprobsAreNormalised) {
  SamplingParams p;
  p.temperature = 0;
  p.logit_bias = {{2, 10.f}};
  p.top_logprobs = 3;
  SampledToken token = sample(p, {1, 2, 0});
  EXPECT_EQ(token.id, 2);
  ASSERT_EQ(token.top.size(), 3u);
  double sum = 0;
  for (auto [id, logprob] : token.top) sum += std::exp(static_cast<double>(logprob));
  EXPECT_NEAR(sum, 1.0, 1e-5);
  EXPECT_EQ(token.top[0].first, 2);
  EXPECT_FLOAT_EQ(token.top[0].second, token.logprob);
}

}  // namespace
}  // namespace kvasir
