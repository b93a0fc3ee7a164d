// Traps 14-17, 25, 29: hyper-connections, experts, gate and sink.
#include "trap_fixture.h"

namespace kvasir {
namespace {

class LayerTraps : public TrapOps {};

TEST_P(LayerTraps, Trap14CombDirection) {
  // comb a permutation P[j][k]: stream j must land in k.
  auto ops = make();
  const int hc = 4, dim = 8, to[4] = {2, 0, 3, 1};
  std::vector<float> y(dim, 0.f), post(hc, 0.f), comb(hc * hc, 0.f), streams(hc * dim);
  for (int j = 0; j < hc; ++j) {
    comb[j * hc + to[j]] = 1.f;
    for (int e = 0; e < dim; ++e) streams[j * dim + e] = static_cast<float>(10 * j + e);
  }
  ops->hc_post({view<2>(std::as_const(y), {1, dim}), view<2>(std::as_const(post), {1, hc}), view<3>(std::as_const(comb), {1, hc, hc}),
                view<3>(streams, {1, hc, dim})});
  for (int j = 0; j < hc; ++j)
    for (int e = 0; e < dim; ++e) EXPECT_EQ(streams[to[j] * dim + e], static_cast<float>(10 * j + e)) << "stream " << j;
}

TEST_P(LayerTraps, Trap15SinkhornDetails) {
  // Golden values of spec A.6. fn and the streams are made so that the normalised logits are m_i = 0.1 i - 1:
  // one stream element is 1 with mean square exactly 1.
  auto ops = make();
  const int hc = 4, dim = 64, n = hc * dim;
  std::vector<float> streams(n, 1.f), fn(24 * n, 0.f), base(24), scale = {0.5f, 0.25f, 2.0f};
  for (int i = 0; i < 24; ++i) {
    fn[i * n] = 0.1f * static_cast<float>(i) - 1.0f;
    base[i] = 0.05f * static_cast<float>(7 * i % 5) - 0.1f;
  }
  std::vector<float> x(dim), post(hc), comb(hc * hc);
  HyperConnectionWeights w{view<2>(std::as_const(fn), {24, n}), view<1>(std::as_const(base), {24}), view<1>(std::as_const(scale), {3})};
  ops->hc_pre({w, view<3>(std::as_const(streams), {1, hc, dim}), 0.f, 1e-6f, 20, view<2>(x, {1, dim}), view<2>(post, {1, hc}),
               view<3>(comb, {1, hc, hc})});
  const double pre_sum = 0.3543447 + 0.3893618 + 0.4255585 + 0.4013134;
  for (int e = 0; e < dim; ++e) EXPECT_NEAR(x[e], pre_sum, 1e-6);  // all streams are 1
  const float want_post[4] = {0.9500416f, 0.8879722f, 0.9500416f, 1.0124993f};
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(post[i], want_post[i], 1e-6) << i;
  const float want[16] = {0.2457284f, 0.2618242f, 0.2306221f, 0.2618243f, 0.2779200f, 0.2306222f, 0.2608347f, 0.2306221f,
                          0.2457284f, 0.2618242f, 0.2306221f, 0.2618242f, 0.2306222f, 0.2457284f, 0.2779200f, 0.2457284f};
  for (int i = 0; i < 16; ++i) EXPECT_NEAR(comb[i], want[i], 1e-6) << i;
}

// One expert of width 32 whose gate is g * x[0], up u * x[0], and whose down projection copies element 0.
struct OneExpert {
  OneExpert(float g, float u) : w1(32 * 32, 0.f), w3(32 * 32, 0.f), w2(32 * 32, 0.f) {
    w1[0] = g;
    w3[0] = u;
    w2[0] = 1.f;
  }
  ExpertWeights weights() const {
    auto m = [](const std::vector<float>& v) { return WeightMatrix{WeightFormat::kF32, 32, 32, v.data(), nullptr}; };
    return {m(w1), m(w3), m(w2)};
  }
  std::vector<float> w1, w3, w2;
};

float run_experts(Ops& ops, const OneExpert& routed, const OneExpert& shared, float route_weight) {
  std::vector<float> x(32, 0.f), out(32), weight = {route_weight};
  x[0] = 1.f;
  int32_t expert = 0;
  ExpertWeights r = routed.weights();
  ops.experts({view<2>(std::as_const(x), {1, 32}), {&r, {1}}, r, shared.weights(), {&expert, {1, 1}}, view<2>(std::as_const(weight), {1, 1}), 10.f,
               view<2>(out, {1, 32})});
  return out[0];
}

double silu(double x) { return x / (1 + std::exp(-x)); }

TEST_P(LayerTraps, Trap16SharedExpertIsClampedToo) {
  auto ops = make();
  EXPECT_NEAR(run_experts(*ops, OneExpert(0, 0), OneExpert(50, 1), 1.f), silu(10), 1e-5);
}

TEST_P(LayerTraps, Trap17ClampBeforeTheProductGateOnlyFromAbove) {
  auto ops = make();
  EXPECT_NEAR(run_experts(*ops, OneExpert(-50, 50), OneExpert(0, 0), 1.f), silu(-50) * 10, 1e-12);
  EXPECT_NEAR(run_experts(*ops, OneExpert(3, -50), OneExpert(0, 0), 0.5f), silu(3) * -10 * 0.5, 1e-5);
}

TEST_P(LayerTraps, Trap25RoutingWeightsUseUnbiasedScores) {
  auto ops = make();
  auto score = [](double z) { return std::sqrt(z > 20 ? z : std::log1p(std::exp(z))); };
  std::vector<float> logits = {1.f, 0.5f, -1.f, 25.f}, bias = {0.f, 0.f, 100.f, -100.f}, weights(2);
  std::vector<int32_t> experts(2), ids = {3};
  GateArgs a;
  a.logits = view<2>(std::as_const(logits), {1, 4});
  a.bias = view<1>(std::as_const(bias), {4});
  a.ids = {ids.data(), {1}};
  a.scale = 1.5f;
  a.experts = {experts.data(), {1, 2}};
  a.weights = view<2>(weights, {1, 2});
  ops->gate(a);
  EXPECT_EQ(experts, (std::vector<int32_t>{2, 0}));  // the bias chooses
  double s2 = score(-1), s0 = score(1);              // and does not weigh
  EXPECT_NEAR(weights[0], 1.5 * s2 / (s2 + s0), 1e-6);
  EXPECT_NEAR(weights[1], 1.5 * s0 / (s2 + s0), 1e-6);

  // A hash layer takes ids from the table and weights from the gate; a repeated id counts once per slot.
  std::vector<int32_t> table = {0, 0, 0, 0, 0, 0, 3, 3};
  a.bias = {};
  a.tid2eid = {table.data(), {4, 2}};
  ops->gate(a);
  EXPECT_EQ(experts, (std::vector<int32_t>{3, 3}));
  EXPECT_NEAR(weights[0], 0.75, 1e-6);
  EXPECT_NEAR(weights[1], 0.75, 1e-6);
  std::vector<float> x(32, 0.f), out(32);
  x[0] = 1.f;
  OneExpert e(2, 1), none(0, 0);
  std::vector<ExpertWeights> routed = {none.weights(), none.weights(), none.weights(), e.weights()};
  ops->experts({view<2>(std::as_const(x), {1, 32}), {routed.data(), {4}}, routed[0], none.weights(), {experts.data(), {1, 2}}, view<2>(std::as_const(weights), {1, 2}), 10.f,
                view<2>(out, {1, 32})});
  EXPECT_NEAR(out[0], 1.5 * silu(2), 1e-5) << "both slots of a repeated expert count";
}

TEST_P(LayerTraps, Trap29SinkIsInTheDenominatorOnlyAndOnce) {
  // Long enough for a backend to split the keys: the sink must still be added once. All keys equal: the
  // output is key * n / (n + e^(sink - s)).
  auto ops = make();
  const int d = 128, heads = 2;
  KvRowFormat format = KvRowFormat::entry(Numerics::kExact, d, 64);
  std::vector<float> key(d, 0.f), q(heads * d, 0.f), sink = {3.f, -2.f}, out(heads * d);
  key[0] = 1.f;
  q[0] = 2.f, q[d] = 5.f;
  for (auto [choice, ratio, position] : {std::tuple{EntryChoice::kNone, 0, 200}, {EntryChoice::kAll, 128, 128 * 600}, {EntryChoice::kSelected, 4, 4 * 600}}) {
    int64_t entries = choice == EntryChoice::kNone ? 0 : choice == EntryChoice::kAll ? (position + 1) / 128 : 512;
    OneLayerPages pages(format, ratio == 4 ? 32 : 1, 640);
    for (int b = 0; b < 640; ++b) pages.put(b, key);
    std::vector<std::byte> ring(136 * format.data_bytes), row(format.data_bytes);
    for (int r = 0; r < 136; ++r) encode_row(format, key.data(), ring.data() + r * format.data_bytes, nullptr);
    encode_row(format, key.data(), row.data(), nullptr);
    std::vector<int32_t> selected(512);
    std::iota(selected.begin(), selected.end(), 0);
    AttendSequence a;
    a.q = view<3>(std::as_const(q), {1, heads, d});
    a.sink = view<1>(std::as_const(sink), {heads});
    a.start = position;
    a.format = format;
    a.ring = {ring.data(), nullptr};
    a.ring_capacity = 136;
    a.rows = {row.data(), nullptr};
    a.choice = choice;
    a.ratio = ratio;
    a.selected = {selected.data(), {1, 512}};
    a.pages = pages.addresses.data();
    a.entries = pages.section;
    a.out = view<3>(out, {1, heads, d});
    attend(*ops, a);
    double n = 128.0 + static_cast<double>(entries);
    for (int h = 0; h < heads; ++h) {
      double s = q[h * d] / std::sqrt(double(d));
      EXPECT_NEAR(out[h * d], n / (n + std::exp(sink[h] - s)), 1e-5) << "ratio " << ratio << ", head " << h;
      EXPECT_NEAR(out[h * d + 1], 0.0, 1e-6) << "the sink has no value vector";
    }
  }
}

KVASIR_TRAP_SUITE(LayerTraps);

}  // namespace
}  // namespace kvasir
