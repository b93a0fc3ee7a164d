// The linear layers of the CPU backend against an oracle that dequantises rows and sums in f64, on every
// instruction set this machine has.
//
// Tolerances. Let S = sum_k |x_k w_k| of an output. f32 sums in blocks of 128 over 16 lanes err by less than
// (16 + K/128 + 8) * 2^-24 * S; kExact is held to that. kNative is compared with an oracle that quantises the
// activations by the book, so the same bound applies, plus one bf16 rounding (2^-8 relative, rounding
// boundary crossings included) where the result is bf16. kFast is held to S-relative bounds of its own
// roundings: bf16 activations 2^-8 each, int8 per 32: half a step, amax / 254 each.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/cpu_test_weights.h"
#include "backend/cpu/linear.h"

namespace kvasir::cpu {
namespace {

struct Expected {
  double value, bound;
};

// The f64 result of one output and how far a correct kernel may be from it.
Expected expect(const std::vector<float>& w, const float* x, const float* x_original, Numerics numerics,
                WeightFormat format, LinearKind kind, int64_t rows) {
  const auto cols = static_cast<int64_t>(w.size());
  double value = 0, size = 0, rounding = 0;
  for (int64_t k = 0; k < cols; ++k) {
    double p = static_cast<double>(w[static_cast<size_t>(k)]) * x[k];
    value += p;
    size += std::fabs(p);
  }
  const double f32 = (16 + static_cast<double>(cols) / 128 + 8) * 0x1p-24 * size;
  if (numerics == Numerics::kFast && format != WeightFormat::kF32) {
    const bool int8 = kind == LinearKind::kQuantised &&
                      (format == WeightFormat::kFp4Group32 || (rows > kNarrowRows && scaled(format)));
    for (int64_t g = 0; g < cols; g += 32) {
      double x_max = 0, w_max = 0, w_sum = 0, x_sum = 0;
      for (int64_t k = g; k < std::min(cols, g + 32); ++k) {
        double a = std::fabs(x_original[k]), b = std::fabs(w[static_cast<size_t>(k)]);
        x_max = std::max(x_max, a);
        w_max = std::max(w_max, b);
        x_sum += a;
        w_sum += b;
      }
      // int8: half a step of x times the weights; e4m3 weights as int8 keep steps of at most w_max / 64.
      rounding +=
          int8 ? x_max / 254 * w_sum +
                     (format == WeightFormat::kFp8Block128 ? w_max / 128 * (x_sum + 32 * x_max / 254) : 0)
               : 0;
    }
    if (!int8) rounding = 0x1p-8 * size;
  }
  const bool rounds = numerics == Numerics::kNative && kind != LinearKind::kFloat;
  return {value, f32 + rounding + (rounds ? 0x1p-8 * std::fabs(value) : 0) + 1e-30};
}

class Linear : public testing::TestWithParam<Isa> {
 protected:
  ThreadPool pool_{2};
};

TEST_P(Linear, EveryFormatKindAndSizeMatchesTheOracle) {
  std::mt19937 rng(7);
  const int64_t shapes[][2] = {{1, 32},    {5, 96},    {130, 160}, {48, 128},
                               {33, 1184}, {300, 512}, {16, 4096}};  // [N, K]
  const int64_t ragged[][2] = {{7, 1}, {129, 77}, {40, 333}, {257, 130}};
  for (WeightFormat format : kFormats) {
    std::vector<std::pair<int64_t, int64_t>> sizes;
    for (auto& s : shapes) sizes.emplace_back(s[0], s[1]);
    if (format != WeightFormat::kFp4Group32)
      for (auto& s : ragged) sizes.emplace_back(s[0], s[1]);
    for (auto [rows, cols] : sizes) {
      Weight w(format, rows, cols, rng);
      for (LinearKind kind : {LinearKind::kQuantised, LinearKind::kBf16, LinearKind::kFloat}) {
        for (Numerics numerics : {Numerics::kExact, Numerics::kNative, Numerics::kFast}) {
          CpuContext context{pool_, numerics, GetParam()};
          for (int64_t tokens : {0, 1, 2, 7, 8, 9, 33, 100}) {
            std::vector<float> x = random_rows(tokens * cols, rng, numerics == Numerics::kNative), seen = x;
            if (numerics == Numerics::kNative && kind == LinearKind::kQuantised && scaled(format))
              quantise_by_the_book(seen, cols);
            std::vector<float> out(static_cast<size_t>(tokens * rows), -1.f);
            linear(context, {w.m, View<const float, 2>(x.data(), {tokens, cols}),
                             View<float, 2>(out.data(), {tokens, rows}), kind});
            for (int64_t n = 0; n < rows; ++n) {
              std::vector<float> row = w.row(n);
              for (int64_t t = 0; t < tokens; ++t) {
                Expected e =
                    expect(row, seen.data() + t * cols, x.data() + t * cols, numerics, format, kind, tokens);
                ASSERT_NEAR(out[static_cast<size_t>(t * rows + n)], e.value, e.bound)
                    << format_name(format) << ' ' << kind_name(kind) << ' ' << numerics_name(numerics) << " ["
                    << rows << ", " << cols << "] tokens " << tokens << " row " << n << " token " << t;
              }
            }
          }
        }
      }
    }
  }
}

TEST_P(Linear, ARowsResultDoesNotDependOnTheOthersNorOnThreads) {
  std::mt19937 rng(11);
  ThreadPool one(1), four(4);
  const int64_t rows = 200, cols = 416, tokens = 100;
  for (WeightFormat format : kFormats) {
    Weight w(format, rows, cols, rng);
    for (LinearKind kind : {LinearKind::kQuantised, LinearKind::kBf16, LinearKind::kFloat}) {
      for (Numerics numerics : {Numerics::kExact, Numerics::kNative, Numerics::kFast}) {
        std::vector<float> x = random_rows(tokens * cols, rng, true);
        auto run = [&](ThreadPool& pool, int64_t first, int64_t count) {
          CpuContext context{pool, numerics, GetParam()};
          std::vector<float> out(static_cast<size_t>(count * rows));
          linear(context, {w.m, View<const float, 2>(x.data() + first * cols, {count, cols}),
                           View<float, 2>(out.data(), {count, rows}), kind});
          return out;
        };
        std::string what = std::string(format_name(format)) + ' ' + kind_name(kind) + ' ' +
                           std::string(numerics_name(numerics));
        std::vector<float> all = run(one, 0, tokens);
        EXPECT_EQ(all, run(four, 0, tokens)) << what;
        EXPECT_EQ(all, run(four, 0, tokens)) << what << ", again";
        std::vector<float> eight = run(four, 16, 8);
        if (numerics != Numerics::kFast) {
          EXPECT_EQ(eight, std::vector<float>(all.begin() + 16 * rows, all.begin() + 24 * rows)) << what;
        }
        for (int64_t count : {1, 2, 3, 5, 7}) {
          std::vector<float> few = run(four, 17, count);
          EXPECT_EQ(few, std::vector<float>(eight.begin() + rows, eight.begin() + (1 + count) * rows))
              << what << ' ' << count;
        }
      }
    }
  }
}

TEST_P(Linear, FastIsNoFurtherFromExactThanNative) {
  std::mt19937 rng(13);
  const int64_t rows = 256, cols = 1024, tokens = 32;
  for (WeightFormat format : {WeightFormat::kBf16, WeightFormat::kFp8Block128, WeightFormat::kFp4Group32}) {
    for (LinearKind kind : {LinearKind::kQuantised, LinearKind::kBf16}) {
      for (int outliers : {0, 1, 2}) {
        Weight w(format, rows, cols, rng);
        std::vector<float> x = random_rows(tokens * cols, rng, false);
        for (int64_t i = 0; i < tokens * cols; ++i) {
          float& v = x[static_cast<size_t>(i)];
          if (outliers == 0) v = std::fmod(v, 4.f);
          if (outliers == 2 && i % cols % 200 == 3)
            v *= 300.f;  // the same few columns in every row, as in real models
        }
        auto run = [&](Numerics numerics, int64_t count) {
          CpuContext context{pool_, numerics, GetParam()};
          std::vector<float> in(x.begin(), x.begin() + count * cols), out(static_cast<size_t>(count * rows));
          if (numerics == Numerics::kNative)
            for (float& v : in) v = round_bf16(v);
          linear(context, {w.m, View<const float, 2>(in.data(), {count, cols}),
                           View<float, 2>(out.data(), {count, rows}), kind});
          return out;
        };
        for (int64_t count : {int64_t{8}, tokens}) {
          std::vector<float> exact = run(Numerics::kExact, count);
          double native = relative_l2(run(Numerics::kNative, count), exact),
                 fast = relative_l2(run(Numerics::kFast, count), exact);
          EXPECT_LE(fast, native) << format_name(format) << ' ' << kind_name(kind) << " outliers " << outliers
                                  << " tokens " << count;
          RecordProperty(std::string(format_name(format)) + '_' + kind_name(kind) + '_' +
                             std::to_string(outliers) + '_' + std::to_string(count),
                         std::to_string(fast) + " of " + std::to_string(native));
        }
      }
    }
  }
}

TEST_P(Linear, GroupsReadTheirOwnRows) {
  std::mt19937 rng(17);
  const int64_t groups = 3, rows = 40, cols = 64, tokens = 11;  // 40 rows: scale tiles of 128 cross groups
  Weight w(WeightFormat::kFp8Block128, groups * rows, cols, rng);
  std::vector<float> x = random_rows(tokens * groups * cols, rng, true),
                     out(static_cast<size_t>(tokens * groups * rows));
  CpuContext context{pool_, Numerics::kExact, GetParam()};
  grouped_linear(context, {w.m, View<const float, 3>(x.data(), {tokens, groups, cols}),
                           View<float, 3>(out.data(), {tokens, groups, rows})});
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < groups * rows; ++i) {
      const float* in = x.data() + (t * groups + i / rows) * cols;
      Expected e = expect(w.row(i), in, in, Numerics::kExact, w.m.format, LinearKind::kBf16, tokens);
      ASSERT_NEAR(out[static_cast<size_t>(t * groups * rows + i)], e.value, e.bound) << t << ' ' << i;
    }
  }
}

