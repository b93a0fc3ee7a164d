// The inventory of the published checkpoints, to the byte (spec 9.2), and the two spellings of every name.
#include "model/tensor_table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "model/checkpoint_names.h"
#include "model/inspection.h"

namespace kvasir {
namespace {

struct Totals {
  int64_t tensors, bytes, mtp_tensors, bytes_without_mtp;
  std::map<DType, int64_t> by_dtype;
  int64_t parameters, parameters_without_mtp;
  double active_blocks, with_head, with_embed, read_gb, experts_gb, rest_gb;
};

void expect_totals(const ModelConfig& config, const Totals& want) {
  Inventory got = official_inventory(config);
  EXPECT_EQ(got.trunk.tensors + got.mtp.tensors, want.tensors);
  EXPECT_EQ(got.trunk.bytes + got.mtp.bytes, want.bytes);
  EXPECT_EQ(got.mtp.tensors, want.mtp_tensors);
  EXPECT_EQ(got.trunk.bytes, want.bytes_without_mtp);
  int64_t tensors = 0, bytes = 0;
  for (const auto& [dtype, amount] : got.by_dtype) {
    EXPECT_EQ(amount.tensors, want.by_dtype.at(dtype)) << dtype_name(dtype);
    tensors += amount.tensors;
    bytes += amount.bytes;
  }
  EXPECT_EQ(tensors, want.tensors);
  EXPECT_EQ(bytes, want.bytes);
  EXPECT_EQ(got.trunk.parameters, want.parameters_without_mtp);
  EXPECT_EQ(got.trunk.parameters + got.mtp.parameters, want.parameters);
  auto billions = [](int64_t n) { return std::round(static_cast<double>(n) / 1e7) / 100; };
  EXPECT_DOUBLE_EQ(billions(got.active_blocks), want.active_blocks);
  EXPECT_DOUBLE_EQ(billions(got.active_blocks + got.active_head), want.with_head);
  EXPECT_DOUBLE_EQ(billions(got.active_blocks + got.active_head + got.active_embed), want.with_embed);
  EXPECT_DOUBLE_EQ(billions(got.read_per_token), want.read_gb);
  int64_t experts = got.parts[static_cast<size_t>(Part::kExperts)].bytes;
  auto gigabytes = [](int64_t n) { return std::round(static_cast<double>(n) / 1e6) / 1000; };
  EXPECT_DOUBLE_EQ(gigabytes(experts), want.experts_gb);
  EXPECT_DOUBLE_EQ(gigabytes(got.trunk.bytes - experts), want.rest_gb);
}

TEST(TensorTable, FlashAddsUpToThePublishedTotals) {
  expect_totals(flash_config(), {69187,
                                 159609485896,
                                 1575,
                                 156015698140,
                                 {{DType::kBF16, 433},
                                  {DType::kF32, 417},
                                  {DType::kF8E4M3, 375},
                                  {DType::kF8E8M0, 34167},
                                  {DType::kI64, 3},
                                  {DType::kI8, 33792}},
                                 290944616402,
                                 284334567511,
                                 12.74,
                                 13.27,
                                 13.80,
                                 11.22,
                                 147.170,
                                 8.846});
}

TEST(TensorTable, ProAddsUpToThePublishedTotals) {
  // Parameters: the published total of Pro-0813, 1,650,497,936,906, less its DSpark blocks (dspark.md 3.3),
  // is the trunk.
  expect_totals(pro_config(), {145116,
                               864704792696,
                               2343,
                               850748205004,
                               {{DType::kBF16, 619},
                                {DType::kF32, 590},
                                {DType::kF8E4M3, 528},
                                {DType::kF8E8M0, 71952},
                                {DType::kI64, 3},
                                {DType::kI8, 71424}},
                               1598839674782,
                               1650497936906 - 77498408103,
                               47.93,
                               48.85,
                               49.78,
                               39.67,
                               822.054,
                               28.694});
}

TEST(TensorTable, OneRoutedExpertHasThePublishedBytes) {
  for (auto [config, bytes] : {std::pair{flash_config(), 13369344}, std::pair{pro_config(), 35094528}}) {
    Inventory i = official_inventory(config);
    EXPECT_EQ(i.parts[static_cast<size_t>(Part::kExperts)].bytes / config.num_layers / config.num_experts,
              bytes);
  }
}

const TensorEntry& entry(const std::vector<TensorEntry>& all, std::string_view name) {
  for (const TensorEntry& e : all) {
    if (e.name == name) return e;
  }
  ADD_FAILURE() << "no entry " << name;
  return all[0];
}

TEST(Traps, Trap24WoAIsGroupedAndTwoDimensional) {
  // [G*R, H/G*D], not [.., H*D]: spec 9.1.
  for (auto [config, rows] : {std::pair{flash_config(), 8192}, std::pair{pro_config(), 16384}}) {
    Model model;
    model.config = config;
    shape_model(model);
    std::vector<TensorEntry> all = list_tensors(model);
    StoredShape wo_a = official_weight(entry(all, "layers.0.attn.wo_a.weight"));
    EXPECT_EQ(wo_a.size, (std::array<int64_t, 2>{rows, 4096}));
    EXPECT_EQ(tile_scale(entry(all, "layers.0.attn.wo_a.weight")).size,
              (std::array<int64_t, 2>{rows / 128, 32}));
  }
}

TEST(TensorTable, NamesAreUniqueAndSlotsTooInBothSpellings) {
  Model model;
  model.config = with_layers(flash_config(), 4);
  shape_model(model);
  std::set<std::string> official;
  std::set<std::string> transformers;
  std::set<const void*> slots;
  for (const TensorEntry& e : list_tensors(model)) {
    EXPECT_TRUE(official.insert(e.name).second) << e.name;
    const void* slot = std::visit([](auto* p) { return static_cast<const void*>(p); }, e.slot);
    EXPECT_TRUE(slots.insert(slot).second) << e.name;
    std::vector<StoredName> names = transformers_names(e.name);
    if (e.layer == model.config.num_layers) {
      EXPECT_TRUE(names.empty()) << e.name;
      continue;
    }
    ASSERT_FALSE(names.empty()) << e.name;
    for (const StoredName& n : names) {
      std::string key =
          n.name + "#" + std::to_string(n.expert) + "#" + std::to_string(static_cast<int>(n.part));
      EXPECT_TRUE(transformers.insert(key).second) << key;
    }
  }
}

TEST(CheckpointNames, FollowTheTableOfTheSpecification) {
  auto first = [](std::string_view official) {
    std::vector<StoredName> names = transformers_names(official);
    return names.empty() ? std::string() : names[0].name;
  };
  EXPECT_EQ(first("embed.weight"), "model.embed_tokens.weight");
  EXPECT_EQ(first("hc_head_scale"), "model.hc_head.hc_scale");
  EXPECT_EQ(first("layers.7.attn_norm.weight"), "model.layers.7.input_layernorm.weight");
  EXPECT_EQ(first("layers.7.hc_ffn_scale"), "model.layers.7.ffn_hc.scale");
  EXPECT_EQ(first("layers.7.attn.attn_sink"), "model.layers.7.self_attn.sinks");
  EXPECT_EQ(first("layers.12.attn.wq_a.weight"), "model.layers.12.self_attn.q_a_proj.weight");
  EXPECT_EQ(first("layers.12.attn.wq_a.scale"), "model.layers.12.self_attn.q_a_proj.weight_scale_inv");
  EXPECT_EQ(first("layers.2.attn.compressor.ape"), "model.layers.2.self_attn.compressor.position_bias");
  EXPECT_EQ(first("layers.2.attn.indexer.compressor.norm.weight"),
            "model.layers.2.self_attn.compressor.indexer.kv_norm.weight");
  EXPECT_EQ(first("layers.0.ffn.gate.tid2eid"), "model.layers.0.mlp.gate.tid2eid");
  EXPECT_EQ(first("layers.3.ffn.gate.bias"), "model.layers.3.mlp.gate.e_score_correction_bias");
  EXPECT_EQ(first("layers.3.ffn.gate.weight"), "model.layers.3.mlp.gate.weight");
  EXPECT_EQ(first("layers.3.ffn.shared_experts.w2.scale"),
            "model.layers.3.mlp.shared_experts.down_proj.weight_scale_inv");
  EXPECT_EQ(first("mtp.0.norm.weight"), "");
  EXPECT_EQ(first("layers.x.attn_norm.weight"), "");
  EXPECT_EQ(first("layers.3.ffn.experts.5.w4.weight"), "");

  std::vector<StoredName> older = transformers_names("layers.2.attn.indexer.weights_proj.weight");
  ASSERT_EQ(older.size(), 2u);
  EXPECT_EQ(older[0].name, "model.layers.2.self_attn.compressor.indexer.scorer.weights_proj.weight");
  EXPECT_EQ(older[1].name, "model.layers.2.self_attn.compressor.indexer.weights_proj.weight");

  StoredName up = transformers_names("layers.3.ffn.experts.5.w3.weight")[0];
  EXPECT_EQ(up.name, "model.layers.3.mlp.experts.gate_up_proj");
  EXPECT_EQ(up.part, StoredPart::kExpertLastHalf);
  EXPECT_EQ(up.expert, 5);
  EXPECT_EQ(transformers_names("layers.3.ffn.experts.5.w2.scale")[0].name,
            "model.layers.3.mlp.experts.down_proj_scale_inv");
}

}  // namespace
}  // namespace kvasir
