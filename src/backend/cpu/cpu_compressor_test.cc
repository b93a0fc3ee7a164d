// compress of the CPU backend against an f64 oracle, and its independence of how tokens are cut into steps.
#include "backend/cpu/compressor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "backend/cpu/attention_fixture.h"

namespace kvasir::cpu {
namespace {

struct Case {
  CompressKind kind;
  int ratio, lanes, dim, rope;
};
constexpr Case kCases[] = {
    {CompressKind::kEntry, 4, 2, 96, 32},
    {CompressKind::kEntry, 128, 1, 128, 64},
    {CompressKind::kIndexKey, 4, 2, 64, 32},
    {CompressKind::kEntry, 4, 2, 512, 64},
};

struct Compressor {
  Compressor(const Case& compressor, Numerics n, int64_t token_count)
      : c(compressor),
        numerics(n),
        tokens(token_count),
        format(c.kind == CompressKind::kEntry ? KvRowFormat::entry(n, c.dim, c.rope)
                                              : KvRowFormat::index_key(n, c.dim)),
        kv({token_count, c.lanes * c.dim}),
        score({token_count, c.lanes * c.dim}),
        ape({c.ratio, c.lanes * c.dim}),
        norm({c.dim}),
        inv_freq({c.rope / 2}) {
    Random random(21);
    random.fill(kv);
    random.fill(score, 2.f);
    random.fill(ape);
    random.fill(norm);
    for (int i = 0; i < c.rope / 2; ++i)
      inv_freq.data[static_cast<size_t>(i)] = static_cast<float>(std::pow(160000., -2. * i / c.rope));
  }

  // Steps of `chunk` tokens from `start` to `end`, on a tail and pages that persist.
  void run(Backend& backend, std::vector<float>& tail, PageStore& pages, int64_t start, int64_t end,
           int64_t chunk) {
    for (int64_t t = start; t < end; t += chunk) {
      int64_t n = std::min(chunk, end - t);
      CompressSequence a;
      a.kind = c.kind;
      a.ratio = c.ratio;
      a.lanes = c.lanes;
      a.kv = kv.view.rows(t, n);
      a.score = score.view.rows(t, n);
      a.ape = ape.view;
      a.norm = norm.view;
      a.inv_freq = inv_freq.view;
      a.start = t;
      a.tail = tail.data();
      a.tail_capacity = capacity();
      a.format = format;
      a.pages = pages.pages.data();
      a.section = pages.section;
      compress(backend.context, a);
    }
  }
  int64_t capacity() const { return c.lanes * c.ratio - 1 + 3; }
  std::vector<float> fresh_tail() const {
    return std::vector<float>(static_cast<size_t>(capacity() * 2 * c.lanes * c.dim), NAN);
  }
  PageStore fresh_pages() const { return {format, tokens / c.ratio + 1, 3}; }

  double round(double x) const {
    return numerics == Numerics::kNative ? round_bf16(static_cast<float>(x)) : x;
  }

  // Row b before it is encoded.
  std::vector<float> oracle(int64_t b) {
    std::vector<double> row(static_cast<size_t>(c.dim));
    int64_t end = (b + 1) * c.ratio, begin = std::max<int64_t>(0, end - c.lanes * c.ratio);
    double squares = 0;
    for (int64_t e = 0; e < c.dim; ++e) {
      double total = 0, pooled = 0;
      for (int64_t p = begin; p < end; ++p) {
        int64_t channel = e + (c.lanes == 2 && p >= end - c.ratio ? c.dim : 0);
        double w = std::exp(double{score.view(p, channel)} + ape.view(p % c.ratio, channel));
        total += w;
        pooled += w * kv.view(p, channel);
      }
      row[static_cast<size_t>(e)] = round(pooled / total);
      squares += row[static_cast<size_t>(e)] * row[static_cast<size_t>(e)];
    }
    for (int64_t e = 0; e < c.dim; ++e)
      row[static_cast<size_t>(e)] =
          round(norm.view(e) * (row[static_cast<size_t>(e)] / std::sqrt(squares / c.dim + 1e-6)));
    for (int i = 0; i < c.rope / 2; ++i) {
      double angle = static_cast<float>(b * c.ratio) * inv_freq.view(i);
      double* pair = &row[static_cast<size_t>(c.dim - c.rope + 2 * i)];
      double x = pair[0], y = pair[1];
      pair[0] = round(x * std::cos(angle) - y * std::sin(angle));
      pair[1] = round(x * std::sin(angle) + y * std::cos(angle));
    }
    std::vector<float> out(row.begin(), row.end());
    if (c.kind == CompressKind::kIndexKey) {
      for (int64_t i = 0; i < c.dim; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < c.dim; ++j)
          sum += (__builtin_parityll(static_cast<uint64_t>(i & j)) ? -1 : 1) * row[static_cast<size_t>(j)];
        out[static_cast<size_t>(i)] = static_cast<float>(round(sum / std::sqrt(c.dim)));
      }
    }
    return out;
  }

