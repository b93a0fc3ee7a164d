// The lightning indexer of the CPU backend against scores computed plainly, with its tie rule.
#include "backend/cpu/indexer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "backend/cpu/attention_fixture.h"
#include "backend/cpu/row_kernels.h"

namespace kvasir::cpu {
namespace {

struct Index {
  Index(Numerics n, int heads_, int dim_, int ratio_, int64_t tokens_, int64_t topk_, uint32_t seed = 31)
      : numerics(n),
        heads(heads_),
        dim(dim_),
        ratio(ratio_),
        tokens(tokens_),
        topk(topk_),
        format(KvRowFormat::index_key(n, dim_)),
        q({tokens_, heads_, dim_}),
        weight({tokens_, heads_}),
        keys(format, tokens_ / ratio_ + 1, 5) {
    Random random(seed);
    random.fill(q, 1.f, true);
    random.fill(weight, 0.1f, true);
    keys.fill_random(random, tokens / ratio);
    if (n == Numerics::kNative)
      for (int64_t i = 0; i < tokens * heads; ++i)
        row_kernels(Isa::kPortable).round_trip_fp4(&q.data[static_cast<size_t>(i * dim)], dim);
  }

  std::vector<int32_t> select(Backend& backend, int64_t start, int64_t count) {
    Tensor<int32_t, 2> out({count, topk});
    IndexSelectSequence a;
    a.q = q.view.rows(start, count);
    a.weight = weight.view.rows(start, count);
    a.start = start;
    a.ratio = ratio;
    a.format = format;
    a.pages = keys.pages.data();
    a.keys = keys.section;
    a.selected = out.view;
    index_select(backend.context, a);
    return out.data;
  }

  // Score of (t, b), with the official roundings under kNative, and what rounding q to int8 may do to it.
  double score(int64_t t, int64_t b, double* error = nullptr) {
    auto key = keys.values(b);
    double total = 0, off = 0;
    float key_max = 0;
    for (float k : key) key_max = std::max(key_max, std::fabs(k));
    for (int64_t h = 0; h < heads; ++h) {
      double dot = 0, size = 0, mass = 0, q_max = 0;
      for (int64_t d = 0; d < dim; ++d) {
        double x = q.view(t, h, d);
        dot += x * key[static_cast<size_t>(d)];
        size += std::fabs(double{key[static_cast<size_t>(d)]});
        mass += std::fabs(x);
        q_max = std::max(q_max, std::fabs(x));
      }
      // int8: half a unit of q against every key value; a key value moves by half of 1/24 of its row's
      // largest scale.
      off += std::fabs(weight.view(t, h)) * (q_max / 254 * size + mass * double{key_max} / 3 / 16 / 2);
      double w = weight.view(t, h);
      if (numerics == Numerics::kNative) {
        float r = std::max(0.f, round_bf16(static_cast<float>(dot)));
        total += round_bf16(r * static_cast<float>(w));
      } else {
        total += w * std::max(0., dot);
      }
    }
    if (error != nullptr) *error = off;
    return numerics == Numerics::kNative ? round_bf16(static_cast<float>(total)) : total;
  }

  Numerics numerics;
  int heads, dim, ratio;
  int64_t tokens, topk;
  KvRowFormat format;
  Tensor<float, 3> q;
  Tensor<float, 2> weight;
  PageStore keys;
};

// The topk best of `visible` scores, ties to the lowest number, ascending, then -1.
std::vector<int32_t> best_of(Index& x, int64_t t) {
  int64_t visible = (t + 1) / x.ratio, n = std::min(visible, x.topk);
  std::vector<double> s;
  for (int64_t b = 0; b < visible; ++b) s.push_back(x.score(t, b));
  std::vector<int32_t> order(static_cast<size_t>(visible));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    double first = s[static_cast<size_t>(a)], second = s[static_cast<size_t>(b)];
    return first != second ? first > second : a < b;
  });
  order.resize(static_cast<size_t>(n));
  std::sort(order.begin(), order.end());
  order.resize(static_cast<size_t>(x.topk), -1);
  return order;
}