TEST_P(Linear, ManyRowsAndOutputsAreCutIntoPartsThatFitTogether) {
  // More inputs than one job takes, more outputs than one job has, and neither a multiple of anything.
  std::mt19937 rng(18);
  const int64_t groups = 2, rows = 290, cols = 288, tokens = kWideInputs + 41;
  ThreadPool one(1);
  for (WeightFormat format : {WeightFormat::kBf16, WeightFormat::kFp8Block128, WeightFormat::kFp4Group32}) {
    Weight w(format, groups * rows, cols, rng);
    std::vector<float> x = random_rows(tokens * groups * cols, rng, true);
    auto run = [&](ThreadPool& pool) {
      std::vector<float> out(static_cast<size_t>(tokens * groups * rows));
      CpuContext context{pool, Numerics::kFast, GetParam()};
      grouped_linear(context, {w.m, View<const float, 3>(x.data(), {tokens, groups, cols}),
                               View<float, 3>(out.data(), {tokens, groups, rows})});
      return out;
    };
    const std::vector<float> out = run(pool_);
    EXPECT_EQ(out, run(one)) << format_name(format);
    for (int64_t i = 0; i < groups * rows; ++i) {
      const std::vector<float> row = w.row(i);
      for (int64_t t = i % 7; t < tokens; t += 7) {
        const float* in = x.data() + (t * groups + i / rows) * cols;
        Expected e = expect(row, in, in, Numerics::kFast, format, LinearKind::kBf16, tokens);
        ASSERT_NEAR(out[static_cast<size_t>(t * groups * rows + i)], e.value, e.bound)
            << format_name(format) << ' ' << t << ' ' << i;
      }
    }
  }
}

