// Fingerprints of checkpoints that differ in one thing.
#include "model/fingerprint.h"

#include <gtest/gtest.h>

#include "model/checkpoint_fixture.h"

namespace kvasir {
namespace {

uint64_t fingerprint_of(const std::vector<RawTensor>& tensors, const ModelConfig& config) {
  TempDir dir;
  dir.write("config.json", official_config_json(config));
  write_tensors(dir, "model.safetensors", tensors);
  auto fingerprint = checkpoint_fingerprint(dir.path());
  EXPECT_TRUE(fingerprint) << fingerprint.error().message;
  return fingerprint ? fingerprint->low ^ fingerprint->high : 0;
}

TEST(Fingerprint, OneChangedByteOrSettingMakesAnother) {
  ModelConfig config = tiny_config();
  auto model = make_synthetic(config, 1, 1, nullptr);
  ASSERT_TRUE(model);
  std::vector<RawTensor> tensors = official_tensors(*model);
  uint64_t first = fingerprint_of(tensors, config);
  EXPECT_EQ(first, fingerprint_of(tensors, config));

  std::vector<RawTensor> other = tensors;
  tensor_named(other, "embed.weight").bytes[7] ^= std::byte{1};
  EXPECT_NE(first, fingerprint_of(other, config));

  config.rope_theta *= 2;
  EXPECT_NE(first, fingerprint_of(tensors, config));
}

TEST(Fingerprint, AFolderWithoutACheckpointIsAnError) {
  TempDir dir;
  EXPECT_FALSE(checkpoint_fingerprint(dir.path()));
}

}  // namespace
}  // namespace kvasir
