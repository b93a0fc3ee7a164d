// Traps 8 and 34: which channels of which tokens make an entry, however the tokens were cut.
#include "trap_fixture.h"

namespace kvasir {
namespace {

class CompressorTraps : public TrapOps {
 protected:
  static constexpr int kD = 128;

  // Compresses `tokens` rows in chunks of `chunk`; returns the entries.
  std::vector<std::vector<float>> compress(Ops& ops, int ratio, const std::vector<float>& kv, const std::vector<float>& score,
                                           const std::vector<float>& ape, int64_t tokens, int64_t chunk) {
    int lanes = ratio == 4 ? 2 : 1;
    int64_t width = lanes * kD;
    std::vector<float> freq(32, 0.f), norm(kD, 1.f);  // frequency 0: no rotation
    KvRowFormat format = KvRowFormat::entry(Numerics::kExact, kD, 64);
    OneLayerPages pages(format, 128 / ratio, tokens / ratio);
    std::vector<float> tail((lanes * ratio + 8) * 2 * width, 1e9f);  // garbage: nothing of it may be read
    CompressSequence a;
    a.ratio = ratio;
    a.lanes = lanes;
    a.ape = view<2>(ape, {ratio, width});
    a.norm = view<1>(std::as_const(norm), {kD});
    a.norm_eps = 0.f;
    a.inv_freq = view<1>(std::as_const(freq), {32});
    a.tail = tail.data();
    a.tail_capacity = lanes * ratio + 8;
    a.format = format;
    a.pages = pages.addresses.data();
    a.section = pages.section;
    for (int64_t at = 0; at < tokens; at += chunk) {
      int64_t n = std::min(chunk, tokens - at);
      a.start = at;
      a.kv = {kv.data() + at * width, {n, width}};
      a.score = {score.data() + at * width, {n, width}};
      kvasir::compress(ops, a);
    }
    std::vector<std::vector<float>> entries;
    for (int64_t b = 0; b < tokens / ratio; ++b) entries.push_back(pages.row(b));
    return entries;
  }
};

TEST_P(CompressorTraps, Trap8CompressorHalfOrder) {
  // Equal gates: entry b is the mean of kv[4b-4..4b-1][0:c) and kv[4b..4b+3][c:2c), four terms for b = 0.
  auto ops = make();
  const int tokens = 12;
  std::vector<float> kv = random(tokens * 2 * kD), zero(tokens * 2 * kD, 0.f), ape(4 * 2 * kD, 0.f);
  auto entries = compress(*ops, 4, kv, zero, ape, tokens, tokens);
  for (int b = 0; b < 3; ++b) {
    std::vector<double> mean(kD, 0.0);
    for (int e = 0; e < kD; ++e) {
      int terms = 0;
      for (int j = 4 * b - 4; j < 4 * b + 4; ++j) {
        if (j < 0) continue;
        mean[e] += kv[j * 2 * kD + (j >= 4 * b ? kD : 0) + e];
        ++terms;
      }
      mean[e] /= terms;
    }
    double square = 0;
    for (double m : mean) square += m * m;
    double inverse = 1 / std::sqrt(square / kD);  // the norm that follows pooling
    for (int e = 0; e < kD; ++e) EXPECT_NEAR(entries[b][e], mean[e] * inverse, 2e-5) << "entry " << b << " channel " << e;
  }
}

TEST_P(CompressorTraps, Trap34ChunkBoundariesDoNotMatter) {
  auto ops = make();
  const int tokens = 300;
  for (int ratio : {4, 128}) {
    int64_t width = (ratio == 4 ? 2 : 1) * kD;
    std::vector<float> kv = random(tokens * width), score = random(tokens * width, 2.f), ape = random(ratio * width);
    auto whole = compress(*ops, ratio, kv, score, ape, tokens, tokens);
    for (int64_t chunk : {1, 3, 5, 127, 129}) EXPECT_EQ(compress(*ops, ratio, kv, score, ape, tokens, chunk), whole) << ratio << ", chunks of " << chunk;
  }
}

KVASIR_TRAP_SUITE(CompressorTraps);

}  // namespace
}  // namespace kvasir
