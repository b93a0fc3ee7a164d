// What inspection adds up and verification finds.
#include "model/inspection.h"

#include <gtest/gtest.h>

#include "model/checkpoint_fixture.h"

namespace kvasir {
namespace {

class InspectionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto model = make_synthetic(tiny_config(), 3, 1, nullptr);
    ASSERT_TRUE(model) << model.error().message;
    tensors_ = official_tensors(*model);
    dir_.write("config.json", official_config_json(model->config));
  }
  OpenedCheckpoint open() {
    auto opened = open_checkpoint(dir_.path());
    KVASIR_CHECK(opened, "{}", opened.error().message);
    return std::move(*opened);
  }
  Verification verify(int threads = 1) {
    auto result = verify_checkpoint(open(), threads, nullptr);
    KVASIR_CHECK(result, "{}", result.error().message);
    return *result;
  }

  TempDir dir_;
  std::vector<RawTensor> tensors_;
};

TEST_F(InspectionTest, AddsUpWhatTheTensorTableExpects) {
  write_shards(dir_, tensors_, 2);
  OpenedCheckpoint opened = open();
  Inspection got = inspect_checkpoint(opened, dir_.path());
  Inventory want = official_inventory(tiny_config());
  EXPECT_TRUE(got.problems.empty()) << got.problems[0];
  EXPECT_EQ(got.files, 2);
  EXPECT_EQ(got.stored.tensors, static_cast<int64_t>(tensors_.size()));
  EXPECT_EQ(got.stored.tensors, want.trunk.tensors + want.mtp.tensors);
  EXPECT_EQ(got.stored.bytes, want.trunk.bytes + want.mtp.bytes);
  EXPECT_EQ(got.inventory.trunk.parameters, want.trunk.parameters);
  EXPECT_EQ(got.inventory.active_blocks, want.active_blocks);
  EXPECT_EQ(got.inventory.read_per_token, want.read_per_token);
  EXPECT_EQ(got.draft_blocks.bytes, want.mtp.bytes);
  EXPECT_EQ(got.draft, DraftKind::kMtp);
  EXPECT_EQ(got.unknown.tensors, 0);
  EXPECT_FALSE(got.has_tokenizer);
  EXPECT_EQ(got.expert_formats, (std::map<WeightFormat, int64_t>{{WeightFormat::kFp4Group32, 5 * 4 * 3}}));
  int64_t grouped = 0;
  bool found = false;
  for (const TensorGroup& g : got.groups) {
    grouped += g.count;
    if (g.pattern == "layers.*.attn.wq_a.weight") {
      found = true;
      EXPECT_EQ(g.count, 4);
      EXPECT_EQ(g.shape, (std::vector<int64_t>{64, 128}));
    }
  }
  EXPECT_TRUE(found);
  EXPECT_EQ(grouped, got.stored.tensors);
}

TEST_F(InspectionTest, TellsEveryProblemAtOnce) {
  drop_tensor(tensors_, "head.weight");
  tensor_named(tensors_, "norm.weight") = zeros("norm.weight", DType::kBF16, {64});
  tensors_.push_back(zeros("stray", DType::kU8, {3}));
  write_tensors(dir_, "model.safetensors", tensors_);
  OpenedCheckpoint opened = open();
  Inspection got = inspect_checkpoint(opened, dir_.path());
  ASSERT_EQ(got.problems.size(), 2u);
  EXPECT_NE(got.problems[0].find("tensor head.weight: missing"), std::string::npos) << got.problems[0];
  EXPECT_NE(got.problems[1].find("tensor norm.weight: BF16 [64], expected BF16 [128]"), std::string::npos)
      << got.problems[1];
  EXPECT_EQ(got.unknown.tensors, 1);
  EXPECT_EQ(got.unknown.bytes, 3);
}

TEST_F(InspectionTest, VerificationReadsEveryByteOfAGoodCheckpoint) {
  write_shards(dir_, tensors_, 3);
  int64_t bytes = 0;
  for (const RawTensor& t : tensors_) bytes += static_cast<int64_t>(t.bytes.size());
  for (int threads : {1, 3}) {
    Verification got = verify(threads);
    EXPECT_EQ(got.bytes, bytes);
    EXPECT_TRUE(got.problems.empty()) << got.problems[0];
  }
}

TEST_F(InspectionTest, VerificationFindsEveryKindOfBadValue) {
  auto poke = [&](const char* name, size_t at, std::initializer_list<int> bytes) {
    for (int b : bytes) tensor_named(tensors_, name).bytes[at++] = static_cast<std::byte>(b);
  };
  poke("layers.0.attn.wkv.scale", 0, {255});
  poke("layers.1.ffn.experts.2.w2.scale", 9, {255});
  poke("layers.2.attn.wo_b.weight", 1000, {0xff});
  poke("layers.2.attn.wo_b.weight", 2000, {0x7f});
  poke("head.weight", 2 * 77, {0xc0, 0x7f});      // NaN
  poke("embed.weight", 2 * 78, {0x80, 0xff});     // -infinity
  poke("hc_head_fn", 4 * 5, {0, 0, 0x80, 0x7f});  // infinity
  poke("layers.0.ffn.gate.tid2eid", 8 * 3, {4, 0, 0, 0, 0, 0, 0, 0});
  write_tensors(dir_, "model.safetensors", tensors_);
  Verification got = verify(2);
  EXPECT_EQ(got.bad_tensors, 7);
  ASSERT_EQ(got.problems.size(), 7u);
  auto expect = [&](const std::string& tensor, const std::string& rest) {
    for (const std::string& p : got.problems) {
      if (p.find("tensor " + tensor + ": ") != std::string::npos) {
        EXPECT_NE(p.find(rest), std::string::npos) << p;
        return;
      }
    }
    ADD_FAILURE() << "nothing about " << tensor;
  };
  expect("layers.0.attn.wkv.scale", "element 0 is an E8M0 scale of 255");
  expect("layers.1.ffn.experts.2.w2.scale", "element 9 is an E8M0 scale of 255");
  expect("layers.2.attn.wo_b.weight", "element 1000 is NaN");
  expect("head.weight", "element 77 is NaN or infinity");
  expect("embed.weight", "element 78 is NaN or infinity");
  expect("hc_head_fn", "element 5 is NaN or infinity");
  expect("layers.0.ffn.gate.tid2eid", "element 3 is no expert's number");
}

TEST_F(InspectionTest, VerificationCountsElementsAcrossPieces) {
  // A tensor of more than one piece (8 MiB), bad in its second.
  tensors_.push_back(zeros("big", DType::kBF16, {5 << 20}));
  tensors_.back().bytes[2 * ((4 << 20) + 12) + 1] = std::byte{0x7f};
  tensors_.back().bytes[2 * ((4 << 20) + 12)] = std::byte{0x80};
  write_tensors(dir_, "model.safetensors", tensors_);
  Verification got = verify(2);
  ASSERT_EQ(got.problems.size(), 1u);
  EXPECT_NE(got.problems[0].find("tensor big: element 4194316 is"), std::string::npos) << got.problems[0];
}

TEST_F(InspectionTest, VerificationReportsAFileThatShrinks) {
  write_tensors(dir_, "model.safetensors", tensors_);
  OpenedCheckpoint opened = open();
  std::filesystem::resize_file(dir_.file("model.safetensors"),
                               std::filesystem::file_size(dir_.file("model.safetensors")) - 10);
  auto result = verify_checkpoint(opened, 1, nullptr);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::kIo);
  EXPECT_NE(result.error().message.find("the file ends"), std::string::npos) << result.error().message;
}

}  // namespace
}  // namespace kvasir
