// Hyper-connections of the CPU backend: golden Sinkhorn values, an f64 oracle, and independence of the batch.
#include "backend/cpu/hyper_connection.h"

#include <gtest/gtest.h>

#include <cmath>

#include "backend/cpu/attention_fixture.h"

namespace kvasir::cpu {
namespace {

struct Model {
  Model(int hc_, int64_t dim_, int64_t tokens_)
      : hc(hc_),
        dim(dim_),
        tokens(tokens_),
        fn({(2 + hc_) * hc_, hc_ * dim_}),
        base({(2 + hc_) * hc_}),
        scale({3}),
        streams({tokens_, hc_, dim_}),
        x({tokens_, dim_}),
        post({tokens_, hc_}),
        comb({tokens_, hc_, hc_}) {
    Random random(5);
    random.fill(fn, 1.f / std::sqrt(static_cast<float>(hc * dim)));
    random.fill(base);
    scale.data = {0.7f, 0.4f, 1.3f};
    random.fill(streams, 2.f);
  }
  void pre(Backend& backend, int64_t from, int64_t count) {
    HcPreArgs a;
    a.w = {fn.view, base.view, scale.view};
    a.streams = streams.view.rows(from, count);
    a.x = x.view.rows(from, count);
    a.post = post.view.rows(from, count);
    a.comb = comb.view.rows(from, count);
    hc_pre(backend.context, a);
  }
  int hc;
  int64_t dim, tokens;
  Tensor<float, 2> fn;
  Tensor<float, 1> base, scale;
  Tensor<float, 3> streams;
  Tensor<float, 2> x, post;
  Tensor<float, 3> comb;
};

TEST(CpuHyperConnection, SinkhornHasTheGoldenValues) {  // spec A.6
  for (Isa isa : available_isas()) {
    Model m(4, 8, 1);
    for (float& v : m.streams.data) v = 1.f;  // mean square 1: the mix is the row sums of fn
    for (int i = 0; i < 24; ++i) {
      for (int64_t j = 0; j < 32; ++j) m.fn.view(i, j) = (0.1f * static_cast<float>(i) - 1.f) / 32;
      m.base.view(i) = 0.05f * static_cast<float>(7 * i % 5) - 0.1f;
    }
    m.scale.data = {0.5f, 0.25f, 2.f};
    Backend backend(Numerics::kExact, isa, 1);
    m.pre(backend, 0, 1);
    float pre[] = {0.3543447f, 0.3893618f, 0.4255585f, 0.4013134f};
    float post[] = {0.9500416f, 0.8879722f, 0.9500416f, 1.0124993f};
    float comb[] = {0.2457284f, 0.2618242f, 0.2306221f, 0.2618243f, 0.2779200f, 0.2306222f,
                    0.2608347f, 0.2306221f, 0.2457284f, 0.2618242f, 0.2306221f, 0.2618242f,
                    0.2306222f, 0.2457284f, 0.2779200f, 0.2457284f};
    EXPECT_NEAR(m.x.data[0], pre[0] + pre[1] + pre[2] + pre[3], 2e-6) << isa_name(isa);
    for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(m.post.data[i], post[i], 1e-6) << isa_name(isa);
    for (size_t i = 0; i < 16; ++i) EXPECT_NEAR(m.comb.data[i], comb[i], 1e-6) << isa_name(isa) << " " << i;
  }
}

TEST(CpuHyperConnection, PreAgreesWithF64) {
  for (auto [hc, dim] : {std::pair<int, int64_t>{4, 1024}, {2, 33}, {4, 515}}) {
    for (Numerics numerics : kAllNumerics) {
      for (Isa isa : available_isas()) {
        Model m(hc, dim, 19);
        Backend backend(numerics, isa, 2);
        m.pre(backend, 0, 19);
        for (int64_t t = 0; t < 19; ++t) {
          const float* f = m.streams.view.row(t);
          double squares = 0;
          for (int64_t i = 0; i < hc * dim; ++i) squares += double{f[i]} * f[i];
          double root = 1 / std::sqrt(squares / static_cast<double>(hc * dim) + 1e-6);
          std::vector<double> pre;
          for (int s = 0; s < hc; ++s) {
            double dot = 0;
            for (int64_t i = 0; i < hc * dim; ++i) dot += double{f[i]} * m.fn.view(s, i);
            pre.push_back(1 / (1 + std::exp(-(dot * root * m.scale.view(0) + m.base.view(s)))) + 1e-6);
          }
          for (int64_t i = 0; i < dim; ++i) {
            double want = 0, size = 0;
            for (int s = 0; s < hc; ++s) {
              want += pre[static_cast<size_t>(s)] * f[s * dim + i];
              size += std::fabs(pre[static_cast<size_t>(s)] * f[s * dim + i]);
            }
            double unit = numerics == Numerics::kNative ? 0x1p-8 * std::fabs(want) : 0;
            ASSERT_NEAR(m.x.view(t, i), want, unit + 3e-6 * size) << case_name(numerics, isa);
          }
          for (int k = 0; k < hc;
               ++k) {  // doubly stochastic: rows within the error of 20 iterations, columns exactly
            double column = 0;
            for (int j = 0; j < hc; ++j) column += m.comb.view(t, j, k);
            ASSERT_NEAR(column, 1, 4e-6) << case_name(numerics, isa);
          }
        }
      }
    }
  }
}

TEST(CpuHyperConnection, Trap14DestinationSumsOverTheFirstIndex) {
  for (Isa isa : available_isas()) {
    for (Numerics numerics : kAllNumerics) {
      Backend backend(numerics, isa, 2);
      Model m(4, 1037, 3);
      Tensor<float, 2> y({3, 1037});
      std::fill(m.comb.data.begin(), m.comb.data.end(), 0.f);
      int to[] = {2, 0, 3, 1};
      for (int64_t t = 0; t < 3; ++t)
        for (int j = 0; j < 4; ++j) m.comb.view(t, j, to[j]) = 1.f;
      for (float& v : m.streams.data) v = round_bf16(v);
      auto before = m.streams.data;
      hc_post(backend.context, {y.view, m.post.view, m.comb.view, m.streams.view});
      for (int64_t t = 0; t < 3; ++t)
        for (int j = 0; j < 4; ++j)
          for (int64_t i = 0; i < 1037; ++i)
            ASSERT_EQ(m.streams.view(t, to[j], i), before[static_cast<size_t>((t * 4 + j) * 1037 + i)])
                << case_name(numerics, isa);
    }
  }
}

TEST(CpuHyperConnection, PostAgreesWithF64) {
  for (Isa isa : available_isas()) {
    for (Numerics numerics : kAllNumerics) {
      for (int hc : {3, 4}) {
        Backend backend(numerics, isa, 2);
        Model m(hc, 77, 5);
        Random random(8);
        Tensor<float, 2> y({5, 77});
        random.fill(y);
        random.fill(m.post);
        random.fill(m.comb);
        auto before = m.streams;
        before.view = View<float, 3>(before.data.data(), {5, hc, 77});
        hc_post(backend.context, {y.view, m.post.view, m.comb.view, m.streams.view});
        for (int64_t t = 0; t < 5; ++t) {
          for (int k = 0; k < hc; ++k) {
            for (int64_t i = 0; i < 77; ++i) {
              double want = double{m.post.view(t, k)} * y.view(t, i), size = std::fabs(want);
              for (int j = 0; j < hc; ++j) {
                want += double{m.comb.view(t, j, k)} * before.view(t, j, i);
                size += std::fabs(double{m.comb.view(t, j, k)} * before.view(t, j, i));
              }
              double unit = numerics == Numerics::kNative ? 0x1p-8 * std::fabs(want) : 0;
              ASSERT_NEAR(m.streams.view(t, k, i), want, unit + 1e-6 * size) << case_name(numerics, isa);
            }
          }
        }
      }
    }
  }
}

TEST(CpuHyperConnection, ARowsBitsDependOnNeitherBatchNorThreads) {
  for (Isa isa : available_isas()) {
    Model many(4, 1100, 50), few(4, 1100, 50);
    Backend four(Numerics::kFast, isa, 4), one(Numerics::kFast, isa, 1);
    many.pre(four, 0, 50);
    for (int64_t t = 0; t < 50; t += 3) few.pre(t % 2 ? four : one, t, std::min<int64_t>(3, 50 - t));
    EXPECT_EQ(many.x.data, few.x.data) << isa_name(isa);
    EXPECT_EQ(many.post.data, few.post.data) << isa_name(isa);
    EXPECT_EQ(many.comb.data, few.comb.data) << isa_name(isa);
  }
}

TEST(CpuHyperConnection, HeadCollapsesTheNamedRows) {
  for (Isa isa : available_isas()) {
    Model m(4, 130, 6);
    Random random(12);
    Tensor<float, 2> fn({4, 520}), x({3, 130});
    Tensor<float, 1> base({4}), scale({1});
    random.fill(fn, 0.05f);
    random.fill(base);
    scale.data = {0.9f};
    int32_t rows[] = {5, 0, 5};
    Backend backend(Numerics::kExact, isa, 2);
    HcHeadArgs a;
    a.w = {fn.view, base.view, scale.view};
    a.streams = m.streams.view;
    a.rows = View<const int32_t, 1>(rows, {3});
    a.x = x.view;
    hc_head(backend.context, a);
    for (int64_t r = 0; r < 3; ++r) {
      const float* f = m.streams.view.row(rows[r]);
      double squares = 0;
      for (int64_t i = 0; i < 520; ++i) squares += double{f[i]} * f[i];
      double pre[4];
      for (int s = 0; s < 4; ++s) {
        double dot = 0;
        for (int64_t i = 0; i < 520; ++i) dot += double{f[i]} * fn.view(s, i);
        pre[s] = 1 / (1 + std::exp(-(dot / std::sqrt(squares / 520 + 1e-6) * 0.9 + base.view(s)))) + 1e-6;
      }
      for (int64_t i = 0; i < 130; ++i) {
        double want = 0;
        for (int s = 0; s < 4; ++s) want += pre[s] * f[s * 130 + i];
        ASSERT_NEAR(x.view(r, i), want, 2e-5) << isa_name(isa);
      }
    }
  }
}

TEST(CpuHyperConnection, MtpJoinAddsTheTokenToEveryStream) {
  for (Numerics numerics : kAllNumerics) {
    Backend backend(numerics, detect_isa(), 2);
    Model m(4, 21, 3);
    Random random(1);
    Tensor<float, 2> e({3, 21});
    random.fill(e);
    auto before = m.streams.data;
    mtp_join(backend.context, {m.streams.view, e.view, m.streams.view});
    for (int64_t t = 0; t < 3; ++t) {
      for (int64_t s = 0; s < 4; ++s) {
        for (int64_t i = 0; i < 21; ++i) {
          float want = before[static_cast<size_t>((t * 4 + s) * 21 + i)] + e.view(t, i);
          ASSERT_EQ(m.streams.view(t, s, i), numerics == Numerics::kNative ? round_bf16(want) : want);
        }
      }
    }
  }
}

}  // namespace
}  // namespace kvasir::cpu
