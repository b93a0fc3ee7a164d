// Traps 2, 3, 5, 6, 7, 30: rotations and the q norm.
#include "trap_fixture.h"

namespace kvasir {
namespace {

class RopeTraps : public TrapOps {
 protected:
  std::vector<float> table(Ops& ops, const std::vector<float>& freq, std::vector<int32_t> positions) {
    int64_t t = static_cast<int64_t>(positions.size()), pairs = static_cast<int64_t>(freq.size());
    std::vector<float> out(t * pairs * 2);
    ops.rope_table({view<1>(freq, {pairs}), {positions.data(), {t}}, view<3>(out, {t, pairs, 2})});
    return out;
  }
};

TEST_P(RopeTraps, Trap2NoMscale) {
  auto ops = make();
  std::vector<float> freq = plain_freq(64, 160000), x = random(128), before = x;
  std::vector<float> t = table(*ops, freq, {5000});
  ops->rope({view<3>(x, {1, 1, 128}), view<3>(std::as_const(t), {1, 32, 2}), false});
  double n0 = 0, n1 = 0;
  for (int i = 0; i < 128; ++i) n0 += double(before[i]) * before[i], n1 += double(x[i]) * x[i];
  EXPECT_NEAR(std::sqrt(n1 / n0), 1.0, 1e-6) << "a rotation keeps the norm; 1.277 would be YaRN's mscale";
}

TEST_P(RopeTraps, Trap3CompressedEntriesCarryRopeAtTheirFirstToken) {
  auto ops = make();
  const int d = 128, ratio = 128;
  std::vector<float> freq = plain_freq(64, 160000), norm(d, 1.f), ape(ratio * d, 0.f);
  std::vector<float> kv(256 * d), score(256 * d, 0.f);
  for (int64_t i = 0; i < 256 * d; ++i) kv[i] = static_cast<float>(i % d % 7) - 2.5f;  // every token the same row
  KvRowFormat format = KvRowFormat::entry(Numerics::kExact, d, 64);
  OneLayerPages pages(format, 1, 2);
  std::vector<float> tail((128 + 8) * 2 * d);
  CompressSequence a;
  a.ratio = ratio;
  a.lanes = 1;
  a.kv = view<2>(std::as_const(kv), {256, d});
  a.score = view<2>(std::as_const(score), {256, d});
  a.ape = view<2>(std::as_const(ape), {ratio, d});
  a.norm = view<1>(std::as_const(norm), {d});
  a.inv_freq = view<1>(std::as_const(freq), {32});
  a.tail = tail.data();
  a.tail_capacity = 128 + 8;
  a.format = format;
  a.pages = pages.addresses.data();
  a.section = pages.section;
  compress(*ops, a);
  std::vector<float> entry0 = pages.row(0), entry1 = pages.row(1), want = entry0;  // entry 0 is rotated by 0
  std::vector<float> t = table(*ops, freq, {128});
  ops->rope({view<3>(want, {1, 1, d}), view<3>(std::as_const(t), {1, 32, 2}), false});
  for (int i = 0; i < d; ++i) EXPECT_NEAR(entry1[i], want[i], 1e-5) << i;
}

TEST_P(RopeTraps, Trap5InverseRopeOnTheAttentionOutput) {
  // With rotated q and k, the un-rotated output depends on distances only: shifting every position of a short
  // sequence by a constant changes nothing.
  auto ops = make();
  const int n = 20, heads = 3, d = 128;
  std::vector<float> freq = plain_freq(64, 10000), q0 = random(n * heads * d), kv0 = random(n * d), sink = random(heads);
  KvRowFormat format = KvRowFormat::entry(Numerics::kExact, d, 64);
  std::vector<std::vector<float>> outputs;
  for (int shift : {0, 1000}) {
    std::vector<int32_t> positions(n);
    for (int i = 0; i < n; ++i) positions[i] = shift + i;
    std::vector<float> t = table(*ops, freq, positions), q = q0, out(n * heads * d);
    View<const float, 3> rope = view<3>(std::as_const(t), {n, 32, 2});
    ops->rope({view<3>(q, {n, heads, d}), rope, false});
    std::vector<std::byte> rows(n * format.data_bytes), ring(128 * format.data_bytes);
    ops->store_window({view<2>(std::as_const(kv0), {n, d}), rope, format, {rows.data(), nullptr}});
    AttendSequence a;
    a.q = view<3>(std::as_const(q), {n, heads, d});
    a.sink = view<1>(std::as_const(sink), {heads});
    a.format = format;
    a.ring = {ring.data(), nullptr};
    a.ring_capacity = 128;
    a.rows = {rows.data(), nullptr};
    a.out = view<3>(out, {n, heads, d});
    attend(*ops, a);
    ops->rope({view<3>(out, {n, heads, d}), rope, true});
    outputs.push_back(out);
  }
  for (size_t i = 0; i < outputs[0].size(); ++i) ASSERT_NEAR(outputs[0][i], outputs[1][i], 2e-4) << i;
}

TEST_P(RopeTraps, Trap6RopePairsAreNeighboursInTheLastDims) {
  auto ops = make();
  std::vector<float> freq = plain_freq(64, 10000), x(128, 0.f);
  x[64] = 1.f;       // first of pair 0
  x[64 + 3] = 1.f;   // second of pair 1
  x[0] = 5.f;        // not rotated
  std::vector<float> t = table(*ops, freq, {3});
  ops->rope({view<3>(x, {1, 1, 128}), view<3>(std::as_const(t), {1, 32, 2}), false});
  double a0 = 3.0 * freq[0], a1 = 3.0f * freq[1];
  EXPECT_NEAR(x[64], std::cos(a0), 1e-6);
  EXPECT_NEAR(x[65], std::sin(a0), 1e-6);
  EXPECT_NEAR(x[66], -std::sin(a1), 1e-6);
  EXPECT_NEAR(x[67], std::cos(a1), 1e-6);
  EXPECT_EQ(x[0], 5.f);
  EXPECT_EQ(x[64 + 32], 0.f) << "halves would put the sine here";
}

TEST_P(RopeTraps, Trap7QHasAWeightlessPerHeadNormBeforeRope) {
  auto ops = make();
  const int heads = 4, d = 512;
  std::vector<float> q = random(heads * d, 7.f), freq = plain_freq(64, 10000);
  std::vector<float> t = table(*ops, freq, {0});
  ops->head_norm_rope({view<3>(q, {1, heads, d}), view<3>(std::as_const(t), {1, 32, 2}), 1e-6f});
  for (int h = 0; h < heads; ++h) {
    double square = 0;
    for (int i = 0; i < d; ++i) square += double(q[h * d + i]) * q[h * d + i];
    EXPECT_NEAR(square / d, 1.0, 1e-5) << "head " << h;
  }
}

TEST_P(RopeTraps, Trap30Fp32RopeAnglesAtOneMillion) {
  auto ops = make();
  std::vector<float> freq = flash_config().inv_freq(4);
  std::vector<float> t = table(*ops, freq, {1048575});
  for (int i = 0; i < 32; ++i) {
    float angle = 1048575.0f * freq[i];  // the product is rounded to f32, as in the reference code
    EXPECT_NEAR(t[2 * i], std::cos(static_cast<double>(angle)), 1e-7) << "frequency " << i;
    EXPECT_NEAR(t[2 * i + 1], std::sin(static_cast<double>(angle)), 1e-7) << "frequency " << i;
  }
}

KVASIR_TRAP_SUITE(RopeTraps);

}  // namespace
}  // namespace kvasir
