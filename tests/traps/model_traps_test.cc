// Traps 1, 9, 10, 18, 19, 20, 26, 27, 28: properties of whole sequences, on the oracle checkpoint.
#include "engine/generator.h"
#include "trap_fixture.h"

namespace kvasir {
namespace {

class ModelTraps : public testing::TestWithParam<Backend> {
 protected:
  static constexpr int64_t kStep = 320;

  std::unique_ptr<Runner> runner(Numerics numerics = Numerics::kExact) {
    return make_runner(oracle_model().model, GetParam(), numerics, kStep);
  }
  static Sequence sequence(Runner& r) {
    auto s = r.make_sequence();
    EXPECT_TRUE(s);
    return *std::move(s);
  }
  static std::vector<int32_t> ids(int64_t n, uint32_t seed = 1) {
    std::mt19937 rng(seed);
    std::vector<int32_t> out(n);
    for (int32_t& id : out) id = static_cast<int32_t>(rng() % 512);
    return out;
  }
  // Runs `tokens` and returns the last row's logits.
  static std::vector<float> run(Runner& r, Sequence& s, std::span<const int32_t> tokens) {
    Runner::Item item{&s, tokens, Runner::Logits::kLast};
    EXPECT_TRUE(r.step({&item, 1}));
    auto row = r.logits();
    return {row.row(0), row.row(0) + row.shape(1)};
  }
};

TEST_P(ModelTraps, Trap1RopeBasePerLayer) {
  auto r = runner();
  std::vector<int32_t> position = {5000};
  const ModelConfig& c = oracle_model().model.config;
  std::vector<std::vector<float>> tables;
  for (int layer : {0, 2, 3}) {
    View<const float, 1> freq = oracle_model().model.layers[layer].inv_freq;
    std::vector<float> table(c.rope_dim);
    r->ops().rope_table({freq, {position.data(), {1}}, {table.data(), {1, c.rope_dim / 2, 2}}});
    tables.push_back(table);
  }
  EXPECT_NE(tables[0], tables[1]) << "a ratio-0 layer rotates with theta 10000, a ratio-4 layer with 160000 and YaRN";
  EXPECT_EQ(tables[1], tables[2]) << "ratio-4 and ratio-128 layers share their table";
}

TEST_P(ModelTraps, Trap9StateStartsEmptyForEverySequence) {
  auto r = runner();
  std::vector<int32_t> a = ids(300, 1), b = ids(150, 2);
  Sequence fresh = sequence(*r);
  std::vector<float> want = run(*r, fresh, b);
  Sequence used = sequence(*r);
  run(*r, used, a);
  used.reset();
  EXPECT_EQ(run(*r, used, b), want) << "prompt B after prompt A in one slot equals a fresh run";
}

TEST_P(ModelTraps, Trap10AnEntryIsVisibleToTheTokenThatClosesIt) {
  // t = 3 sees entry 0 of a ratio-4 layer, t = 2 sees none; all four residues.
  auto r = runner();
  Tap tap;
  tap.record(true);
  r->set_observer(&tap);
  Sequence s = sequence(*r);
  run(*r, s, ids(9));
  const TapTensor& selected = tap["layers.2.indexer.selected"];
  for (int64_t t = 0; t < 9; ++t) {
    int64_t visible = 0;
    while (visible < selected.columns && selected.i32[t * selected.columns + visible] >= 0) ++visible;
    EXPECT_EQ(visible, (t + 1) / 4) << "token " << t;
  }
}

TEST_P(ModelTraps, Trap18RollbackRestoresEverything) {
  // Verify k drafts and keep j of them, at every residue mod 4 and around t mod 128 = 127; then go on with the
  // right tokens. Logits afterwards and all that the cache holds equal serial decode, bit for bit.
  auto r = runner();
  constexpr int kDrafts = 5;
  std::vector<int64_t> starts = {120, 121, 122, 123, 124, 125, 126, 127, 128, 130};
  if (GetParam().kind == BackendKind::kReference) starts = {125, 126, 127, 128};  // each residue once: it is slow
  for (int64_t start : starts) {
    std::vector<int32_t> right = ids(start + kDrafts + 4, 3), wrong = ids(kDrafts, 99);
    Sequence serial = sequence(*r);
    run(*r, serial, std::span(right).first(start));
    std::vector<float> want;
    for (size_t i = start; i < right.size(); ++i) want = run(*r, serial, std::span(right).subspan(i, 1));
    Tap serial_cache;
    tap_cache(*r, serial, serial_cache);
    for (int kept = 0; kept < kDrafts; ++kept) {
      Sequence s = sequence(*r);
      run(*r, s, std::span(right).first(start));
      std::vector<int32_t> step(right.begin() + start, right.begin() + start + kept);
      step.insert(step.end(), wrong.begin(), wrong.begin() + (kDrafts - kept));
      run(*r, s, step);
      s.roll_back(start + kept);
      std::vector<float> got;
      for (size_t i = start + kept; i < right.size(); ++i) got = run(*r, s, std::span(right).subspan(i, 1));
      ASSERT_EQ(got, want) << "start " << start << ", kept " << kept;
      Tap cache;
      tap_cache(*r, s, cache);
      for (const auto& [name, tensor] : serial_cache.tensors()) ASSERT_EQ(cache[name].f32, tensor.f32) << name << ", start " << start;
    }
  }
}

TEST_P(ModelTraps, Trap19ResumingNeedsWindowAndTails) {
  // What a prefix cache must keep to resume at token n: the pages and the state. With both copied into another
  // sequence the logits go on as in the original; with the state left out they do not.
  auto r = runner();
  std::vector<int32_t> tokens = ids(200, 4);
  Sequence original = sequence(*r);
  run(*r, original, std::span(tokens).first(190));
  auto resume = [&](bool with_state) {
    Sequence copy = sequence(*r);
    EXPECT_TRUE(copy.reserve(200));
    for (int64_t p = 0; p < KvLayout::pages_for(190); ++p) std::memcpy(copy.pages()[p], original.pages()[p], r->layout().page_bytes);
    if (with_state) std::memcpy(copy.state(), original.state(), r->layout().state_bytes);
    copy.advance(190);
    return run(*r, copy, std::span(tokens).subspan(190));
  };
  std::vector<float> resumed = resume(true), without = resume(false), want = run(*r, original, std::span(tokens).subspan(190));
  EXPECT_EQ(resumed, want);
  EXPECT_NE(without, want);
}

TEST_P(ModelTraps, Trap20DecodeEqualsPrefillAtEveryResidue) {
  auto r = runner();
  std::vector<int32_t> tokens = ids(264, 5);
  Sequence all = sequence(*r);
  Runner::Item item{&all, tokens, Runner::Logits::kAll};
  ASSERT_TRUE(r->step({&item, 1}));
  std::vector<float> prefill(r->logits().data(), r->logits().data() + r->logits().count());
  Sequence one = sequence(*r);
  for (size_t t = 0; t < tokens.size(); ++t) {
    std::vector<float> got = run(*r, one, std::span(tokens).subspan(t, 1));
    ASSERT_TRUE(std::equal(got.begin(), got.end(), prefill.begin() + static_cast<int64_t>(t) * 512)) << "token " << t;
  }
}

TEST_P(ModelTraps, Trap26TokenIdsReachHashLayersInBatchOrder) {
  // Three sequences of different lengths in one step: each equals itself alone, so its ids and positions
  // reached the hash layers, windows and pages in its own order.
  auto r = runner();
  std::vector<std::vector<int32_t>> prompts = {ids(37, 6), ids(1, 7), ids(130, 8)};
  std::vector<std::vector<float>> alone;
  for (const auto& p : prompts) {
    Sequence s = sequence(*r);
    alone.push_back(run(*r, s, p));
  }
  std::vector<Sequence> together;
  for (size_t i = 0; i < prompts.size(); ++i) together.push_back(sequence(*r));
  std::vector<Runner::Item> items;
  for (size_t i = 0; i < prompts.size(); ++i) items.push_back({&together[i], prompts[i], Runner::Logits::kLast});
  ASSERT_TRUE(r->step(items));
  for (size_t i = 0; i < prompts.size(); ++i) {
    const float* row = r->logits().row(static_cast<int64_t>(i));
    EXPECT_TRUE(std::equal(alone[i].begin(), alone[i].end(), row)) << "sequence " << i;
  }
}

TEST_P(ModelTraps, Trap27MtpUsesItsOwnRatio) {
  const Model& model = oracle_model().model;
  ASSERT_TRUE(model.mtp);
  EXPECT_EQ(model.config.compress_ratio(model.config.num_layers), 0);
  EXPECT_EQ(model.mtp->block.kind, AttentionKind::kSwa);
  EXPECT_EQ(model.mtp->block.inv_freq(1), model.layers[0].inv_freq(1)) << "theta 10000, no YaRN";
  // Pro's first layers are HCA; its MTP block is window-only all the same.
  EXPECT_EQ(pro_config().attention_kind(0), AttentionKind::kHca);
  EXPECT_EQ(pro_config().attention_kind(pro_config().num_layers), AttentionKind::kSwa);
}

TEST_P(ModelTraps, Trap28MtpReadsTheStreamsBeforeTheHeadCollapse) {
  auto r = runner();
  Tap tap;
  tap.record(true);
  r->set_observer(&tap);
  Sequence s = sequence(*r);
  std::vector<int32_t> tokens = ids(20, 9);
  run(*r, s, tokens);
  EXPECT_TRUE(r->draft(s, 0, std::span(tokens).subspan(1)));
  const ModelConfig& c = oracle_model().model.config;
  const std::vector<float>&trunk = tap["layers." + std::to_string(c.num_layers - 1) + ".out"].f32, &in = tap["mtp.in"].f32;
  ASSERT_EQ(in.size(), static_cast<size_t>(19 * c.hc * c.dim));
  EXPECT_TRUE(std::equal(in.begin(), in.end(), trunk.begin()));
}

// The reference, and the kernels this machine would choose: what differs between instruction sets is inside the ops.
std::vector<Backend> reference_and_best() { return {backends().front(), {BackendKind::kCpu, cpu::detect_isa()}}; }

INSTANTIATE_TEST_SUITE_P(Backends, ModelTraps, testing::ValuesIn(reference_and_best()), [](const auto& test) { return test.param.name(); });

}  // namespace
}  // namespace kvasir