TEST_P(Linear, ScalesAtTheEndsOfTheirRangeAreExact) {
  // e8m0 byte 0 is 2^-127, a subnormal float; large activations make the product normal again.
  std::mt19937 rng(19);
  for (WeightFormat format : {WeightFormat::kFp8Block128, WeightFormat::kFp4Group32}) {
    Weight w(format, 4, 128, rng);
    for (uint8_t& s : w.scale) s = 0;
    std::vector<float> x(128, 0x1p100f), out(4);
    CpuContext context{pool_, Numerics::kExact, GetParam()};
    linear(context, {w.m, View<const float, 2>(x.data(), {1, 128}), View<float, 2>(out.data(), {1, 4}),
                     LinearKind::kFloat});
    for (int64_t n = 0; n < 4; ++n) {
      double value = 0, size = 0;
      for (float v : w.row(n)) {
        value += v * 0x1p100;
        size += std::fabs(v) * 0x1p100;
      }
      EXPECT_NEAR(out[static_cast<size_t>(n)], value, size * 32 * 0x1p-24) << format_name(format);
    }
  }
}

TEST_P(Linear, ScalesThatBf16CannotCarryGiveTheSameInEveryNumerics) {
  // bf16 has e4m3 times 2^(byte - 127) for bytes 10 to 246 only; 300 columns: three blocks and a part of one.
  std::mt19937 rng(25);
  for (WeightFormat format : {WeightFormat::kFp8Block128, WeightFormat::kFp4Group32}) {
    for (LinearKind kind : {LinearKind::kQuantised, LinearKind::kBf16}) {
      for (auto [byte, size] :
           {std::pair<int, float>{0, 0x1p100f}, {7, 0x1p100f}, {241, 0x1p-100f}, {242, 0x1p-80f}}) {
        const int64_t rows = 150, cols = format == WeightFormat::kFp4Group32 ? 416 : 430;
        Weight w(format, rows, cols, rng);
        // A few of many, so that blocks with and without such scales meet in one sum.
        for (size_t i = 0; i < w.scale.size(); ++i)
          w.scale[i] = static_cast<uint8_t>(rng() % 3 == 0 ? byte + static_cast<int>(rng() % 5)
                                            : byte < 127   ? 12
                                                           : 235);
        for (int64_t tokens : {3, 8, 9, 50}) {
          std::vector<float> x = random_rows(tokens * cols, rng, true);
          for (float& v : x) v *= size;
          for (Numerics numerics : {Numerics::kExact, Numerics::kNative, Numerics::kFast}) {
            if (numerics == Numerics::kNative && size < 1) continue;  // its activations stop at 1e-4 / 448
            std::vector<float> seen = x, out(static_cast<size_t>(tokens * rows));
            if (numerics == Numerics::kNative && kind == LinearKind::kQuantised)
              quantise_by_the_book(seen, cols);
            CpuContext context{pool_, numerics, GetParam()};
            linear(context, {w.m, View<const float, 2>(x.data(), {tokens, cols}),
                             View<float, 2>(out.data(), {tokens, rows}), kind});
            for (int64_t n = 0; n < rows; ++n) {
              for (int64_t t = 0; t < tokens; ++t) {
                Expected e = expect(w.row(n), seen.data() + t * cols, x.data() + t * cols, numerics, format,
                                    kind, tokens);
                ASSERT_NEAR(out[static_cast<size_t>(t * rows + n)], e.value, e.bound)
                    << format_name(format) << ' ' << kind_name(kind) << ' ' << numerics_name(numerics)
                    << " byte " << byte << " tokens " << tokens << " row " << n << " token " << t;
              }
            }
          }
        }
      }
    }
  }
}