TEST(CpuIndexSelect, PicksTheBestUnderExactAndNative) {
  for (Numerics numerics : {Numerics::kExact, Numerics::kNative}) {
    for (auto [heads, dim] : {std::pair<int, int>{4, 64}, {5, 32}, {64, 128}}) {
      Index x(numerics, heads, dim, 4, 1003, 40);
      for (Isa isa : available_isas()) {
        Backend backend(numerics, isa, 2);
        for (int64_t start : {0, 700, 1000}) {
          int64_t count = std::min<int64_t>(start == 0 ? 9 : 3, x.tokens - start);
          auto got = x.select(backend, start, count);
          for (int64_t i = 0; i < count; ++i) {
            std::vector<int32_t> row(got.begin() + i * x.topk, got.begin() + (i + 1) * x.topk);
            ASSERT_EQ(row, best_of(x, start + i))
                << case_name(numerics, isa) << " heads " << heads << " token " << start + i;
          }
        }
      }
    }
  }
}

TEST(CpuIndexSelect, FastStaysWithinTheErrorOfItsInt8Queries) {
  for (auto [heads, dim] : {std::pair<int, int>{4, 64}, {7, 96}, {64, 128}}) {
    Index x(Numerics::kFast, heads, dim, 4, 2003, 64);
    for (Isa isa : available_isas()) {
      Backend backend(Numerics::kFast, isa, 2);
      for (int64_t t : {1700, 2002}) {
        auto got = x.select(backend, t, 1);
        auto best = best_of(x, t);
        double worst_best = INFINITY;
        for (int32_t b : best) worst_best = std::min(worst_best, x.score(t, b));
        int64_t common = 0;
        for (int32_t b : got) {
          double error = 0, s = x.score(t, b, &error);
          ASSERT_GE(s, worst_best - 2 * error) << isa_name(isa) << " entry " << b;
          common += std::find(best.begin(), best.end(), b) != best.end();
        }
        EXPECT_GE(common, 60) << isa_name(isa) << " heads " << heads;  // of 64
      }
    }
  }
}

TEST(CpuIndexSelect, Trap11MasksBeforeChoosing) {
  for (Numerics numerics : kAllNumerics) {
    Index x(numerics, 8, 64, 4, 6, 512);
    Backend backend(numerics, detect_isa(), 1);
    auto got = x.select(backend, 5, 1);
    EXPECT_EQ(got[0], 0);
    EXPECT_EQ(std::count(got.begin(), got.end(), -1), 511);
  }
}

TEST(CpuIndexSelect, Trap10SeesAnEntryFromItsClosingTokenOn) {
  for (Numerics numerics : kAllNumerics) {
    Index x(numerics, 4, 64, 4, 20, 3);
    Backend backend(numerics, detect_isa(), 2);
    auto got = x.select(backend, 0, 20);
    for (int64_t t = 0; t < 20; ++t) {
      for (int64_t i = 0; i < 3; ++i)
        ASSERT_LT(got[static_cast<size_t>(t * 3 + i)], (t + 1) / 4) << "token " << t;
      EXPECT_EQ(got[static_cast<size_t>(t * 3)] == -1, t < 3);
    }
  }
}

TEST(CpuIndexSelect, BreaksTiesByTheLowestNumber) {
  for (Numerics numerics : kAllNumerics) {
    for (Isa isa : available_isas()) {
      Index x(numerics, 4, 64, 1, 5000, 100);
      for (float& w : x.weight.data)
        w = -0.5f;  // scores at or below zero: zeros of both signs tie at the top
      for (int64_t b = 0; b < 5000; ++b) {
        std::memcpy(x.keys.data(b), x.keys.data(0), static_cast<size_t>(x.format.data_bytes));
        std::memcpy(x.keys.scale(b), x.keys.scale(0), static_cast<size_t>(x.format.scale_bytes));
      }
      Backend backend(numerics, isa, 2);
      for (int64_t count : {1, 40}) {
        auto got = x.select(backend, 4999 - count, count);
        for (int64_t i = 0; i < 100; ++i)
          ASSERT_EQ(got[static_cast<size_t>(i)], i) << case_name(numerics, isa);
      }
    }
  }
}

