// What load_checkpoint binds: the same weights whatever the spelling and however many the shards.
#include "model/load.h"

#include <gtest/gtest.h>

#include <cstring>

#include "model/checkpoint_fixture.h"
#include "model/tensor_table.h"

namespace kvasir {
namespace {

Model tiny_model(uint64_t seed = 7) {
  auto model = make_synthetic(tiny_config(), seed, 1, nullptr);
  KVASIR_CHECK(model, "{}", model.error().message);
  return std::move(*model);
}

// Every tensor of two models, byte for byte.
void expect_identical(Model& a, Model& b) {
  std::vector<TensorEntry> all_a = list_tensors(a), all_b = list_tensors(b);
  ASSERT_EQ(all_a.size(), all_b.size());
  auto same = [](const void* x, const void* y, int64_t bytes) {
    return std::memcmp(x, y, static_cast<size_t>(bytes)) == 0;
  };
  for (size_t i = 0; i < all_a.size(); ++i) {
    SCOPED_TRACE(all_a[i].name);
    ASSERT_EQ(all_a[i].name, all_b[i].name);
    if (auto* x = std::get_if<WeightMatrix*>(&all_a[i].slot)) {
      const WeightMatrix &m = **x, &n = **std::get_if<WeightMatrix*>(&all_b[i].slot);
      ASSERT_EQ(m.format, n.format);
      ASSERT_EQ(m.rows, n.rows);
      ASSERT_EQ(m.cols, n.cols);
      int64_t data = m.rows * m.data_row_bytes();
      EXPECT_TRUE(same(m.data, n.data, data));
      if (m.scale) {
        EXPECT_TRUE(same(m.scale, n.scale, m.bytes() - data));
      }
    } else if (auto* v = std::get_if<View<const float, 1>*>(&all_a[i].slot)) {
      const auto& w = **std::get_if<View<const float, 1>*>(&all_b[i].slot);
      ASSERT_EQ((*v)->shape(), w.shape());
      EXPECT_TRUE(same((*v)->data(), w.data(), w.count() * 4));
    } else if (auto* f = std::get_if<View<const float, 2>*>(&all_a[i].slot)) {
      const auto& w = **std::get_if<View<const float, 2>*>(&all_b[i].slot);
      ASSERT_EQ((*f)->shape(), w.shape());
      EXPECT_TRUE(same((*f)->data(), w.data(), w.count() * 4));
    } else {
      const auto& t = **std::get_if<View<const int32_t, 2>*>(&all_a[i].slot);
      const auto& u = **std::get_if<View<const int32_t, 2>*>(&all_b[i].slot);
      ASSERT_EQ(t.shape(), u.shape());
      EXPECT_TRUE(same(t.data(), u.data(), u.count() * 4));
    }
  }
}

LoadedModel load(const TempDir& dir, const LoadOptions& options = {}) {
  auto loaded = load_checkpoint(dir.path(), options);
  KVASIR_CHECK(loaded, "{}", loaded.error().message);
  return std::move(*loaded);
}

bool mentions(const std::vector<std::string>& notes, std::string_view text) {
  for (const std::string& n : notes) {
    if (n.find(text) != std::string::npos) return true;
  }
  return false;
}

TEST(Load, BindsTheOfficialSpellingBitForBit) {
  Model model = tiny_model();
  TempDir dir;
  dir.write("config.json", official_config_json(model.config));
  write_tensors(dir, "model.safetensors", official_tensors(model));
  LoadedModel loaded = load(dir);
  EXPECT_TRUE(loaded.notes.empty()) << loaded.notes[0];
  EXPECT_EQ(loaded.revision, ChatRevision::kA);
  ASSERT_NE(loaded.model.mtp, nullptr);
  expect_identical(model, loaded.model);
  EXPECT_EQ(loaded.model.layers[2].kind, AttentionKind::kCsa);
  EXPECT_EQ(loaded.model.mtp->block.kind, AttentionKind::kSwa);
  EXPECT_TRUE(loaded.model.layers[1].moe.tid2eid.empty());
  EXPECT_TRUE(loaded.model.layers[0].moe.bias.empty());
}

TEST(Load, BindsTheTransformersSpellingToTheSameBits) {
  Model model = tiny_model();
  TempDir dir;
  dir.write("config.json", transformers_config_json(model.config));
  std::vector<RawTensor> tensors = transformers_tensors(official_tensors(model));
  write_tensors(dir, "model.safetensors", tensors);
  LoadedModel loaded = load(dir);
  EXPECT_TRUE(loaded.notes.empty()) << loaded.notes[0];
  expect_identical(model, loaded.model);

  tensor_named(tensors, "model.layers.2.self_attn.compressor.indexer.scorer.weights_proj.weight").name =
      "model.layers.2.self_attn.compressor.indexer.weights_proj.weight";  // earlier 5.x
  write_tensors(dir, "model.safetensors", tensors);
  LoadedModel older = load(dir);
  expect_identical(model, older.model);
}

TEST(Load, BindsShards) {
  Model model = tiny_model();
  TempDir dir;
  dir.write("config.json", official_config_json(model.config));
  write_shards(dir, official_tensors(model), 3);
  LoadedModel loaded = load(dir);
  EXPECT_TRUE(loaded.notes.empty()) << loaded.notes[0];
  expect_identical(model, loaded.model);
  LoadedModel again = load(dir);
  Model moved = std::move(again.model);  // views survive a move
  expect_identical(model, moved);
}

TEST(Load, LeavesBigMatricesInTheMapping) {
  Model model = tiny_model();
  TempDir dir;
  dir.write("config.json", official_config_json(model.config));
  write_tensors(dir, "model.safetensors", official_tensors(model));
  LoadedModel loaded = load(dir);
  auto in_owned = [&](const void* p) {
    for (const Buffer& b : loaded.model.owned) {
      if (p >= b.data() && p < b.data() + b.size()) return true;
    }
    return false;
  };
  for (const TensorEntry& e : list_tensors(loaded.model)) {
    if (auto* m = std::get_if<WeightMatrix*>(&e.slot)) {
      EXPECT_FALSE(in_owned((*m)->data)) << e.name;
      if ((*m)->scale) {
        EXPECT_FALSE(in_owned((*m)->scale)) << e.name;
      }
    }
  }
  EXPECT_TRUE(in_owned(loaded.model.norm.data()));
}

TEST(Load, BindsFp8ExpertsByTheirDtype) {
  // -Base: no word of it in the config.
  Model model = tiny_model();
  std::vector<RawTensor> tensors = official_tensors(model);
  for (const char* w : {"w1", "w2", "w3"}) {
    std::string stem = std::string("layers.1.ffn.experts.2.") + w;
    tensor_named(tensors, stem + ".weight") = zeros(stem + ".weight", DType::kF8E4M3, {128, 128});
    tensor_named(tensors, stem + ".scale") = zeros(stem + ".scale", DType::kF8E8M0, {1, 1});
  }
  TempDir dir;
  dir.write("config.json", official_config_json(model.config));
  write_tensors(dir, "model.safetensors", tensors);
  LoadedModel loaded = load(dir);
  EXPECT_EQ(loaded.model.layers[1].moe.experts[2].w1.format, WeightFormat::kFp8Block128);
  EXPECT_EQ(loaded.model.layers[1].moe.experts[3].w1.format, WeightFormat::kFp4Group32);
}

TEST(Load, TakesTheFloatDtypesThatTrainingLeavesInTransformersSaves) {
  Model model = tiny_model();
  std::vector<RawTensor> tensors = transformers_tensors(official_tensors(model));
  tensor_named(tensors, "model.layers.0.self_attn.q_a_proj.weight") =
      zeros("model.layers.0.self_attn.q_a_proj.weight", DType::kBF16, {64, 128});
  drop_tensor(tensors, "model.layers.0.self_attn.q_a_proj.weight_scale_inv");
  tensor_named(tensors, "model.layers.1.mlp.experts.down_proj") =
      zeros("model.layers.1.mlp.experts.down_proj", DType::kF32, {4, 128, 128});
  drop_tensor(tensors, "model.layers.1.mlp.experts.down_proj_scale_inv");
  tensor_named(tensors, "model.norm.weight") = zeros("model.norm.weight", DType::kF32, {128});
  TempDir dir;
  dir.write("config.json", transformers_config_json(model.config));
  write_tensors(dir, "model.safetensors", tensors);
  LoadedModel loaded = load(dir);
  EXPECT_EQ(loaded.model.layers[0].attn.wq_a.format, WeightFormat::kBf16);
  EXPECT_EQ(loaded.model.layers[1].moe.experts[3].w2.format, WeightFormat::kF32);
  EXPECT_EQ(loaded.model.norm(5), 0.f);
}

TEST(Load, CopiesWhatTheFileMisaligns) {
  Model model = tiny_model();
  std::vector<RawTensor> tensors = official_tensors(model);
  tensors.insert(tensors.begin(), zeros("odd", DType::kU8, {1}));
  TempDir dir;
  dir.write("config.json", official_config_json(model.config));
  write_in_order(dir, "model.safetensors", tensors);
  LoadedModel loaded = load(dir);
  expect_identical(model, loaded.model);
  ASSERT_EQ(loaded.notes.size(), 2u);
  EXPECT_TRUE(mentions(loaded.notes, "tensor embed.weight: not aligned"));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(loaded.model.embed.data) % 2, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(loaded.model.hc_head.fn.data()) % 4, 0u);
}

TEST(Traps, Trap22E8m0ScalesAreBytes) {
  // Byte 120 is 2^-7, not 120.
  Model model = tiny_model();
  std::vector<RawTensor> tensors = official_tensors(model);
  RawTensor& weight = tensor_named(tensors, "layers.0.attn.wkv.weight");
  weight.bytes[0] = static_cast<std::byte>(float_to_e4m3(1.5f));
  tensor_named(tensors, "layers.0.attn.wkv.scale").bytes[0] = std::byte{120};
  TempDir dir;
  dir.write("config.json", official_config_json(model.config));
  write_tensors(dir, "model.safetensors", tensors);
  LoadedModel loaded = load(dir);
  std::vector<float> row(128);
  dequantise_row(loaded.model.layers[0].attn.wkv, 0, row.data());
  EXPECT_EQ(row[0], 1.5f / 128);
}

TEST(Traps, Trap23LowNibbleFirstAndGateBeforeUp) {
  // Byte 0x21 -> (0.5, 1.0); w1 is the gate and w3 the up projection, also in transformers' fused tensor.
  Model model = tiny_model();
  std::vector<RawTensor> tensors = official_tensors(model);
  auto set = [&](const char* name, std::byte value, std::byte scale) {
    RawTensor& w = tensor_named(tensors, std::string(name) + ".weight");
    std::fill(w.bytes.begin(), w.bytes.end(), value);
    RawTensor& s = tensor_named(tensors, std::string(name) + ".scale");
    std::fill(s.bytes.begin(), s.bytes.end(), scale);
  };
  set("layers.3.ffn.experts.1.w1", std::byte{0x21}, std::byte{127});
  set("layers.3.ffn.experts.1.w3", std::byte{0x76}, std::byte{128});
  for (bool transformers : {false, true}) {
    TempDir dir;
    dir.write("config.json", official_config_json(model.config));
    write_tensors(dir, "model.safetensors", transformers ? transformers_tensors(tensors) : tensors);
    LoadedModel loaded = load(dir);
    const ExpertWeights& e = loaded.model.layers[3].moe.experts[1];
    std::vector<float> row(128);
    dequantise_row(e.w1, 127, row.data());
    EXPECT_EQ(row[0], 0.5f);
    EXPECT_EQ(row[1], 1.0f);
    dequantise_row(e.w3, 0, row.data());
    EXPECT_EQ(row[126], 8.0f);
    EXPECT_EQ(row[127], 12.0f);
  }
}

TEST(Traps, Trap26Tid2eidIsI64) {
  Model model = tiny_model();
  std::vector<RawTensor> tensors = official_tensors(model);
  RawTensor& table = tensor_named(tensors, "layers.0.ffn.gate.tid2eid");
  EXPECT_EQ(table.dtype, DType::kI64);
  std::vector<int64_t> ids(96 * 2);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>(i * i % 4);
  ids[2 * 50] = ids[2 * 50 + 1] = 3;  // a repeated expert is allowed
  std::memcpy(table.bytes.data(), ids.data(), ids.size() * 8);
  TempDir dir;
  dir.write("config.json", official_config_json(model.config));
  write_tensors(dir, "model.safetensors", tensors);
  LoadedModel loaded = load(dir);
  View<const int32_t, 2> got = loaded.model.layers[0].moe.tid2eid;
  ASSERT_EQ(got.shape(0), 96);
  ASSERT_EQ(got.shape(1), 2);
  for (int64_t token = 0; token < 96; ++token) {
    for (int64_t k = 0; k < 2; ++k) EXPECT_EQ(got(token, k), ids[static_cast<size_t>(token * 2 + k)]);
  }
}

TEST(Load, WithoutMtpTensorsTheTrunkLoadsAndSaysSo) {
  Model model = tiny_model();
  std::vector<RawTensor> tensors = official_tensors(model);
  std::erase_if(tensors, [](const RawTensor& t) { return t.name.starts_with("mtp."); });
  TempDir dir;
  dir.write("config.json", official_config_json(model.config));
  write_tensors(dir, "model.safetensors", tensors);
  LoadedModel loaded = load(dir);
  EXPECT_EQ(loaded.model.mtp, nullptr);
  EXPECT_EQ(loaded.model.config.num_mtp, 0);
  EXPECT_TRUE(mentions(loaded.notes, "no MTP tensors"));
}

TEST(Load, DsparkDraftBlocksAreRecognisedAndLeftAside) {
  Model model = tiny_model();
  std::vector<RawTensor> tensors = official_tensors(model);
  std::erase_if(tensors, [](const RawTensor& t) {
    return t.name.starts_with("mtp.") && t.name.find("e_proj") != std::string::npos;
  });
  tensors.push_back(zeros("mtp.0.main_proj.weight", DType::kF8E4M3, {128, 384}));
  tensors.push_back(zeros("mtp.2.markov_head.markov_w1.weight", DType::kBF16, {96, 16}));
  ModelConfig config = model.config;
  config.compress_ratios.resize(7, 0);  // 4 layers + 3 stages, while num_nextn_predict_layers says 1
  TempDir dir;
  dir.write("config.json", official_config_json(config));
  write_tensors(dir, "model.safetensors", tensors);
  LoadedModel loaded = load(dir);
  EXPECT_EQ(loaded.model.mtp, nullptr);
  EXPECT_EQ(loaded.revision, ChatRevision::kB);
  ASSERT_EQ(loaded.notes.size(), 1u);
  EXPECT_TRUE(mentions(loaded.notes, "DSpark draft blocks (mtp.*) are not used yet"));
}

TEST(Load, TheFolderNameOfANewReleaseMeansRevisionB) {
  Model model = tiny_model();
  TempDir outer;
  for (const char* name : {"DeepSeek-V4-Flash-0731", "DeepSeek-V4-Flash"}) {
    std::filesystem::create_directory(outer.file(name));
    std::ofstream(outer.file(name) + "/config.json") << official_config_json(model.config);
    write_tensors(outer, std::string(name) + "/model.safetensors", official_tensors(model));
    auto loaded = load_checkpoint(outer.file(name) + "/", {});
    ASSERT_TRUE(loaded) << loaded.error().message;
    EXPECT_EQ(loaded->revision == ChatRevision::kB, std::string_view(name).ends_with("0731"));
  }
}

TEST(Load, UnknownTensorsAndKeysAreNotes) {
  Model model = tiny_model();
  std::vector<RawTensor> tensors = official_tensors(model);
  tensors.push_back(zeros("layers.0.surprise.weight", DType::kF32, {2}));
  std::string config = official_config_json(model.config);
  config.insert(1, "\"surprise\": 1, ");
  TempDir dir;
  dir.write("config.json", config);
  write_tensors(dir, "model.safetensors", tensors);
  LoadedModel loaded = load(dir);
  EXPECT_EQ(loaded.notes.size(), 2u);
  EXPECT_TRUE(mentions(loaded.notes, "unknown key surprise"));
  EXPECT_TRUE(mentions(loaded.notes, "layers.0.surprise.weight"));
}

class CountingSink final : public ProgressSink {
 public:
  void begin(std::string_view, ProgressUnit unit, int64_t total) override {
    EXPECT_EQ(unit, ProgressUnit::kBytes);
    total_ = total;
  }
  void tick(int64_t done) override {
    EXPECT_GE(done, done_);
    done_ = done;
  }
  void end() override { ++ended_; }
  int64_t total_ = -1, done_ = 0;
  int ended_ = 0;
};

TEST(Load, PrefetchReportsEveryByteOnce) {
  Model model = tiny_model();
  std::vector<RawTensor> tensors = official_tensors(model);
  int64_t bytes = 0;
  for (const RawTensor& t : tensors) bytes += static_cast<int64_t>(t.bytes.size());
  tensors.push_back(zeros("unused", DType::kF32, {1000}));
  TempDir dir;
  dir.write("config.json", official_config_json(model.config));
  write_tensors(dir, "model.safetensors", tensors);
  CountingSink sink;
  LoadedModel loaded = load(dir, {true, &sink});
  EXPECT_EQ(sink.total_, bytes);
  EXPECT_EQ(sink.done_, bytes);
  EXPECT_EQ(sink.ended_, 1);
}

}  // namespace
}  // namespace kvasir