TEST_P(Linear, ScalesFarFromOneStayRightWhenRowsAreMany) {
  std::mt19937 rng(20);
  for (WeightFormat format : {WeightFormat::kFp8Block128, WeightFormat::kFp4Group32}) {
    for (auto [byte, size] :
         {std::pair<int, float>{20, 0x1p90f}, {230, 0x1p-80f}, {127, 0x1p70f}, {127, 0x1p-75f}}) {
      Weight w(format, 40, 192, rng);
      for (uint8_t& s : w.scale) s = static_cast<uint8_t>(byte + static_cast<int>(rng() % 3));
      std::vector<float> x = random_rows(20 * 192, rng, false), out(20 * 40);
      for (float& v : x) v *= size;
      CpuContext context{pool_, Numerics::kFast, GetParam()};
      linear(context, {w.m, View<const float, 2>(x.data(), {20, 192}), View<float, 2>(out.data(), {20, 40})});
      for (int64_t n = 0; n < 40; ++n) {
        for (int64_t t = 0; t < 20; ++t) {
          const float* in = x.data() + t * 192;
          Expected e = expect(w.row(n), in, in, Numerics::kFast, format, LinearKind::kQuantised, 20);
          ASSERT_NEAR(out[static_cast<size_t>(t * 40 + n)], e.value, e.bound)
              << format_name(format) << ' ' << byte << ' ' << size;
        }
      }
    }
  }
}

