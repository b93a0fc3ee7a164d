// Checkpoints that are wrong: each is refused with one line that names the file, the tensor, what was seen
// and what was expected.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cstring>

#include "model/checkpoint_fixture.h"
#include "model/load.h"

namespace kvasir {
namespace {

class LoadErrors : public ::testing::Test {
 protected:
  void SetUp() override {
    auto model = make_synthetic(tiny_config(), 3, 1, nullptr);
    ASSERT_TRUE(model) << model.error().message;
    tensors_ = official_tensors(*model);
    dir_.write("config.json", official_config_json(model->config));
  }

  void expect_refused(std::initializer_list<std::string_view> words, ErrorCode code = ErrorCode::kInvalid) {
    auto loaded = load_checkpoint(dir_.path(), {});
    ASSERT_FALSE(loaded);
    const std::string& message = loaded.error().message;
    EXPECT_EQ(loaded.error().code, code) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_EQ(message.rfind(dir_.path(), 0), 0u) << "names no file: " << message;
    for (std::string_view word : words)
      EXPECT_NE(message.find(word), std::string::npos) << message << "\n  lacks: " << word;
  }
  void write() { write_tensors(dir_, "model.safetensors", tensors_); }

  TempDir dir_;
  std::vector<RawTensor> tensors_;
};

TEST_F(LoadErrors, AFolderWithoutConfig) {
  std::filesystem::remove(dir_.file("config.json"));
  write();
  expect_refused({"config.json", "No such file"}, ErrorCode::kNotFound);
}

TEST_F(LoadErrors, AFolderWithoutWeights) {
  expect_refused({"model.safetensors.index.json", "model.safetensors"}, ErrorCode::kNotFound);
}

TEST_F(LoadErrors, AMissingKeyInTheConfig) {
  std::string config = dir_.read("config.json");
  config.replace(config.find("\"swiglu_limit\""), 14, "\"torch_dtype2\"");
  dir_.write("config.json", config);
  write();
  expect_refused({"config.json", "missing key swiglu_limit"});
}

TEST_F(LoadErrors, AWrongShape) {
  tensor_named(tensors_, "layers.2.attn.wo_a.weight") =
      zeros("layers.2.attn.wo_a.weight", DType::kF8E4M3, {128, 512});
  write();
  expect_refused({"model.safetensors: tensor layers.2.attn.wo_a.weight", "F8_E4M3 [128, 512]",
                  "expected F8_E4M3 [128, 256]"});
}

TEST_F(LoadErrors, AWrongRank) {
  tensor_named(tensors_, "norm.weight") = zeros("norm.weight", DType::kBF16, {1, 128});
  write();
  expect_refused({"tensor norm.weight", "BF16 [1, 128]", "expected BF16 [128]"});
}

TEST_F(LoadErrors, AWrongDtype) {
  struct Case {
    const char* name;
    DType dtype;
    std::vector<int64_t> shape;
    const char* expected;
  };
  for (const Case& c :
       {Case{"layers.0.attn.wq_a.weight", DType::kBF16, {64, 128}, "expected F8_E4M3 [64, 128]"},
        Case{"layers.0.attn.wq_a.weight", DType::kI8, {64, 128}, "expected F8_E4M3 [64, 128]"},
        Case{"embed.weight", DType::kF16, {96, 128}, "expected BF16 [96, 128]"},
        Case{"norm.weight", DType::kF32, {128}, "expected BF16 [128]"},
        Case{"hc_head_base", DType::kBF16, {4}, "expected F32 [4]"},
        Case{"layers.0.ffn.gate.tid2eid", DType::kI32, {96, 2}, "expected I64 [96, 2]"},
        Case{"layers.0.attn.wq_a.scale", DType::kF32, {1, 1}, "expected F8_E8M0 [1, 1]"},
        Case{"layers.1.ffn.experts.0.w1.scale", DType::kU8, {128, 4}, "expected F8_E8M0 [128, 4]"},
        Case{"layers.1.ffn.experts.0.w1.weight",
             DType::kU8,
             {128, 64},
             "expected I8 [128, 64] or F8_E4M3 [128, 128]"}}) {
    SCOPED_TRACE(c.name);
    std::vector<RawTensor> good = tensors_;
    tensor_named(tensors_, c.name) = zeros(c.name, c.dtype, c.shape);
    write();
    expect_refused({"model.safetensors: tensor ", c.name, dtype_name(c.dtype), c.expected});
    tensors_ = good;
  }
}

TEST_F(LoadErrors, AMissingTensorOrScale) {
  for (const char* name :
       {"head.weight", "hc_head_fn", "layers.3.attn.compressor.ape", "layers.2.attn.indexer.wq_b.scale",
        "layers.0.ffn.gate.tid2eid", "layers.1.ffn.gate.bias", "layers.3.ffn.experts.3.w2.scale",
        "mtp.0.h_proj.weight"}) {
    SCOPED_TRACE(name);
    std::vector<RawTensor> good = tensors_;
    drop_tensor(tensors_, name);
    write();
    expect_refused({"model.safetensors: tensor ", name, "missing, expected"});
    tensors_ = good;
  }
}

TEST_F(LoadErrors, ATruncatedShard) {
  write_shards(dir_, tensors_, 2);
  std::filesystem::resize_file(dir_.file("model-00002-of-00002.safetensors"),
                               std::filesystem::file_size(dir_.file("model-00002-of-00002.safetensors")) - 1);
  expect_refused({"model-00002-of-00002.safetensors: tensor ", "outside the file", "truncated"});
  std::filesystem::resize_file(dir_.file("model-00002-of-00002.safetensors"), 100);
  expect_refused({"model-00002-of-00002.safetensors", "file of 100 bytes", "truncated"});
  std::filesystem::resize_file(dir_.file("model-00002-of-00002.safetensors"), 0);
  expect_refused({"model-00002-of-00002.safetensors", "0 bytes"});
}

TEST_F(LoadErrors, AHeaderThatPointsOutsideOrOverlaps) {
  auto write_header = [&](const std::string& json) {
    std::string file(8, '\0');
    uint64_t length = json.size();
    std::memcpy(file.data(), &length, 8);
    dir_.write("model.safetensors", file + json + std::string(64, '\0'));
  };
  write_header(R"({"norm.weight":{"dtype":"BF16","shape":[128],"data_offsets":[0,256]}})");
  expect_refused({"model.safetensors: tensor norm.weight", "0 to 256", "64 bytes"});
  write_header(
      R"({"a":{"dtype":"U8","shape":[32],"data_offsets":[0,32]},)"
      R"("b":{"dtype":"U8","shape":[32],"data_offsets":[31,63]}})");
  expect_refused({"model.safetensors: tensor b", "overlap"});
  write_header(std::string(100000, '[') + std::string(100000, ']'));
  expect_refused({"model.safetensors: header", "deeper than 8"});
}

TEST_F(LoadErrors, AnAbsentShard) {
  write_shards(dir_, tensors_, 2);
  std::filesystem::remove(dir_.file("model-00002-of-00002.safetensors"));
  expect_refused({"model.safetensors.index.json: shard model-00002-of-00002.safetensors", "tensor ",
                  "not in the folder"});
}

TEST_F(LoadErrors, AnIndexThatEscapesTheFolder) {
  write();
  for (const char* shard : {"../model.safetensors", "/etc/passwd", "sub/model.safetensors", "..", ".", "",
                            "a\\\\b", "..\\\\x", "a\\u0000b"}) {
    SCOPED_TRACE(shard);
    dir_.write("model.safetensors.index.json",
               fmt::format(R"({{"weight_map": {{"norm.weight": "{}"}}}})", shard));
    expect_refused({"model.safetensors.index.json: tensor norm.weight", "not a plain file name"});
  }
}

TEST_F(LoadErrors, ATensorListedInAShardThatDoesNotHoldIt) {
  write_shards(dir_, tensors_, 2);
  std::string index = dir_.read("model.safetensors.index.json");
  size_t at = index.find("-00001-of-00002", index.find("\"embed.weight\""));
  dir_.write("model.safetensors.index.json", index.replace(at, 15, "-00002-of-00002"));
  expect_refused({"model-00002-of-00002.safetensors: tensor embed.weight: not in this file"});
}

TEST_F(LoadErrors, AnIndexThatIsNoIndex) {
  write();
  auto refuse = [&](const std::string& json, std::initializer_list<std::string_view> words) {
    dir_.write("model.safetensors.index.json", json);
    expect_refused(words);
  };
  refuse("", {"index.json", "empty"});
  refuse("{", {"index.json", "not valid JSON"});
  refuse("[]", {"index.json", "expected an object"});
  refuse("{}", {"index.json", "missing key weight_map"});
  refuse(R"({"weight_map": []})", {"weight_map is an array"});
  refuse(R"({"weight_map": {"a": 1}})", {"tensor a", "expected a file name"});
  refuse(R"({"weight_map": {"norm.weight": "model.safetensors", "norm.weight": "model.safetensors"}})",
         {"tensor norm.weight appears twice"});
  refuse(std::string(100000, '[') + std::string(100000, ']'), {"index.json", "deeper than 8"});
}

TEST_F(LoadErrors, ATokenTableWithAnExpertThatIsNotThere) {
  RawTensor& table = tensor_named(tensors_, "layers.0.ffn.gate.tid2eid");
  for (int64_t id : {int64_t{4}, int64_t{-1}, int64_t{1} << 32}) {
    std::memcpy(table.bytes.data() + 8 * (2 * 17 + 1), &id, 8);
    write();
    expect_refused(
        {"tensor layers.0.ffn.gate.tid2eid", "token 17", fmt::format("expert {}", id), "expected 0 to 3"});
  }
}

TEST_F(LoadErrors, AVectorWithNan) {
  tensor_named(tensors_, "layers.1.attn_norm.weight").bytes[7] = std::byte{0x7f};
  tensor_named(tensors_, "layers.1.attn_norm.weight").bytes[6] = std::byte{0xc0};
  write();
  expect_refused({"tensor layers.1.attn_norm.weight", "element 3 is nan"});
}

TEST_F(LoadErrors, AV41CheckpointByItsTensors) {
  tensors_.push_back(zeros("layers.1.engram.table.weight", DType::kF8E4M3, {2, 2}));
  write();
  expect_refused({"tensor layers.1.engram.table.weight", "DeepSeek-V4.1", "not supported"},
                 ErrorCode::kUnsupported);
}

TEST_F(LoadErrors, FusedExpertsOfAnotherNumber) {
  tensors_ = transformers_tensors(tensors_);
  tensor_named(tensors_, "model.layers.1.mlp.experts.down_proj") =
      zeros("model.layers.1.mlp.experts.down_proj", DType::kI8, {3, 128, 64});
  write();
  expect_refused({"tensor model.layers.1.mlp.experts.down_proj", "I8 [3, 128, 64]", "expected I8 [128, 64]"});
}

}  // namespace
}  // namespace kvasir
