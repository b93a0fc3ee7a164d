// Sampling on the device against engine/sampler.h: the same token for the same request, settings by settings.
//
// Weights agree bit for bit and sums to some 1e-13, so that of the few thousand draws here none falls
// between.
#include <gtest/gtest.h>

#include <limits>

#include "backend/cuda/boundary_fixture_test.h"
#include "backend/cuda/sampling.h"
#include "engine/sampler.h"

namespace kvasir::cuda {
namespace {

using namespace rows_test;

enum class Kind { kNormal, kPeaked, kFlat, kTied };

void fill(Mirror<float, 2>& logits, Kind kind, Random& random) {
  random.fill(logits, kind == Kind::kPeaked ? 6.f : kind == Kind::kFlat ? 0.01f : 2.f);
  if (kind != Kind::kTied) return;
  for (float& v : logits.data) v = std::round(v);  // about a dozen different weights
  logits.up();
}

struct Case {
  float temperature = 1, top_p = 1, min_p = 0;
  int top_k = 0;
};

const Case kCases[] = {{0},
                       {1},
                       {0.7f},
                       {1.5f},
                       {1, 0.9f},
                       {0.8f, 0.5f},
                       {1, 0.999f},
                       {1, 1e-6f},
                       {1, 1, 0.05f},
                       {1, 1, 1},
                       {1, 1, 0, 1},
                       {1, 1, 0, 2},
                       {1, 1, 0, 40},
                       {1, 1, 0, 3000},
                       {1, 1, 0, 1 << 30},
                       {0.9f, 0.8f, 0, 50},
                       {1.2f, 0.95f, 0.02f, 64},
                       {1, 0.9f, 0.3f},
                       {1, 1, 0.2f, 10},
                       {1e-4f},
                       {1e-4f, 0.9f},
                       {50, 0.97f},
                       {50, 1, 0, 777}};

class Draws {
 public:
  Draws(int64_t n, int64_t vocab)
      : logits({n, vocab}),
        mask({n, (vocab + 31) / 32}),
        bias_ids({n, 8}),
        bias({n, 8}),
        stops({n, 3}),
        requests({n}),
        ids({n}),
        stopped({n}) {}
  // Row i gets setting `first + i`, and every third row a mask, every fourth a bias.
  void ask(int first, Random& random, bool plain) {
    int64_t n = logits.shape[0], vocab = logits.shape[1];
    params.clear();
    for (int64_t i = 0; i < n; ++i) {
      const Case& c = kCases[static_cast<size_t>(first + i) % std::size(kCases)];
      SampleRequest& r = requests.data[i];
      r = {};
      r.temperature = c.temperature, r.top_p = c.top_p, r.min_p = c.min_p, r.top_k = c.top_k;
      r.seed = static_cast<uint64_t>(random.below(1 << 30)), r.position = random.below(1 << 20);
      SamplingParams p;
      p.temperature = c.temperature, p.top_p = c.top_p, p.min_p = c.min_p, p.top_k = c.top_k, p.seed = r.seed,
      p.top_logprobs = -1;
      masked.resize(n);
      masked[i] = !plain && i % 3 == 1;
      for (int64_t w = 0; w < mask.shape[1]; ++w)
        mask.host()(i, w) = static_cast<uint32_t>(random.below(int64_t{1} << 32)) &
                            static_cast<uint32_t>(random.below(int64_t{1} << 32));
      mask.host()(i, 0) |= 2;
      if (masked[i]) r.mask = &mask.device()(i, 0);
      if (!plain && i % 4 == 2) {
        for (int j = 0; j < 8; ++j) {
          bias_ids.host()(i, j) = static_cast<int32_t>(random.below(vocab + 2)) - 1;  // outside, too
          bias.host()(i, j) = static_cast<float>(random.below(200)) / 10 - 10;
          p.logit_bias.emplace_back(bias_ids.host()(i, j), bias.host()(i, j));
        }
        r.bias_ids = &bias_ids.device()(i, 0), r.bias = &bias.device()(i, 0), r.bias_count = 8;
      }
      for (int j = 0; j < 3; ++j)
        stops.host()(i, j) = static_cast<int32_t>(random.below(std::min<int64_t>(vocab, 20)));
      r.stops = &stops.device()(i, 0), r.stop_count = 3;
      params.push_back(p);
    }
    mask.up(), bias_ids.up(), bias.up(), stops.up(), requests.up();
  }
  void draw() {
    ids.poison(), stopped.poison();
    sample(rows.context(), {logits.device(), requests.device(), ids.device(), stopped.device()});
  }
  int32_t expected(int64_t i) {
    std::span<const uint32_t> bits(&mask.host()(i, 0), masked[i] ? mask.shape[1] : 0);
    return Sampler(params[i])
        .sample({&logits.host()(i, 0), {logits.shape[1]}}, requests.data[i].position, bits)
        .id;
  }

