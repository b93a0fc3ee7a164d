// The row kernels and the hyper-connection of the CUDA backend against the reference.
//
// Bounds: exact and native add in f64 as the reference does, so exact may differ by the last f32 bit of a
// result (1e-6 relative L2) and native by a bf16 rounding that fell the other way, which must be rare (1e-4).
// fast adds in f32: a sum of 28672 terms is good to some 1e-6; the mix of the fused boundary has its own
// bound of 1e-4.
#include <gtest/gtest.h>

#include "backend/cuda/boundary_fixture_test.h"
#include "backend/cuda/embedding.h"
#include "backend/cuda/hyper_connection.h"
#include "backend/cuda/norm.h"
#include "backend/cuda/rope.h"
#include "backend/cuda/small_rows.h"
#include "backend/reference/reference_ops.h"

namespace kvasir::cuda {
namespace {

using namespace rows_test;

constexpr Numerics kAll[] = {Numerics::kExact, Numerics::kNative, Numerics::kFast};

struct Device {
  explicit Device(Numerics numerics) : rows(numerics), context(rows.context()), reference(oracle(numerics)) {}
  static Numerics oracle(Numerics n) { return n == Numerics::kNative ? n : Numerics::kExact; }
  Rows rows;
  CudaContext& context;
  ReferenceOps reference;
};

double bound(Numerics n) { return n == Numerics::kNative ? 1e-4 : n == Numerics::kExact ? 1e-6 : 4e-6; }

TEST(CudaEmbedding, CopiesRowsOfEveryFormatIntoEveryStream) {
  Random random(1);
  for (int64_t cols : {32, 96, 4096}) {
    Mirror<uint8_t, 2> bytes({300, cols * 4});
    for (uint8_t& b : bytes.data)
      b = static_cast<uint8_t>(random.below(127));  // no NaN in any of the formats
    bytes.up();
    Mirror<uint8_t, 1> scales({300 * cols});
    for (uint8_t& b : scales.data) b = static_cast<uint8_t>(random.below(250));
    scales.up();
    for (auto format :
         {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kFp8Block128, WeightFormat::kFp4Group32}) {
      for (int64_t tokens : {0, 1, 7, 65}) {
        Device device(Numerics::kFast);
        Mirror<int32_t, 1> ids({tokens});
        for (int32_t& id : ids.data) id = static_cast<int32_t>(random.below(300));
        ids.up();
        Mirror<float, 3> streams({tokens, 4, cols});
        Mirror<float, 2> rows({tokens, cols});
        WeightMatrix host{format, 300, cols, bytes.data.data(), scales.data.data()};
        WeightMatrix there{format, 300, cols, bytes.device().data(), scales.device().data()};
        streams.poison();
        rows.poison();
        embed(device.context, {ids.device(), there, streams.device()});
        gather_embedding(device.context, {ids.device(), there, rows.device()});
        device.reference.embed({ids.host(), host, streams.host()});
        device.reference.gather_embedding({ids.host(), host, rows.host()});
        EXPECT_TRUE(same_bits(streams.down(), streams.data))
            << "format " << int(format) << ", " << tokens << " of " << cols;
        EXPECT_TRUE(same_bits(rows.down(), rows.data))
            << "format " << int(format) << ", " << tokens << " of " << cols;
      }
    }
  }
}

TEST(CudaNorm, MatchesTheReference) {
  Random random(2);
  for (Numerics numerics : kAll) {
    for (int64_t n : {1, 7, 64, 512, 1024, 1536, 4096, 7168, 9000}) {
      for (int64_t rows : {0, 1, 3, 65}) {
        Device device(numerics);
        Mirror<float, 2> x({rows, n}), out({rows, n});
        Mirror<float, 1> weight({n});
        random.fill(x, 3.f, numerics == Numerics::kNative);
        random.fill(weight);
        out.poison();
        rms_norm(device.context, {x.device(), weight.device(), 1e-6f, out.device()});
        rms_norm(device.context, {x.device(), weight.device(), 1e-6f, x.device()});
        device.reference.rms_norm({x.host(), weight.host(), 1e-6f, out.host()});
        EXPECT_LE(relative_error(out.down(), out.data), bound(numerics))
            << numerics_name(numerics) << " " << rows << " of " << n;
        EXPECT_TRUE(same_bits(x.down(), out.down())) << "in place";
      }
    }
  }
}

TEST(CudaRope, TableHasTheHostsBitsUpToTwoMillionPositions) {
  Device device(Numerics::kFast);
  Mirror<float, 1> inv_freq({32});
  for (int i = 0; i < 32; ++i) inv_freq.data[i] = static_cast<float>(std::pow(10000.0, -i / 32.0));
  inv_freq.up();
  Random random(3);
  Mirror<int32_t, 1> positions({60000});
  for (int64_t i = 0; i < 60000; ++i)
    positions.data[i] = i < 1000 ? static_cast<int32_t>(i) : static_cast<int32_t>(random.below(1 << 21));
  positions.up();
  Mirror<float, 3> table({60000, 32, 2});
  table.poison();
  rope_table(device.context, {inv_freq.device(), positions.device(), table.device()});
  device.reference.rope_table({inv_freq.host(), positions.host(), table.host()});
  EXPECT_TRUE(same_bits(table.down(), table.data));
}

TEST(CudaRope, RotatesForthAndBackAndAfterTheNormOfAHead) {
  Random random(4);
  struct Shape {
    int64_t tokens, heads, dim, pairs;
  };
  for (Numerics numerics : kAll) {
    for (Shape s : {Shape{0, 3, 96, 8}, Shape{5, 3, 96, 8}, Shape{1, 64, 512, 32}, Shape{33, 7, 512, 32},
                    Shape{3, 1, 64, 32}}) {
      Device device(numerics);
      Mirror<float, 1> inv_freq({s.pairs});
      for (int64_t i = 0; i < s.pairs; ++i)
        inv_freq.data[i] = static_cast<float>(std::pow(160000.0, -double(i) / double(s.pairs)));
      inv_freq.up();
      Mirror<int32_t, 1> positions({s.tokens});
      for (int32_t& p : positions.data) p = static_cast<int32_t>(random.below(1 << 20));
      positions.up();
      Mirror<float, 3> table({s.tokens, s.pairs, 2}), x({s.tokens, s.heads, s.dim}),
          q({s.tokens, s.heads, s.dim});
      rope_table(device.context, {inv_freq.device(), positions.device(), table.device()});
      device.reference.rope_table({inv_freq.host(), positions.host(), table.host()});
      for (bool inverse : {false, true}) {
        random.fill(x, 2.f, numerics == Numerics::kNative);
        rope(device.context, {x.device(), table.device(), inverse});
        device.reference.rope({x.host(), table.host(), inverse});
        EXPECT_LE(relative_error(x.down(), x.data), bound(numerics))
            << numerics_name(numerics) << " dim " << s.dim;
      }
      random.fill(q, 2.f, numerics == Numerics::kNative);
      head_norm_rope(device.context, {q.device(), table.device(), 1e-6f});
      device.reference.head_norm_rope({q.host(), table.host(), 1e-6f});
      EXPECT_LE(relative_error(q.down(), q.data), bound(numerics))
          << numerics_name(numerics) << " dim " << s.dim;
    }
  }
}

// Decoded values of `rows` rows, and how many of their bytes there are.
std::vector<float> decoded(const KvRowFormat& f, const std::vector<uint8_t>& data,
                           const std::vector<uint8_t>& scale, int64_t rows) {
  std::vector<float> values(rows * f.dim);
  for (int64_t r = 0; r < rows; ++r)
    decode_row(f, reinterpret_cast<const std::byte*>(data.data()) + r * f.data_bytes,
               reinterpret_cast<const std::byte*>(scale.data()) + r * f.scale_bytes, &values[r * f.dim]);
  return values;
}

TEST(CudaSmallRows, NormQueryRanksAndStoreWindowRows) {
  Random random(9);
  struct Shape {
    int64_t tokens, q_rank, dim, rope;
  };
  for (Numerics numerics : kAll) {
    for (Shape s : {Shape{0, 1024, 512, 64}, Shape{1, 1024, 512, 64}, Shape{65, 1024, 512, 64},
                    Shape{3, 1536, 512, 64}, Shape{5, 96, 192, 64}}) {
      Device device(numerics);
      bool bf16 = numerics == Numerics::kNative;
      KvRowFormat format = KvRowFormat::entry(numerics, static_cast<int>(s.dim), static_cast<int>(s.rope));
      Mirror<float, 2> qa({s.tokens, s.q_rank}), kv({s.tokens, s.dim});
      Mirror<float, 1> q_norm({s.q_rank}), kv_norm({s.dim});
      Mirror<float, 3> table({s.tokens, s.rope / 2, 2});
      Mirror<uint8_t, 1> data({s.tokens * format.data_bytes}), scale({s.tokens * format.scale_bytes});
      random.fill(qa, 3.f, bf16), random.fill(kv, 3.f, bf16), random.fill(q_norm), random.fill(kv_norm),
          random.fill(table);
      for (int64_t i = 0; i + 1 < std::ssize(kv.data); i += 97) kv.data[i] *= 1e-4f;  // small codes too
      kv.up(), data.poison(), scale.poison();
      KvRows there{reinterpret_cast<std::byte*>(data.device().data()),
                   reinterpret_cast<std::byte*>(scale.device().data())};
      small_rows(device.context, {qa.device(), q_norm.device(), kv.device(), kv_norm.device(), table.device(),
                                  1e-6f, format, there});
      std::vector<uint8_t> out_data = data.down(), out_scale = scale.down();
      KvRows here{reinterpret_cast<std::byte*>(data.data.data()),
                  reinterpret_cast<std::byte*>(scale.data.data())};
      device.reference.rms_norm({qa.host(), q_norm.host(), 1e-6f, qa.host()});
      device.reference.rms_norm({kv.host(), kv_norm.host(), 1e-6f, kv.host()});
      device.reference.store_window({kv.host(), table.host(), format, here});
      EXPECT_LE(relative_error(qa.down(), qa.data), bound(numerics)) << numerics_name(numerics);
      EXPECT_EQ(out_scale, scale.data) << numerics_name(numerics) << " " << s.tokens << " of " << s.dim;
      // An f32 sum that differs in its last bit moves few codes to their neighbour, 2^-4 away at most.
      double wide = numerics == Numerics::kFast ? 2e-3 : bound(numerics);
      EXPECT_LE(relative_error(decoded(format, out_data, out_scale, s.tokens),
                               decoded(format, data.data, scale.data, s.tokens)),
                wide)
          << numerics_name(numerics) << " " << s.tokens << " of " << s.dim;
    }
  }
}

struct Mix {
  Mix(int64_t tokens, int64_t hc, int64_t dim, bool bf16, Random& random)
      : fn({(2 + hc) * hc, hc * dim}),
        base({(2 + hc) * hc}),
        scale({3}),
        norm({dim}),
        streams({tokens, hc, dim}),
        y({tokens, dim}),
        x({tokens, dim}),
        post({tokens, hc}),
        comb({tokens, hc, hc}) {
    random.fill(fn, 4.f / std::sqrt(static_cast<float>(hc * dim)));
    random.fill(base);
    random.fill(scale);
    random.fill(norm);
    random.fill(streams, 2.f, bf16);
    random.fill(y, 2.f, bf16);
    random.fill(post, 0.5f);
    random.fill(comb, 0.3f);
  }
  HyperConnectionWeights host_weights() { return {fn.host(), base.host(), scale.host()}; }
  HyperConnectionWeights weights() const { return {fn.device(), base.device(), scale.device()}; }
  Mirror<float, 2> fn;
  Mirror<float, 1> base, scale, norm;
  Mirror<float, 3> streams;
  Mirror<float, 2> y, x, post;
  Mirror<float, 3> comb;
};

TEST(CudaHyperConnection, PreAndPostMatchTheReference) {
  Random random(5);
  for (Numerics numerics : kAll) {
    for (int64_t hc : {1, 2, 4, 8}) {
      for (int64_t dim : {8, 100, 1024}) {
        for (int64_t tokens : {0, 1, 5}) {
          Device device(numerics);
          Mix m(tokens, hc, dim, numerics == Numerics::kNative, random);
          hc_post(device.context, {m.y.device(), m.post.device(), m.comb.device(), m.streams.device()});
          device.reference.hc_post({m.y.host(), m.post.host(), m.comb.host(), m.streams.host()});
          EXPECT_LE(relative_error(m.streams.down(), m.streams.data), bound(numerics));
          m.streams.up();
          m.x.poison(), m.post.poison(), m.comb.poison();
          hc_pre(device.context, {m.weights(), m.streams.device(), 1e-6f, 1e-6f, 20, m.x.device(),
                                  m.post.device(), m.comb.device()});
          device.reference.hc_pre({m.host_weights(), m.streams.host(), 1e-6f, 1e-6f, 20, m.x.host(),
                                   m.post.host(), m.comb.host()});
          EXPECT_LE(relative_error(m.x.down(), m.x.data), bound(numerics))
              << numerics_name(numerics) << hc << " x " << dim;
          EXPECT_LE(relative_error(m.post.down(), m.post.data), 1e-6)
              << numerics_name(numerics) << hc << " x " << dim;
          EXPECT_LE(relative_error(m.comb.down(), m.comb.data), 4e-6)
              << numerics_name(numerics) << hc << " x " << dim;
        }
      }
    }
  }
}

TEST(CudaHyperConnection, HeadAndJoinMatchTheReference) {
  Random random(6);
  for (Numerics numerics : kAll) {
    for (int64_t dim : {8, 4096}) {
      Device device(numerics);
      bool bf16 = numerics == Numerics::kNative;
      Mirror<float, 3> streams({9, 4, dim}), joined({9, 4, dim});
      Mirror<float, 2> fn({4, 4 * dim}), x({3, dim}), e({9, dim});
      Mirror<float, 1> base({4}), scale({1});
      random.fill(streams, 2.f, bf16), random.fill(fn, 0.05f), random.fill(base), random.fill(scale),
          random.fill(e, 1.f, bf16);
      Mirror<int32_t, 1> rows({3});
      rows.data = {8, 0, 3};
      rows.up();
      x.poison();
      hc_head(device.context, {{fn.device(), base.device(), scale.device()},
                               streams.device(),
                               rows.device(),
                               1e-6f,
                               1e-6f,
                               x.device()});
      device.reference.hc_head(
          {{fn.host(), base.host(), scale.host()}, streams.host(), rows.host(), 1e-6f, 1e-6f, x.host()});
      EXPECT_LE(relative_error(x.down(), x.data), bound(numerics)) << numerics_name(numerics);
      joined.poison();
      mtp_join(device.context, {streams.device(), e.device(), joined.device()});
      device.reference.mtp_join({streams.host(), e.host(), joined.host()});
      EXPECT_TRUE(same_bits(joined.down(), joined.data)) << numerics_name(numerics);
    }
  }
}

// What hc_boundary must do, op by op on the reference, on the host copies of `m`.
void reference_boundary(ReferenceOps& reference, Mix& m, bool first) {
  if (!first) reference.hc_post({m.y.host(), m.post.host(), m.comb.host(), m.streams.host()});
  reference.hc_pre(
      {m.host_weights(), m.streams.host(), 1e-6f, 1e-6f, 20, m.x.host(), m.post.host(), m.comb.host()});
  reference.rms_norm({m.x.host(), m.norm.host(), 1e-6f, m.x.host()});
}

HcBoundaryArgs boundary_args(const Mix& m, bool first, int64_t from, int64_t count) {
  HcBoundaryArgs a;
  if (!first) a.y = m.y.device().rows(from, count);
  a.w = m.weights();
  a.norm = m.norm.device();
  a.streams = m.streams.device().rows(from, count);
  a.x = m.x.device().rows(from, count);
  a.post = m.post.device().rows(from, count);
  a.comb = m.comb.device().rows(from, count);
  return a;
}

TEST(CudaHyperConnection, BoundaryMatchesPostPreAndNorm) {
  Random random(7);
  for (Numerics numerics : kAll) {
    for (int64_t dim : {64, 4096, 7168}) {
      for (int64_t tokens : {0, 1, 2, 7, 8, 9, 63, 64, 65, 129}) {
        if (numerics != Numerics::kFast && tokens > 9) continue;  // the same three ops for every size
        bool first = tokens == 2;
        Device device(numerics);
        Mix m(tokens, 4, dim, numerics == Numerics::kNative, random);
        m.x.poison();
        if (first) m.post.poison(), m.comb.poison();
        hc_boundary(device.context, boundary_args(m, first, 0, tokens));
        reference_boundary(device.reference, m, first);
        double wide = numerics == Numerics::kFast ? 5e-5 : bound(numerics);
        auto where = [&] {
          return ::testing::Message() << numerics_name(numerics) << " " << tokens << " of " << dim;
        };
        EXPECT_LE(relative_error(m.streams.down(), m.streams.data), bound(numerics)) << where();
        EXPECT_LE(relative_error(m.x.down(), m.x.data), 2 * wide) << where();
        EXPECT_LE(relative_error(m.post.down(), m.post.data), wide) << where();
        EXPECT_LE(relative_error(m.comb.down(), m.comb.data), wide) << where();
        std::vector<float> comb = m.comb.down();
        for (int64_t t = 0; t < tokens; ++t) {
          for (int64_t k = 0; k < 4; ++k) {
            double column = 0;
            for (int64_t j = 0; j < 4; ++j) column += comb[t * 16 + j * 4 + k];
            EXPECT_NEAR(column, 1.0, 1e-5) << where();
          }
        }
      }
    }
  }
}

TEST(CudaHyperConnection, ARowOfABoundaryHasTheSameBitsAloneAndInABatch) {
  Random random(8);
  for (int64_t dim : {4096, 7168}) {
    for (bool deterministic : {false, true}) {
      Device device(Numerics::kFast);
      device.context.deterministic = deterministic;
      // One kernel serves up to 40 rows on every device, or all of them when deterministic.
      int64_t rows = deterministic ? 130 : 40;
      Mix m(rows, 4, dim, false, random);
      auto run = [&](int64_t step) {
        m.streams.up(), m.post.up(), m.comb.up(), m.x.poison();
        for (int64_t t = 0; t < rows; t += step)
          hc_boundary(device.context, boundary_args(m, false, t, std::min<int64_t>(step, rows - t)));
        std::vector<float> all = m.x.down();
        for (const std::vector<float>& part : {m.streams.down(), m.post.down(), m.comb.down()})
          all.insert(all.end(), part.begin(), part.end());
        return all;
      };
      std::vector<float> whole = run(rows);
      EXPECT_TRUE(same_bits(whole, run(rows)));
      for (int64_t step : {1, 3, 8, 64})
        EXPECT_TRUE(same_bits(whole, run(step))) << "steps of " << step << ", dim " << dim;
    }
  }
}

}  // namespace
}  // namespace kvasir::cuda
