// The bundled model against logits computed from its exported files by an independent f64 forward in Python
// (tools/nano/reference.py): loading, every kind of layer, and the MTP block of a trained checkpoint.
#include "oracle_fixture.h"

namespace kvasir {
namespace {

class Nano : public testing::TestWithParam<Backend> {};

TEST_P(Nano, LogitsOfTheBundledModelAgreeWithItsTrainingCode) {
  static auto* loaded = new Result<LoadedModel>(load_checkpoint(KVASIR_SOURCE_DIR "/models/nano", {}));
  ASSERT_TRUE(*loaded) << loaded->error().message;
  EXPECT_TRUE((*loaded)->notes.empty()) << (*loaded)->notes[0];
  OracleFile golden(KVASIR_SOURCE_DIR "/tests/golden/nano/logits.safetensors");
  std::vector<int32_t> ids = golden["ids"].i32;
  auto runner = make_runner((*loaded)->model, GetParam(), Numerics::kExact, static_cast<int64_t>(ids.size()));
  auto sequence = runner->make_sequence();
  ASSERT_TRUE(sequence);
  auto worst = [&](const char* rows_name, const char* logits_name) {
    std::vector<int32_t> rows = golden[rows_name].i32;
    TapTensor want = golden[logits_name];
    double difference = 0;
    for (size_t i = 0; i < rows.size(); ++i)
      for (int64_t v = 0; v < want.columns; ++v)
        difference = std::max<double>(difference, std::fabs(runner->logits().row(rows[i])[v] - want.f32[i * want.columns + v]));
    return difference;
  };
  Runner::Item item{&*sequence, ids, Runner::Logits::kAll};
  ASSERT_TRUE(runner->step({&item, 1}));
  EXPECT_LE(worst("rows", "logits"), 1e-4);
  EXPECT_TRUE(runner->draft(*sequence, 0, std::span(ids).subspan(1), Runner::Logits::kAll));
  EXPECT_LE(worst("mtp.rows", "mtp.logits"), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Backends, Nano, testing::ValuesIn(backends()), [](const auto& test) { return test.param.name(); });

}  // namespace
}  // namespace kvasir
