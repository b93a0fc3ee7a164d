// The list itself. Read beside spec 9.1: one line here is one line there.
#include "model/tensor_table.h"

#include <fmt/core.h>

#include "base/check.h"

namespace kvasir {
namespace {

// Collects entries whose names share a prefix and whose layer is the same.
struct Scope {
  std::vector<TensorEntry>& out;
  std::string prefix;
  int layer;

  void add(std::string_view name, TensorKind kind, Part part, int64_t rows, int64_t cols, TensorSlot slot) {
    out.push_back({prefix + std::string(name), kind, part, layer, rows, cols, slot});
  }
  void norm(std::string_view name, int64_t n, View<const float, 1>& slot, Part part = Part::kNorms) {
    add(name, TensorKind::kBf16Vector, part, n, 1, &slot);
  }
  void vector(std::string_view name, Part part, int64_t n, View<const float, 1>& slot) {
    add(name, TensorKind::kF32Vector, part, n, 1, &slot);
  }
  void f32(std::string_view name, Part part, int64_t rows, int64_t cols, View<const float, 2>& slot) {
    add(name, TensorKind::kF32Matrix, part, rows, cols, &slot);
  }
  void bf16(std::string_view name, Part part, int64_t rows, int64_t cols, WeightMatrix& slot) {
    add(name, TensorKind::kBf16Matrix, part, rows, cols, &slot);
  }
  void fp8(std::string_view name, Part part, int64_t rows, int64_t cols, WeightMatrix& slot) {
    add(name, TensorKind::kFp8Matrix, part, rows, cols, &slot);
  }
};

void list_hyper_connection(Scope& s, std::string_view name, int64_t mixes, int64_t scales,
                           const ModelConfig& c, HyperConnectionWeights& w) {
  s.f32(fmt::format("{}_fn", name), Part::kHyperConnection, mixes, c.hc * c.dim, w.fn);
  s.vector(fmt::format("{}_base", name), Part::kHyperConnection, mixes, w.base);
  s.vector(fmt::format("{}_scale", name), Part::kHyperConnection, scales, w.scale);
}

// `width` is the entry's width, `lanes` 2 where each block also sees the one before it (ratio 4).
void list_compressor(Scope& s, const std::string& name, Part part, int ratio, int64_t width,
                     const ModelConfig& c, CompressorWeights& w) {
  int64_t lanes = ratio == 4 ? 2 : 1;
  s.bf16(name + ".wkv.weight", part, lanes * width, c.dim, w.wkv);
  s.bf16(name + ".wgate.weight", part, lanes * width, c.dim, w.wgate);
  s.f32(name + ".ape", part, ratio, lanes * width, w.ape);
  s.norm(name + ".norm.weight", width, w.norm, part);
}

void list_attention(Scope& s, int ratio, const ModelConfig& c, AttentionWeights& w) {
  const Part part = Part::kAttention;
  int64_t all_heads = int64_t{c.num_heads} * c.head_dim;
  s.vector("attn.attn_sink", part, c.num_heads, w.sink);
  s.fp8("attn.wq_a.weight", part, c.q_rank, c.dim, w.wq_a);
  s.norm("attn.q_norm.weight", c.q_rank, w.q_norm);
  s.fp8("attn.wq_b.weight", part, all_heads, c.q_rank, w.wq_b);
  s.fp8("attn.wkv.weight", part, c.head_dim, c.dim, w.wkv);
  s.norm("attn.kv_norm.weight", c.head_dim, w.kv_norm);
  s.fp8("attn.wo_a.weight", part, int64_t{c.o_groups} * c.o_rank, all_heads / c.o_groups,
        w.wo_a);  // trap 24: grouped, 2-D
  s.fp8("attn.wo_b.weight", part, c.dim, int64_t{c.o_groups} * c.o_rank, w.wo_b);
  if (ratio == 0) return;
  list_compressor(s, "attn.compressor", Part::kCompressor, ratio, c.head_dim, c, w.compressor);
  if (ratio != 4) return;
  s.fp8("attn.indexer.wq_b.weight", Part::kIndexer, int64_t{c.index_heads} * c.index_dim, c.q_rank,
        w.indexer.wq_b);
  s.bf16("attn.indexer.weights_proj.weight", Part::kIndexer, c.index_heads, c.dim, w.indexer.weights_proj);
  list_compressor(s, "attn.indexer.compressor", Part::kIndexer, ratio, c.index_dim, c, w.indexer.compressor);
}

void list_moe(Scope& s, bool hash_routed, const ModelConfig& c, MoeWeights& w) {
  s.bf16("ffn.gate.weight", Part::kGate, c.num_experts, c.dim, w.gate);
  if (hash_routed) {
    s.add("ffn.gate.tid2eid", TensorKind::kTokenTable, Part::kGate, c.vocab_size, c.experts_per_token,
          &w.tid2eid);
  } else {
    s.vector("ffn.gate.bias", Part::kGate, c.num_experts, w.bias);
  }
  s.fp8("ffn.shared_experts.w1.weight", Part::kSharedExpert, c.expert_dim, c.dim, w.shared.w1);
  s.fp8("ffn.shared_experts.w3.weight", Part::kSharedExpert, c.expert_dim, c.dim, w.shared.w3);
  s.fp8("ffn.shared_experts.w2.weight", Part::kSharedExpert, c.dim, c.expert_dim, w.shared.w2);
  for (size_t e = 0; e < w.experts.size(); ++e) {
    std::string name = fmt::format("ffn.experts.{}.", e);
    s.add(name + "w1.weight", TensorKind::kExpertMatrix, Part::kExperts, c.expert_dim, c.dim,
          &w.experts[e].w1);
    s.add(name + "w3.weight", TensorKind::kExpertMatrix, Part::kExperts, c.expert_dim, c.dim,
          &w.experts[e].w3);
    s.add(name + "w2.weight", TensorKind::kExpertMatrix, Part::kExperts, c.dim, c.expert_dim,
          &w.experts[e].w2);
  }
}

void list_layer(Scope& s, bool hash_routed, const ModelConfig& c, LayerWeights& w) {
  s.norm("attn_norm.weight", c.dim, w.attn_norm);
  s.norm("ffn_norm.weight", c.dim, w.ffn_norm);
  list_hyper_connection(s, "hc_attn", (2 + c.hc) * c.hc, 3, c, w.attn_hc);
  list_hyper_connection(s, "hc_ffn", (2 + c.hc) * c.hc, 3, c, w.ffn_hc);
  list_attention(s, w.ratio, c, w.attn);
  list_moe(s, hash_routed, c, w.moe);
}

}  // namespace

std::string_view part_name(Part part) {
  constexpr std::string_view kNames[kNumParts] = {"embedding",        "head", "attention", "compressor",
                                                  "indexer",          "gate", "experts",   "shared expert",
                                                  "hyper-connection", "norms"};
  return kNames[static_cast<size_t>(part)];
}

void shape_model(Model& model) {
  const ModelConfig& c = model.config;
  auto shape_layer = [&](LayerWeights& w, int layer) {
    w.kind = c.attention_kind(layer);
    w.ratio = c.compress_ratio(layer);
    w.moe.experts.resize(static_cast<size_t>(c.num_experts));
  };
  model.layers.resize(static_cast<size_t>(c.num_layers));
  for (int l = 0; l < c.num_layers; ++l) shape_layer(model.layers[static_cast<size_t>(l)], l);
  if (c.num_mtp == 0) return;
  model.mtp = std::make_unique<MtpWeights>();
  shape_layer(model.mtp->block,
              c.num_layers);  // trap 27: entry num_layers of compress_ratios, not a trunk layer's
}

std::vector<TensorEntry> list_tensors(Model& model) {
  const ModelConfig& c = model.config;
  KVASIR_CHECK(static_cast<int>(model.layers.size()) == c.num_layers, "{} of {} layers", model.layers.size(),
               c.num_layers);
  std::vector<TensorEntry> out;
  Scope top{out, "", -1};
  top.bf16("embed.weight", Part::kEmbedding, c.vocab_size, c.dim, model.embed);
  top.bf16("head.weight", Part::kHead, c.vocab_size, c.dim, model.head);
  top.norm("norm.weight", c.dim, model.norm);
  list_hyper_connection(top, "hc_head", c.hc, 1, c, model.hc_head);
  for (int l = 0; l < c.num_layers; ++l) {
    Scope layer{out, fmt::format("layers.{}.", l), l};
    list_layer(layer, c.hash_routed(l), c, model.layers[static_cast<size_t>(l)]);
  }
  if (!model.mtp) return out;
  Scope mtp{out, "mtp.0.", c.num_layers};
  MtpWeights& w = *model.mtp;
  list_layer(mtp, false, c, w.block);
  mtp.fp8("e_proj.weight", Part::kAttention, c.dim, c.dim, w.e_proj);
  mtp.fp8("h_proj.weight", Part::kAttention, c.dim, c.dim, w.h_proj);
  mtp.norm("enorm.weight", c.dim, w.enorm);
  mtp.norm("hnorm.weight", c.dim, w.hnorm);
  mtp.norm("norm.weight", c.dim, w.norm);
  list_hyper_connection(mtp, "hc_head", c.hc, 1, c, w.hc_head);
  return out;
}

StoredShape official_weight(const TensorEntry& e) {
  switch (e.kind) {
    case TensorKind::kBf16Vector:
      return {DType::kBF16, {e.rows, 1}, 1};
    case TensorKind::kF32Vector:
      return {DType::kF32, {e.rows, 1}, 1};
    case TensorKind::kF32Matrix:
      return {DType::kF32, {e.rows, e.cols}, 2};
    case TensorKind::kBf16Matrix:
      return {DType::kBF16, {e.rows, e.cols}, 2};
    case TensorKind::kFp8Matrix:
      return {DType::kF8E4M3, {e.rows, e.cols}, 2};
    case TensorKind::kExpertMatrix:
      return {DType::kI8, {e.rows, e.cols / 2}, 2};
    case TensorKind::kTokenTable:
      return {DType::kI64, {e.rows, e.cols}, 2};
  }
  KVASIR_CHECK(false, "tensor kind {}", static_cast<int>(e.kind));
}

StoredShape tile_scale(const TensorEntry& e) {
  return {DType::kF8E8M0, {(e.rows + 127) / 128, (e.cols + 127) / 128}, 2};
}

StoredShape group_scale(const TensorEntry& e) { return {DType::kF8E8M0, {e.rows, e.cols / 32}, 2}; }

std::string scale_name(std::string_view weight_name) {
  constexpr std::string_view kSuffix = ".weight";
  KVASIR_CHECK(weight_name.ends_with(kSuffix), "{} has no scale", weight_name);
  return std::string(weight_name.substr(0, weight_name.size() - kSuffix.size())) + ".scale";
}

}  // namespace kvasir