  Rows rows{Numerics::kFast};
  Mirror<float, 2> logits;
  Mirror<uint32_t, 2> mask;
  Mirror<int32_t, 2> bias_ids;
  Mirror<float, 2> bias;
  Mirror<int32_t, 2> stops;
  Mirror<SampleRequest, 1> requests;
  Mirror<int32_t, 1> ids, stopped;
  std::vector<SamplingParams> params;
  std::vector<bool> masked;
};

TEST(CudaSampling, DrawsTheHostsTokenForEverySetting) {
  Random random(1);
  for (int64_t vocab : {1, 5, 97, 1000, 129280}) {
    for (Kind kind : {Kind::kNormal, Kind::kPeaked, Kind::kFlat, Kind::kTied}) {
      int64_t n = std::ssize(kCases);
      Draws d(n, vocab);
      for (int round = 0; round < (vocab > 10000 ? 2 : 8); ++round) {
        fill(d.logits, kind, random);
        d.ask(round, random, round == 0);
        d.draw();
        std::vector<int32_t> ids = d.ids.down(), stopped = d.stopped.down();
        for (int64_t i = 0; i < n; ++i) {
          const SamplingParams& p = d.params[i];
          EXPECT_EQ(ids[i], d.expected(i))
              << "vocabulary " << vocab << ", kind " << int(kind) << ", round " << round << ", row " << i
              << ": temperature " << p.temperature << " top_p " << p.top_p << " min_p " << p.min_p
              << " top_k " << p.top_k << (d.masked[i] ? " mask" : "")
              << (p.logit_bias.empty() ? "" : " bias");
          auto stops = std::span(&d.stops.host()(i, 0), 3);
          EXPECT_EQ(stopped[i], std::find(stops.begin(), stops.end(), ids[i]) != stops.end() ? 1 : 0);
        }
      }
    }
  }
}

TEST(CudaSampling, ARowOfNothingButForbiddenTokensGivesTheHostsAnswer) {
  Random random(2);
  Draws d(4, 300);
  random.fill(d.logits);
  for (float& v : d.logits.data) v = -std::numeric_limits<float>::infinity();
  for (int i = 0; i < 300; ++i)
    d.logits.host()(2, i) = d.logits.host()(3, i) = std::numeric_limits<float>::quiet_NaN();
  d.logits.host()(3, 77) = 1;
  d.logits.up();
  d.ask(0, random, true);
  d.draw();
  for (int64_t i = 0; i < 4; ++i) EXPECT_EQ(d.ids.down()[i], d.expected(i)) << "row " << i;
}

TEST(CudaSampling, TheSameRequestsGiveTheSameTokensAloneAndTogether) {
  Random random(3);
  Draws d(23, 129280);
  fill(d.logits, Kind::kFlat, random);
  d.ask(0, random, false);
  d.draw();
  std::vector<int32_t> together = d.ids.down();
  d.draw();
  EXPECT_EQ(together, d.ids.down());
  for (int64_t i = 0; i < 23; ++i)
    sample(d.rows.context(),
           {d.logits.device().rows(i, 1), View<const SampleRequest, 1>(d.requests.device()).rows(i, 1),
            d.ids.device().rows(i, 1), d.stopped.device().rows(i, 1)});
  EXPECT_EQ(together, d.ids.down());
}

}  // namespace
}  // namespace kvasir::cuda