TEST(CpuIndexSelect, DependsOnNeitherChunksNorThreads) {
  for (Numerics numerics : kAllNumerics) {
    for (auto [heads, dim] : {std::pair<int, int>{4, 64}, {9, 128}}) {
      Index x(numerics, heads, dim, 1, 9000, 33);  // enough keys for several spans
      for (Isa isa : available_isas()) {
        Backend one(numerics, isa, 1), four(numerics, isa, 4);
        auto whole = x.select(one, 8800, 200);
        ASSERT_EQ(whole, x.select(four, 8800, 200)) << case_name(numerics, isa);
        for (int64_t chunk : {1, 3, 127}) {
          for (int64_t t = 0; t + chunk <= 200; t += 67) {
            auto part = x.select(t % 2 ? one : four, 8800 + t, chunk);
            ASSERT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + t * 33))
                << case_name(numerics, isa) << " chunk " << chunk;
          }
        }
      }
    }
  }
}

TEST(CpuIndexQuery, RotatesTransformsAndRoundsToFp4OnlyUnderNative) {
  for (Numerics numerics : kAllNumerics) {
    Random random(6);
    Tensor<float, 3> q({3, 5, 64}), table({3, 16, 2});
    random.fill(q, 1.f, true);
    for (size_t i = 0; i < table.data.size(); i += 2) {
      table.data[i] = 0.28f;
      table.data[i + 1] = 0.96f;
    }
    for (Isa isa : available_isas()) {
      auto got = q;
      got.view = View<float, 3>(got.data.data(), {3, 5, 64});
      Backend backend(numerics, isa, 2);
      Tensor<float, 2> weight({3, 5});
      std::fill(weight.data.begin(), weight.data.end(), 1.015625f);
      index_query(backend.context, {got.view, table.view, weight.view, 0.3f});
      float scaled = 1.015625f * 0.3f;
      for (float w : weight.data) EXPECT_EQ(w, numerics == Numerics::kNative ? round_bf16(scaled) : scaled);
      int64_t off = 0;
      for (int64_t row = 0; row < 15; ++row) {
        auto round = [&](float v) { return numerics == Numerics::kNative ? round_bf16(v) : v; };
        std::vector<float> x(&q.data[static_cast<size_t>(row * 64)],
                             &q.data[static_cast<size_t>(row * 64)] + 64),
            y(64);
        for (size_t i = 32; i < 64; i += 2) {
          float a = x[i], b = x[i + 1];
          x[i] = round(a * 0.28f - b * 0.96f);
          x[i + 1] = round(a * 0.96f + b * 0.28f);
        }
        for (size_t i = 0; i < 64; ++i) {
          double sum = 0;
          for (size_t j = 0; j < 64; ++j) sum += (__builtin_parityll(i & j) ? -1 : 1) * double{x[j]};
          y[i] = round(static_cast<float>(sum / 8));
        }
        if (numerics == Numerics::kNative) {
          RowStore store(KvRowFormat::index_key(numerics, 64), 1);
          encode_row(store.format, y.data(), store.rows().data, store.rows().scale);
          y = store.values(0);
        }
        for (size_t i = 0; i < 64; ++i) {
          float v = got.data[static_cast<size_t>(row) * 64 + i];
          if (numerics == Numerics::kNative) {
            off += v != y[i];  // a sum on a bf16 boundary that is also an FP4 one
          } else {
            ASSERT_NEAR(v, y[i], 2e-6) << case_name(numerics, isa);
          }
        }
      }
      EXPECT_LE(off, 2) << case_name(numerics, isa);
    }
  }
}

}  // namespace
}  // namespace kvasir::cpu
