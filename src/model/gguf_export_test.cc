// Exported files read back: every name, shape and value of every type against the model they came from, and
// the keys against its config.
#include "model/gguf_export.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>

#include "io/gguf_reader_test.h"
#include "io/temp_dir.h"
#include "model/checkpoint_fixture.h"

namespace kvasir {
namespace {

Model tiny_model(ModelConfig config = tiny_config()) {
  auto model = make_synthetic(config, 7, 1, nullptr);
  KVASIR_CHECK(model, "{}", model.error().message);
  return std::move(*model);
}

// The file's bytes.
std::string exported(Model& model, const GgufExportOptions& options) {
  TempDir dir;
  GgufMetadata metadata;
  add_architecture(model.config, options, metadata);
  auto report = export_gguf(model, metadata, dir.file("x.gguf"), options);
  EXPECT_TRUE(report) << report.error().message;
  return dir.read("x.gguf");
}

float half_to_float(uint16_t h) {
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  return exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                       : std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
}

// The first `count` values of a tensor of any type.
std::vector<float> values_of(const GgufRead& t, size_t count) {
  if (t.type == 0) return t.floats(count);
  std::vector<float> out;
  const auto* p = reinterpret_cast<const uint8_t*>(t.bytes.data());
  for (size_t i = 0; i < count; ++i) {
    const size_t block = i / 32, j = i % 32;
    uint16_t two = 0;
    if (t.type == 30) {
      std::memcpy(&two, p + 2 * i, 2);
      out.push_back(to_float(bf16{two}));
    } else if (t.type == 8) {
      std::memcpy(&two, p + 34 * block, 2);
      out.push_back(half_to_float(two) * static_cast<float>(static_cast<int8_t>(p[34 * block + 2 + j])));
    } else if (t.type == 39) {
      const uint8_t byte = p[17 * block + 1 + j % 16];
      out.push_back(e2m1_to_float(j < 16 ? byte & 15 : byte >> 4) * e8m0_to_float(p[17 * block]));
    } else {
      ADD_FAILURE() << "type " << t.type;
      return out;
    }
  }
  return out;
}

std::vector<float> values_of(const WeightMatrix& w) {
  std::vector<float> out(static_cast<size_t>(w.rows * w.cols));
  for (int64_t r = 0; r < w.rows; ++r) dequantise_row(w, r, out.data() + r * w.cols);
  return out;
}

// `seen` is `expected` within `share` of the largest of its block of 32.
void expect_near(const std::vector<float>& seen, const std::vector<float>& expected, float share,
                 const char* what) {
  ASSERT_EQ(seen.size(), expected.size()) << what;
  for (size_t i = 0; i < seen.size(); ++i) {
    float max = 0;
    for (size_t k = i / 32 * 32; k < std::min(i / 32 * 32 + 32, seen.size()); ++k)
      max = std::max(max, std::fabs(expected[k]));
    ASSERT_LE(std::fabs(seen[i] - expected[i]), share * max)
        << what << " value " << i << ": " << seen[i] << ", expected " << expected[i];
  }
}

struct Case {
  GgufWeights weights;
  uint32_t dense, plain, experts;  // types of FP8, of BF16 and of expert matrices
  float dense_share, expert_share;
};

class GgufExport : public testing::TestWithParam<Case> {};

TEST_P(GgufExport, EveryMatrixComesBackAsItsTypeAllows) {
  const Case c = GetParam();
  Model model = tiny_model();
  std::string file = exported(model, {.weights = c.weights, .mtp = true});
  GgufReader read(file);
  ASSERT_FALSE(read.failed());
  auto check = [&](const std::string& name, const WeightMatrix& w, uint32_t type, float share) {
    ASSERT_EQ(read.tensors.count(name), 1u) << name;
    const GgufRead& t = read.tensors[name];
    EXPECT_EQ(t.type, type) << name;
    EXPECT_EQ(t.dims, (std::vector<uint64_t>{static_cast<uint64_t>(w.cols), static_cast<uint64_t>(w.rows)}))
        << name;
    expect_near(values_of(t, static_cast<size_t>(w.rows * w.cols)), values_of(w), share, name.c_str());
  };
  check("token_embd.weight", model.embed, c.plain, 0);
  check("output.weight", model.head, c.plain, 0);
  const LayerWeights& csa = model.layers[2];
  check("blk.2.attn_q_a.weight", csa.attn.wq_a, c.dense, c.dense_share);
  check("blk.2.attn_q_b.weight", csa.attn.wq_b, c.dense, c.dense_share);
  check("blk.2.attn_kv.weight", csa.attn.wkv, c.dense, c.dense_share);
  check("blk.2.attn_output_a.weight", csa.attn.wo_a, c.dense, c.dense_share);
  check("blk.2.attn_output_b.weight", csa.attn.wo_b, c.dense, c.dense_share);
  check("blk.2.attn_compressor_kv.weight", csa.attn.compressor.wkv, c.plain, 0);
  check("blk.2.attn_compressor_gate.weight", csa.attn.compressor.wgate, c.plain, 0);
  check("blk.2.indexer.attn_q_b.weight", csa.attn.indexer.wq_b, c.dense, c.dense_share);
  check("blk.2.indexer.proj.weight", csa.attn.indexer.weights_proj, c.plain, 0);
  check("blk.2.indexer_compressor_kv.weight", csa.attn.indexer.compressor.wkv, c.plain, 0);
  check("blk.2.indexer_compressor_gate.weight", csa.attn.indexer.compressor.wgate, c.plain, 0);
  check("blk.3.ffn_gate_inp.weight", model.layers[3].moe.gate, c.plain, 0);
  check("blk.3.ffn_gate_shexp.weight", model.layers[3].moe.shared.w1, c.dense, c.dense_share);
  check("blk.3.ffn_up_shexp.weight", model.layers[3].moe.shared.w3, c.dense, c.dense_share);
  check("blk.3.ffn_down_shexp.weight", model.layers[3].moe.shared.w2, c.dense, c.dense_share);
}

TEST_P(GgufExport, ExpertsAreStackedInTheOrderOfTheirIds) {
  const Case c = GetParam();
  Model model = tiny_model();
  std::string file = exported(model, {.weights = c.weights});
  GgufReader read(file);
  ASSERT_FALSE(read.failed());
  for (auto [name, matrix] : {std::pair{"blk.1.ffn_gate_exps.weight", &ExpertWeights::w1},
                              {"blk.1.ffn_up_exps.weight", &ExpertWeights::w3},
                              {"blk.1.ffn_down_exps.weight", &ExpertWeights::w2}}) {
    const std::vector<ExpertWeights>& experts = model.layers[1].moe.experts;
    const WeightMatrix& first = experts[0].*matrix;
    std::vector<float> expected;
    for (const ExpertWeights& e : experts) {
      std::vector<float> one = values_of(e.*matrix);
      expected.insert(expected.end(), one.begin(), one.end());
    }
    const GgufRead& t = read.tensors[name];
    EXPECT_EQ(t.type, c.experts);
    EXPECT_EQ(t.dims, (std::vector<uint64_t>{static_cast<uint64_t>(first.cols),
                                             static_cast<uint64_t>(first.rows), experts.size()}))
        << name;
    expect_near(values_of(t, expected.size()), expected, c.expert_share, name);
  }
}

// Half a step of Q8_0 is 1/254 of the largest value, and its scale is off by at most 2^-11 of itself.
constexpr float kQ8Share = 0.5f / 127 + 0x1p-11f;
INSTANTIATE_TEST_SUITE_P(Types, GgufExport,
                         testing::Values(Case{GgufWeights::kF32, 0, 0, 0, 0, 0},
                                         Case{GgufWeights::kBf16, 30, 30, 30, 0, 0},
                                         Case{GgufWeights::kQ8_0, 8, 30, 8, kQ8Share, kQ8Share},
                                         Case{GgufWeights::kMxfp4, 8, 30, 39, kQ8Share, 0}));

TEST(GgufExport, VectorsAndTablesAreExactAndNothingIsMissing) {
  Model model = tiny_model();
  std::string file = exported(model, {.weights = GgufWeights::kQ8_0});
  GgufReader read(file);
  ASSERT_FALSE(read.failed());
  auto check = [&](const std::string& name, const float* values, std::vector<uint64_t> dims) {
    size_t count = 1;
    for (uint64_t d : dims) count *= d;
    const GgufRead& t = read.tensors[name];
    EXPECT_EQ(t.type, 0u) << name;
    EXPECT_EQ(t.dims, dims) << name;
    EXPECT_EQ(t.floats(count), std::vector<float>(values, values + count)) << name;
  };
  const LayerWeights& csa = model.layers[2];
  check("output_norm.weight", model.norm.data(), {128});
  check("output_hc_fn.weight", model.hc_head.fn.data(), {512, 4});
  check("output_hc_base.weight", model.hc_head.base.data(), {4});
  check("output_hc_scale.weight", model.hc_head.scale.data(), {1});
  check("blk.2.attn_norm.weight", csa.attn_norm.data(), {128});
  check("blk.2.ffn_norm.weight", csa.ffn_norm.data(), {128});
  check("blk.2.hc_attn_fn.weight", csa.attn_hc.fn.data(), {512, 24});
  check("blk.2.hc_ffn_fn.weight", csa.ffn_hc.fn.data(), {512, 24});
  check("blk.2.hc_ffn_base.weight", csa.ffn_hc.base.data(), {24});
  check("blk.2.hc_attn_scale.weight", csa.attn_hc.scale.data(), {3});
  check("blk.2.attn_q_a_norm.weight", csa.attn.q_norm.data(), {64});
  check("blk.2.attn_kv_a_norm.weight", csa.attn.kv_norm.data(), {128});
  check("blk.2.attn_sinks.weight", csa.attn.sink.data(), {4});
  check("blk.2.attn_compressor_ape.weight", csa.attn.compressor.ape.data(), {256, 4});
  check("blk.3.attn_compressor_ape.weight", model.layers[3].attn.compressor.ape.data(), {128, 128});
  check("blk.2.attn_compressor_norm.weight", csa.attn.compressor.norm.data(), {128});
  check("blk.2.indexer_compressor_norm.weight", csa.attn.indexer.compressor.norm.data(), {128});
  check("blk.3.exp_probs_b.bias", model.layers[3].moe.bias.data(), {4});
  const GgufRead& table = read.tensors["blk.0.ffn_gate_tid2eid.weight"];
  EXPECT_EQ(table.type, 26u);
  EXPECT_EQ(table.dims, (std::vector<uint64_t>{2, 96}));
  EXPECT_EQ(std::memcmp(table.bytes.data(), model.layers[0].moe.tid2eid.data(), 4 * 2 * 96), 0);
  // 24 tensors of a window layer, 4 more with a compressor, 6 more with an indexer; 6 at the top.
  EXPECT_EQ(read.tensors.size(), 6u + 4 * 24 + 2 * 4 + 6);
  EXPECT_EQ(read.tensors.count("blk.0.exp_probs_b.bias"), 0u);
  EXPECT_EQ(read.tensors.count("blk.4.attn_norm.weight"), 0u);  // MTP was not asked for
}

TEST(GgufExport, TheMtpBlockIsOneMoreLayerWithItsProjectionsJoinedEFirst) {
  Model model = tiny_model();
  std::string file = exported(model, {.weights = GgufWeights::kF32, .mtp = true});
  GgufReader read(file);
  ASSERT_FALSE(read.failed());
  EXPECT_EQ(read.number_of("deepseek4.block_count"), 5);
  EXPECT_EQ(read.number_of("deepseek4.nextn_predict_layers"), 1);
  EXPECT_EQ(read.values["deepseek4.swiglu_clamp_exp"].numbers.size(), 5u);
  const GgufRead& joined = read.tensors["blk.4.nextn.eh_proj.weight"];
  EXPECT_EQ(joined.dims, (std::vector<uint64_t>{256, 128}));
  std::vector<float> e = values_of(model.mtp->e_proj), h = values_of(model.mtp->h_proj),
                     seen = joined.floats(256 * 128);
  for (size_t r = 0; r < 128; ++r) {
    ASSERT_TRUE(std::equal(e.begin() + static_cast<long>(r * 128),
                           e.begin() + static_cast<long>(r * 128 + 128),
                           seen.begin() + static_cast<long>(r * 256)));
    ASSERT_TRUE(std::equal(h.begin() + static_cast<long>(r * 128),
                           h.begin() + static_cast<long>(r * 128 + 128),
                           seen.begin() + static_cast<long>(r * 256 + 128)));
  }
  EXPECT_EQ(read.tensors["blk.4.nextn.enorm.weight"].floats(128),
            std::vector<float>(model.mtp->enorm.data(), model.mtp->enorm.data() + 128));
  EXPECT_EQ(read.tensors["blk.4.nextn.shared_head_norm.weight"].dims, std::vector<uint64_t>{128});
  EXPECT_EQ(read.tensors.count("blk.4.exp_probs_b.bias"), 1u);
  EXPECT_EQ(read.tensors.size(), 6u + 4 * 24 + 2 * 4 + 6 + 24 + 4);
}

TEST(GgufExport, KeysSayWhatTheConfigSays) {
  ModelConfig c = flash_config();
  GgufMetadata metadata;
  add_architecture(c, {.weights = GgufWeights::kMxfp4}, metadata);
  TempDir dir;
  auto writer = GgufWriter::create(dir.file("x.gguf"), metadata, {});
  ASSERT_TRUE(writer && writer->finish());
  std::string file = dir.read("x.gguf");
  GgufReader read(file);
  ASSERT_FALSE(read.failed());
  EXPECT_EQ(read.values["general.architecture"].text(), "deepseek4");
  EXPECT_EQ(read.number_of("general.file_type"), 38);
  const std::pair<const char*, double> expected[] = {{"block_count", 43},
                                                     {"nextn_predict_layers", 0},
                                                     {"context_length", 1048576},
                                                     {"embedding_length", 4096},
                                                     {"vocab_size", 129280},
                                                     {"attention.head_count", 64},
                                                     {"attention.head_count_kv", 1},
                                                     {"attention.key_length", 512},
                                                     {"attention.value_length", 512},
                                                     {"rope.dimension_count", 64},
                                                     {"attention.q_lora_rank", 1024},
                                                     {"attention.sliding_window", 128},
                                                     {"attention.output_group_count", 8},
                                                     {"attention.output_lora_rank", 1024},
                                                     {"attention.compress_rope_freq_base", 160000},
                                                     {"attention.indexer.head_count", 64},
                                                     {"attention.indexer.key_length", 128},
                                                     {"attention.indexer.top_k", 512},
                                                     {"rope.freq_base", 10000},
                                                     {"rope.scaling.factor", 16},
                                                     {"rope.scaling.original_context_length", 65536},
                                                     {"rope.scaling.yarn_beta_fast", 32},
                                                     {"rope.scaling.yarn_beta_slow", 1},
                                                     {"expert_count", 256},
                                                     {"expert_used_count", 6},
                                                     {"expert_shared_count", 1},
                                                     {"expert_feed_forward_length", 2048},
                                                     {"expert_weights_scale", 1.5},
                                                     {"expert_weights_norm", 1},
                                                     {"expert_gating_func", 4},
                                                     {"hash_layer_count", 3},
                                                     {"hyper_connection.count", 4},
                                                     {"hyper_connection.sinkhorn_iterations", 20},
                                                     {"attention.layer_norm_rms_epsilon", 1e-6f},
                                                     {"hyper_connection.epsilon", 1e-6f}};
  for (const auto& [key, value] : expected)
    EXPECT_EQ(read.number_of(std::string("deepseek4.") + key), value) << key;
  EXPECT_EQ(read.values["deepseek4.rope.scaling.type"].text(), "yarn");
  EXPECT_EQ(read.values["deepseek4.swiglu_clamp_exp"].numbers, std::vector<double>(43, 10));
  EXPECT_EQ(read.values["deepseek4.swiglu_clamp_shexp"].numbers, std::vector<double>(43, 10));
  EXPECT_EQ(read.values["deepseek4.attention.compress_ratios"].numbers,
            std::vector<double>(c.compress_ratios.begin(), c.compress_ratios.end()));
}

TEST(GgufExport, RowsThatAreNotWholeBlocksAreRefusedByNameAndLeaveNoFile) {
  ModelConfig c = tiny_config();
  c.q_rank = 48;
  Model model = tiny_model(c);
  TempDir dir;
  auto report = export_gguf(model, {}, dir.file("x.gguf"), {.weights = GgufWeights::kQ8_0});
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().code, ErrorCode::kUnsupported);
  EXPECT_NE(report.error().message.find("blk.0.attn_q_b.weight: rows of 48 values"), std::string::npos)
      << report.error().message;
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
  EXPECT_TRUE(export_gguf(model, {}, dir.file("x.gguf"), {.weights = GgufWeights::kBf16}));
}

TEST(GgufExport, WeightsAboveTheRangeOfQ8ScalesAreRefused) {
  Model model = tiny_model();
  std::vector<float> huge(128 * 128, 1e8f);
  WeightMatrix& w = model.layers[0].attn.wkv;
  ASSERT_EQ(w.rows * w.cols, 128 * 128);
  w = {WeightFormat::kF32, 128, 128, huge.data(), nullptr};
  TempDir dir;
  auto report = export_gguf(model, {}, dir.file("x.gguf"), {.weights = GgufWeights::kQ8_0});
  ASSERT_FALSE(report);
  EXPECT_NE(report.error().message.find("blk.0.attn_kv.weight"), std::string::npos) << report.error().message;
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(GgufExport, AnMtpBlockThatIsNotThereCannotBeExported) {
  ModelConfig c = tiny_config();
  c.num_mtp = 0;
  Model model = tiny_model(c);
  TempDir dir;
  auto report = export_gguf(model, {}, dir.file("x.gguf"), {.mtp = true});
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().code, ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace kvasir