  const Case& c;
  Numerics numerics;
  int64_t tokens;
  KvRowFormat format;
  Tensor<float, 2> kv, score, ape;
  Tensor<float, 1> norm, inv_freq;
};

TEST(CpuCompress, AgreesWithF64) {
  for (const Case& c : kCases) {
    for (Numerics numerics : kAllNumerics) {
      Compressor k(c, numerics, 2 * c.ratio + 259);
      for (Isa isa : available_isas()) {
        Backend backend(numerics, isa, 2);
        auto tail = k.fresh_tail();
        auto pages = k.fresh_pages();
        k.run(backend, tail, pages, 0, k.tokens, k.tokens);
        int64_t off = 0, values = 0;
        for (int64_t b = 0; b < k.tokens / c.ratio; ++b) {
          auto want = k.oracle(b);
          auto got = pages.values(b);
          float amax = 0;
          for (float x : want) amax = std::max(amax, std::fabs(x));
          RowStore stored(k.format, 1);
          encode_row(k.format, want.data(), stored.rows().data, stored.rows().scale);
          auto rounded = stored.values(0);
          for (size_t e = 0; e < want.size(); ++e, ++values) {
            // f32 against f64 differs by about 1e-6 of the row; where that crosses a rounding boundary the
            // stored value moves by one step of its format (FP4: 2 of 6; e4m3: 1 of 8; bf16: 1 of 128).
            float step = numerics == Numerics::kExact        ? 2e-6f * amax
                         : c.kind == CompressKind::kIndexKey ? amax * 0.67f
                                                             : amax * 0.125f;
            ASSERT_NEAR(got[e], numerics == Numerics::kExact ? want[e] : rounded[e], step)
                << case_name(numerics, isa) << " row " << b;
            off += numerics != Numerics::kExact && got[e] != rounded[e];
          }
        }
        EXPECT_LE(off, values / 200) << case_name(numerics, isa) << " dim " << c.dim;
      }
    }
  }
}

TEST(CpuCompress, Trap34WritesTheSameBytesForEveryChunkSize) {
  for (const Case& c : kCases) {
    for (Numerics numerics : kAllNumerics) {
      Compressor k(c, numerics, 387);
      for (Isa isa : available_isas()) {
        Backend backend(numerics, isa, 2);
        auto tail = k.fresh_tail();
        auto whole = k.fresh_pages();
        k.run(backend, tail, whole, 0, k.tokens, k.tokens);
        for (int64_t chunk : {1, 3, 5, 127, 129}) {
          auto part_tail = k.fresh_tail();
          auto pages = k.fresh_pages();
          k.run(backend, part_tail, pages, 0, k.tokens, chunk);
          ASSERT_EQ(pages.memory, whole.memory) << case_name(numerics, isa) << " chunk " << chunk;
          ASSERT_EQ(0, std::memcmp(part_tail.data(), tail.data(), tail.size() * 4))
              << case_name(numerics, isa) << " chunk " << chunk;
        }
      }
    }
  }
}

TEST(CpuCompress, Trap18ASmallerTokenCountIsAllThatRollbackNeeds) {
  // Three rejected tokens stay in the ring (its slack); what follows must not see them.
  const Case& c = kCases[0];
  Compressor k(c, Numerics::kFast, 64);
  Backend backend(Numerics::kFast, detect_isa(), 1);
  for (int64_t at = 17; at < 25; ++at) {  // every residue mod 4
    auto tail = k.fresh_tail();
    auto serial = k.fresh_pages(), rolled = k.fresh_pages();
    k.run(backend, tail, serial, 0, 64, 1);
    auto again = k.fresh_tail();
    k.run(backend, again, rolled, 0, at, at);
    Compressor wrong(c, Numerics::kFast, 64);
    for (float& x : wrong.kv.data) x += 1.f;
    wrong.run(backend, again, rolled, at, at + 3, 3);
    k.run(backend, again, rolled, at, 64, 5);
    EXPECT_EQ(serial.memory, rolled.memory) << "rolled back to " << at;
  }
}

TEST(CpuCompress, Trap8FirstHalfChannelsGoToTheNextBlock) {
  Case c{CompressKind::kEntry, 4, 2, 96, 32};
  Compressor k(c, Numerics::kExact, 12);
  std::fill(k.score.data.begin(), k.score.data.end(), 0.f);
  std::fill(k.ape.data.begin(), k.ape.data.end(), 0.f);
  std::fill(k.norm.data.begin(), k.norm.data.end(), 1.f);
  for (float& x : k.kv.data) x = std::fabs(x);
  for (Isa isa : available_isas()) {
    Backend backend(Numerics::kExact, isa, 1);
    auto tail = k.fresh_tail();
    auto pages = k.fresh_pages();
    k.run(backend, tail, pages, 0, 12, 3);
    for (int64_t b :
         {0, 2}) {  // means over 4 and 8 terms; the norm divides by the row's size, so compare ratios
      double mean[2] = {0, 0};
      for (int e : {0, 1}) {
        for (int64_t p = 4 * b; p < 4 * b + 4; ++p) mean[e] += k.kv.view(p, 96 + e);
        for (int64_t p = 4 * b - 4; b > 0 && p < 4 * b; ++p) mean[e] += k.kv.view(p, e);
      }
      auto row = pages.values(b);
      EXPECT_NEAR(row[0] / row[1], mean[0] / mean[1], 1e-5) << isa_name(isa) << " entry " << b;
    }
  }
}

}  // namespace
}  // namespace kvasir::cpu