TEST_P(Linear, GroupsOfTinyFp8WeightsKeepTheirPrecision) {
  std::mt19937 rng(21);
  Weight w(WeightFormat::kFp8Block128, 32, 256, rng);
  auto* codes = const_cast<uint8_t*>(static_cast<const uint8_t*>(w.m.data));
  for (int64_t i = 0; i < 32 * 256;
       ++i) {  // groups of columns: subnormal, small, mixed, zero, and as they were
    int64_t group = i % 256 / 32;
    if (group == 0) codes[i] = static_cast<uint8_t>(rng() % 8 | (rng() & 0x80));
    if (group == 1) codes[i] = static_cast<uint8_t>(rng() % 64 | (rng() & 0x80));
    if (group == 2) codes[i] = static_cast<uint8_t>(rng() % 127 | (rng() & 0x80));
    if (group == 3) codes[i] = 0;
  }
  for (int64_t group : {0, 1, 2, 3}) {
    std::vector<float> x(20 * 256), out(20 * 32);
    for (int64_t t = 0; t < 20; ++t)
      for (int64_t k = 32 * group; k < 32 * group + 32; ++k)
        x[static_cast<size_t>(t * 256 + k)] = static_cast<float>(1 + rng() % 127);
    CpuContext context{pool_, Numerics::kFast, GetParam()};
    linear(context, {w.m, View<const float, 2>(x.data(), {20, 256}), View<float, 2>(out.data(), {20, 32})});
    for (int64_t n = 0; n < 32; ++n) {
      for (int64_t t = 0; t < 20; ++t) {
        const float* in = x.data() + t * 256;
        Expected e = expect(w.row(n), in, in, Numerics::kFast, w.m.format, LinearKind::kQuantised, 20);
        ASSERT_NEAR(out[static_cast<size_t>(t * 32 + n)], e.value, e.bound) << group << ' ' << n << ' ' << t;
      }
    }
  }
}

TEST_P(Linear, AWeightThatIsNotANumberReachesItsOutputOnly) {
  std::mt19937 rng(22);
  for (LinearKind kind : {LinearKind::kQuantised, LinearKind::kBf16}) {
    for (Numerics numerics : {Numerics::kExact, Numerics::kNative, Numerics::kFast}) {
      for (int64_t tokens : {1, 20}) {
        Weight w(WeightFormat::kFp8Block128, 20, 130, rng);
        auto* codes = const_cast<uint8_t*>(static_cast<const uint8_t*>(w.m.data));
        codes[17 * 130 + 129] = 0x7f;
        codes[3 * 130 + 40] = 0xff;
        std::vector<float> x = random_rows(tokens * 130, rng, true), out(static_cast<size_t>(tokens * 20));
        CpuContext context{pool_, numerics, GetParam()};
        linear(context, {w.m, View<const float, 2>(x.data(), {tokens, 130}),
                         View<float, 2>(out.data(), {tokens, 20}), kind});
        for (int64_t i = 0; i < tokens * 20; ++i) {
          EXPECT_EQ(std::isnan(out[static_cast<size_t>(i)]), i % 20 == 17 || i % 20 == 3)
              << kind_name(kind) << ' ' << numerics_name(numerics) << ' ' << tokens << ' ' << i;
        }
      }
    }
  }
}

TEST_P(Linear, NotANumberReachesTheOutput) {
  std::mt19937 rng(23);
  for (WeightFormat format : kFormats) {
    for (Numerics numerics : {Numerics::kExact, Numerics::kNative, Numerics::kFast}) {
      for (int64_t tokens : {1, 20}) {
        Weight w(format, 16, 256, rng);
        std::vector<float> x(static_cast<size_t>(tokens * 256), 1.f), out(static_cast<size_t>(tokens * 16));
        x[130] = std::nanf("");
        CpuContext context{pool_, numerics, GetParam()};
        linear(context, {w.m, View<const float, 2>(x.data(), {tokens, 256}),
                         View<float, 2>(out.data(), {tokens, 16})});
        EXPECT_TRUE(std::isnan(out[5]))
            << format_name(format) << ' ' << numerics_name(numerics) << ' ' << tokens;
        if (tokens > 1) {
          EXPECT_FALSE(std::isnan(out[16 + 5])) << format_name(format) << ' ' << numerics_name(numerics);
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Linear, testing::ValuesIn(available()), test_name);

}  // namespace
}  // namespace kvasir::cpu
