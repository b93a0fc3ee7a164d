// Norms, rotation, the gate and the row encoders of the CPU backend, on every instruction set of this
// machine.
#include <gtest/gtest.h>

#include <cmath>

#include "backend/cpu/attention_fixture.h"
#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/gate.h"
#include "backend/cpu/norm.h"
#include "backend/cpu/rope.h"
#include "backend/cpu/row_kernels.h"

namespace kvasir::cpu {
namespace {

TEST(CpuNorm, AgreesWithF64ForOddSizes) {
  for (Numerics numerics : kAllNumerics) {
    for (Isa isa : available_isas()) {
      for (int64_t n : {1, 7, 64, 100, 4096}) {
        Backend backend(numerics, isa, 2);
        Random random(1);
        Tensor<float, 2> x({9, n}), out({9, n});
        Tensor<float, 1> w({n});
        random.fill(x, 3.f);
        random.fill(w);
        rms_norm(backend.context, {x.view, w.view, 1e-6f, out.view});
        for (int64_t t = 0; t < 9; ++t) {
          double squares = 0;
          for (int64_t i = 0; i < n; ++i) squares += double{x.view(t, i)} * x.view(t, i);
          for (int64_t i = 0; i < n; ++i) {
            double want = w.view(i) * (x.view(t, i) / std::sqrt(squares / static_cast<double>(n) + 1e-6));
            // f32: a sum of n squares and four roundings; bf16: half a unit in 8 bits.
            double unit = numerics == Numerics::kNative ? 0x1p-8 : 0x1p-20;
            ASSERT_NEAR(out.view(t, i), want, unit * std::fabs(want) + 1e-30)
                << case_name(numerics, isa) << " n " << n;
            if (numerics == Numerics::kNative) {
              ASSERT_EQ(out.view(t, i), round_bf16(out.view(t, i)));
            }
          }
        }
      }
    }
  }
}

TEST(CpuRope, Trap30TableIsExactAtTheLastPosition) {
  // f32 angle at 1,048,575 for the frequencies of spec A.5; cos and sin of that very number.
  float frequencies[] = {1.0f, 0.68765604f, 0.4728708f, 9.0867841e-05f, 5.6805294e-07f};
  Tensor<float, 3> table({2, 5, 2});
  int32_t positions[] = {1048575, 0};
  Backend backend(Numerics::kFast, detect_isa(), 2);
  rope_table(backend.context,
             {View<const float, 1>(frequencies, {5}), View<const int32_t, 1>(positions, {2}), table.view});
  for (int i = 0; i < 5; ++i) {
    float angle = 1048575.f * frequencies[i];
    EXPECT_EQ(table.view(0, i, 0), static_cast<float>(std::cos(static_cast<double>(angle))));
    EXPECT_EQ(table.view(0, i, 1), static_cast<float>(std::sin(static_cast<double>(angle))));
    EXPECT_EQ(table.view(1, i, 0), 1.f);
    EXPECT_EQ(table.view(1, i, 1), 0.f);
  }
  EXPECT_NEAR(table.view(0, 0, 0), 0.78804223952893, 6e-8);  // cos(1048575), by a 60-digit computation
}

TEST(CpuRope, Trap6RotatesPairsOfTheLastDimsAndUndoesIt) {
  for (Isa isa : available_isas()) {
    for (int64_t pairs : {1, 5, 16, 32}) {
      Backend backend(Numerics::kExact, isa, 2);
      Random random(2);
      int64_t dim = 2 * pairs + 13;
      Tensor<float, 3> x({3, 4, dim}), table({3, pairs, 2});
      random.fill(x);
      for (size_t i = 0; i < table.data.size(); i += 2) {
        float angle = random.normal(5.f);
        table.data[i] = std::cos(angle);
        table.data[i + 1] = std::sin(angle);
      }
      auto before = x.data;
      rope(backend.context, {x.view, table.view, false});
      for (int64_t t = 0; t < 3; ++t) {
        for (int64_t h = 0; h < 4; ++h) {
          const float* old = &before[static_cast<size_t>((t * 4 + h) * dim)];
          for (int64_t d = 0; d < 13; ++d) ASSERT_EQ(x.view(t, h, d), old[d]);
          for (int64_t i = 0; i < pairs; ++i) {
            double a = old[13 + 2 * i], b = old[14 + 2 * i], c = table.view(t, i, 0), s = table.view(t, i, 1);
            ASSERT_NEAR(x.view(t, h, 13 + 2 * i), a * c - b * s, 1e-6) << isa_name(isa);
            ASSERT_NEAR(x.view(t, h, 14 + 2 * i), a * s + b * c, 1e-6) << isa_name(isa);
          }
        }
      }
      rope(backend.context, {x.view, table.view, true});
      for (size_t i = 0; i < before.size(); ++i) ASSERT_NEAR(x.data[i], before[i], 2e-6) << isa_name(isa);
    }
  }
}

TEST(CpuRope, Trap7HeadNormLeavesUnitMeanSquareAndRoundsUnderNative) {
  for (Isa isa : available_isas()) {
    Random random(4);
    Tensor<float, 3> x({5, 3, 96}), table({5, 16, 2});
    random.fill(x, 7.f, true);
    for (size_t i = 0; i < table.data.size(); i += 2) {
      table.data[i] = 0.6f;
      table.data[i + 1] = 0.8f;
    }
    Backend backend(Numerics::kNative, isa, 3);
    head_norm_rope(backend.context, {x.view, table.view, 1e-6f});
    for (int64_t t = 0; t < 5; ++t) {
      for (int64_t h = 0; h < 3; ++h) {
        double squares = 0;
        for (int64_t d = 0; d < 96; ++d) {
          squares += double{x.view(t, h, d)} * x.view(t, h, d);
          ASSERT_EQ(x.view(t, h, d), round_bf16(x.view(t, h, d)));
        }
        // The factor is off by half a unit in 8 bits of the mean, of mean + eps and (halved by the root) of
        // itself, the square of the factor by twice that: 2 (2^-9 + 2^-9 + 2^-9); products round either way.
        ASSERT_NEAR(squares / 96, 1.0, 6 * 0x1p-9) << isa_name(isa);
      }
    }
  }
}

TEST(CpuGate, SquareRootOfSoftplusHasTheGoldenValues) {  // spec A.7
  float logits[] = {-5, -1, 0, 1, 5, 25, -80};
  float want[] = {0.08194723f, 0.55969785f, 0.83255461f, 1.14597630f, 2.23756907f, 5.f, 4.2483542e-18f};
  for (Isa isa : available_isas()) {
    float s[7];
    row_kernels(isa).gate_scores(logits, 7, s);
    for (int i = 0; i < 7; ++i)
      EXPECT_NEAR(s[i], want[i], 3e-7f * want[i]) << isa_name(isa) << " " << logits[i];
  }
}

TEST(CpuGate, Trap25BiasSelectsAndUnbiasedScoresWeigh) {
  for (Isa isa : available_isas()) {
    Backend backend(Numerics::kNative, isa, 2);
    Tensor<float, 2> logits({1, 6}), weights({1, 3});
    Tensor<float, 1> bias({6});
    Tensor<int32_t, 2> chosen({1, 3});
    logits.data = {0, 1, 0, 0, 5, 0};  // equal scores at 0, 2, 3 and 5: the lowest id wins
    bias.data = {0, 0, 0, 0, -9, 0};
    GateArgs args;
    args.logits = logits.view;
    args.bias = bias.view;
    args.scale = 1.5f;
    args.experts = chosen.view;
    args.weights = weights.view;
    gate(backend.context, args);
    EXPECT_EQ(chosen.data, (std::vector<int32_t>{1, 0, 2}));
    double total = 1.14597630 + 2 * 0.83255461;
    EXPECT_NEAR(weights.data[0], 1.14597630 / total * 1.5, 1e-6);
    EXPECT_NEAR(weights.data[1], 0.83255461 / total * 1.5, 1e-6);
  }
}

TEST(CpuGate, HashLayersTakeTheTableAndKeepDuplicates) {
  Backend backend(Numerics::kFast, detect_isa(), 2);
  Tensor<float, 2> logits({2, 4}), weights({2, 2});
  Tensor<int32_t, 2> table({3, 2}), chosen({2, 2});
  logits.data = {0, 1, 5, 0, 0, 1, 5, 0};
  table.data = {0, 1, 3, 3, 2, 0};
  int32_t ids[] = {1, 2};
  GateArgs args;
  args.logits = logits.view;
  args.tid2eid = table.view;
  args.ids = View<const int32_t, 1>(ids, {2});
  args.scale = 2.5f;
  args.experts = chosen.view;
  args.weights = weights.view;
  gate(backend.context, args);
  EXPECT_EQ(chosen.data, (std::vector<int32_t>{3, 3, 2, 0}));
  EXPECT_FLOAT_EQ(weights.data[0], 1.25f);
  EXPECT_FLOAT_EQ(weights.data[2], 2.23756907f / (2.23756907f + 0.83255461f) * 2.5f);
}

// Values that sit on every kind of edge: ties, zeros of both signs, saturation, subnormals.
std::vector<float> awkward_values(Random& random, int64_t n) {
  std::vector<float> v(static_cast<size_t>(n));
  float sigma = std::ldexp(1.f, static_cast<int>(random.below(60)) - 40);
  for (float& x : v) {
    switch (random.below(6)) {
      case 0:
        x = 0.f;
        break;
      case 1:
        x = -0.f;
        break;
      case 2:
        x = std::ldexp(static_cast<float>(random.below(65) - 32), static_cast<int>(random.below(12)) - 10);
        break;
      default:
        x = round_bf16(random.normal(sigma));
    }
  }
  return v;
}

TEST(CpuRows, EncodersMatchTheScalarDefinitionBitForBit) {
  Random random(9);
  KvRowFormat entry = KvRowFormat::entry(Numerics::kNative, 160, 32),
              key = KvRowFormat::index_key(Numerics::kNative, 128);
  for (int round = 0; round < 400; ++round) {
    for (const KvRowFormat& f : {entry, key}) {
      auto values = awkward_values(random, f.dim);
      if (round % 50 == 49) values[3] = NAN;
      // kFast stores f32 as it is: values between those of bf16, some a hair from a tie of the stored format.
      for (float& v : values)
        if (round % 2 == 1 && random.below(2) == 0)
          v = std::nextafterf(v, random.below(2) == 0 ? 9e9f : -9e9f);
      if (round % 4 == 3)
        for (float& v : values) v += random.normal(std::fabs(v) / 256);
      RowStore want(f, 1), got(f, 1);
      encode_row(f, values.data(), want.rows().data, want.rows().scale);
      for (Isa isa : available_isas()) {
        row_kernels(isa).encode(f, values.data(), got.rows().data, got.rows().scale);
        ASSERT_EQ(want.data, got.data) << isa_name(isa) << " round " << round << " dim " << f.dim;
        ASSERT_EQ(want.scale, got.scale) << isa_name(isa) << " round " << round << " dim " << f.dim;
      }
    }
  }
}

TEST(CpuRows, HadamardHasTheGoldenValues) {  // spec A.4
  for (Isa isa : available_isas()) {
    std::vector<float> x(128), e(128);
    for (int i = 0; i < 128; ++i) x[static_cast<size_t>(i)] = static_cast<float>(i) / 128;
    e[3] = 1;
    row_kernels(isa).hadamard(x.data(), 128, false);
    row_kernels(isa).hadamard(e.data(), 128, false);
    EXPECT_NEAR(x[0], 5.61266, 1e-5);
    EXPECT_NEAR(x[1], -0.044194, 1e-6);
    EXPECT_NEAR(x[2], -0.088388, 1e-6);
    EXPECT_NEAR(x[3], 0, 1e-6);
    EXPECT_NEAR(x[4], -0.176777, 1e-6);
    EXPECT_NEAR(x[64], -2.828427, 1e-5);
    int signs[] = {1, -1, -1, 1, 1, -1, -1, 1};
    for (int i = 0; i < 8; ++i)
      EXPECT_NEAR(e[static_cast<size_t>(i)], 0.08838834765 * signs[i], 1e-7) << isa_name(isa);
  }
}

TEST(CpuOps, ReportsItsNumericsAndRunsAnEmptyStep) {
  for (Numerics numerics : kAllNumerics) {
    auto ops = make_cpu_ops({.numerics = numerics, .threads = 2});
    EXPECT_EQ(ops->numerics(), numerics);
    ops->rms_norm({});
    ops->attend({});
    ops->index_select({});
    ops->compress({});
    ops->hc_pre({});
    ops->hc_post({});
    ops->gate({});
    EXPECT_TRUE(ops->synchronize().has_value());
  }
}

}  // namespace
}  // namespace kvasir::cpu
