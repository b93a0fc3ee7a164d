// kExact against what the official model.py computes in fp32 with all activation quantisation off.
//
// Bound: 1e-4 on logits of magnitude 9. The official run is fp32 itself: an fp64 implementation of the same
// formulas differs from it by up to 4e-5 (oracle README), so nothing tighter is meaningful.
#include "engine/generator.h"
#include "oracle_fixture.h"

namespace kvasir {
namespace {

struct Case {
  Backend backend;
  int64_t chunk;
};

class OracleExact : public testing::TestWithParam<Case> {};

TEST_P(OracleExact, LogitsAgreeWithin1e4) {
  OracleFile oracle(oracle_dir() + "/exact.safetensors");
  std::vector<int32_t> ids = oracle["ids"].i32, rows = oracle["rows"].i32;
  TapTensor want = oracle["logits"], want_mtp = oracle["mtp.logits"];
  std::vector<int32_t> mtp_rows = oracle["mtp.rows"].i32;
  const Model& model = oracle_model().model;
  auto runner = make_runner(model, GetParam().backend, Numerics::kExact, GetParam().chunk);
  auto sequence = runner->make_sequence();
  ASSERT_TRUE(sequence);

  auto total = static_cast<int64_t>(ids.size());
  double worst = 0, worst_mtp = 0;
  auto compare = [&](const TapTensor& expected, const std::vector<int32_t>& at_rows, int64_t at, int64_t n, double& worst_difference) {
    auto logits = runner->logits();
    for (size_t i = 0; i < at_rows.size(); ++i) {
      if (at_rows[i] < at || at_rows[i] >= at + n) continue;
      const float* got = logits.row(at_rows[i] - at);
      for (int64_t v = 0; v < expected.columns; ++v)
        worst_difference = std::max<double>(worst_difference, std::fabs(got[v] - expected.f32[i * expected.columns + v]));
    }
  };
  for (int64_t at = 0; at < total;) {
    int64_t n = std::min(GetParam().chunk, total - at);
    Runner::Item item{&*sequence, std::span(ids).subspan(at, n), Runner::Logits::kAll};
    ASSERT_TRUE(runner->step({&item, 1}));
    compare(want, rows, at, n, worst);
    int64_t known = std::min(n, total - 1 - at);
    if (known > 0) {
      EXPECT_TRUE(runner->draft(*sequence, at, std::span(ids).subspan(at + 1, known), Runner::Logits::kAll));
      compare(want_mtp, mtp_rows, at, known, worst_mtp);
    }
    at += n;
  }
  RecordProperty("max_abs_logit_difference", std::to_string(worst));
  RecordProperty("max_abs_mtp_logit_difference", std::to_string(worst_mtp));
  std::printf("max |logit difference| %.2e, of MTP %.2e\n", worst, worst_mtp);
  EXPECT_LE(worst, 1e-4);
  EXPECT_LE(worst_mtp, 1e-4);
}

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const Backend& backend : backends())
    for (int64_t chunk : {2048, 1, 3, 5, 127, 129}) out.push_back({backend, chunk});
  return out;
}

INSTANTIATE_TEST_SUITE_P(Chunks, OracleExact, testing::ValuesIn(cases()), [](const auto& test) {
  return test.param.backend.name() + "_" + (test.param.chunk == 2048 ? "one_shot" : "chunks_of_" + std::to_string(test.param.chunk));
});

class OracleGreedy : public testing::TestWithParam<Backend> {};

TEST_P(OracleGreedy, ContinuationIsIdenticalWithAndWithoutDrafts) {
  auto facts_file = std::ifstream(oracle_dir() + "/facts.json");
  std::string facts((std::istreambuf_iterator<char>(facts_file)), {});
  // facts.json is our own fixture: a flat object with the two fields read here.
  auto number_after = [&](const char* key) { return std::atoi(facts.c_str() + facts.find(key) + std::strlen(key) + 3); };
  int prompt_tokens = number_after("prompt_tokens");
  std::vector<int32_t> want;
  for (size_t at = facts.find('[', facts.find("greedy_exact")); facts[at] != ']';) {
    want.push_back(std::atoi(facts.c_str() + at + 1));
    at = facts.find_first_of(",]", at + 1);
  }
  ASSERT_EQ(want.size(), 24u);

  OracleFile oracle(oracle_dir() + "/exact.safetensors");
  std::vector<int32_t> ids = oracle["ids"].i32;
  for (int drafts : {0, 1, 3}) {
    auto runner = make_runner(oracle_model().model, GetParam(), Numerics::kExact, 64);
    auto sequence = runner->make_sequence();
    ASSERT_TRUE(sequence);
    GenerationOptions options;
    options.sampling.temperature = 0;
    options.max_tokens = 24;
    options.draft_tokens = drafts;
    std::vector<int32_t> got;
    auto result = generate(*runner, *sequence, std::span(ids).first(prompt_tokens), options, [&](const SampledToken& token) {
      got.push_back(token.id);
      return true;
    });
    ASSERT_TRUE(result) << result.error().message;
    EXPECT_EQ(got, want) << drafts << " drafts a step, " << result->stats.accepted << " of " << result->stats.drafted << " accepted";
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, OracleGreedy, testing::ValuesIn(backends()), [](const auto& test) { return test.param.name(); });

}  // namespace
}  // namespace kvasir
