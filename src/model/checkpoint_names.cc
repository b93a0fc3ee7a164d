// The table of spec 9.3, read from the official side.
#include "model/checkpoint_names.h"

#include <charconv>
#include <utility>

namespace kvasir {
namespace {

struct Pair {
  std::string_view official;
  std::string_view transformers;
};

constexpr Pair kTop[] = {
    {"embed.weight", "model.embed_tokens.weight"}, {"head.weight", "lm_head.weight"},
    {"norm.weight", "model.norm.weight"},          {"hc_head_fn", "model.hc_head.hc_fn"},
    {"hc_head_base", "model.hc_head.hc_base"},     {"hc_head_scale", "model.hc_head.hc_scale"},
};

// Inside "layers.L." and "model.layers.L.", without ".weight" or ".scale".
constexpr Pair kLayer[] = {
    {"attn_norm", "input_layernorm"},
    {"ffn_norm", "post_attention_layernorm"},
    {"hc_attn_fn", "attn_hc.fn"},
    {"hc_attn_base", "attn_hc.base"},
    {"hc_attn_scale", "attn_hc.scale"},
    {"hc_ffn_fn", "ffn_hc.fn"},
    {"hc_ffn_base", "ffn_hc.base"},
    {"hc_ffn_scale", "ffn_hc.scale"},
    {"attn.attn_sink", "self_attn.sinks"},
    {"attn.wq_a", "self_attn.q_a_proj"},
    {"attn.q_norm", "self_attn.q_a_norm"},
    {"attn.wq_b", "self_attn.q_b_proj"},
    {"attn.wkv", "self_attn.kv_proj"},
    {"attn.kv_norm", "self_attn.kv_norm"},
    {"attn.wo_a", "self_attn.o_a_proj"},
    {"attn.wo_b", "self_attn.o_b_proj"},
    {"attn.compressor.wkv", "self_attn.compressor.kv_proj"},
    {"attn.compressor.wgate", "self_attn.compressor.gate_proj"},
    {"attn.compressor.norm", "self_attn.compressor.kv_norm"},
    {"attn.compressor.ape", "self_attn.compressor.position_bias"},
    {"attn.indexer.wq_b", "self_attn.compressor.indexer.q_b_proj"},
    {"attn.indexer.weights_proj", "self_attn.compressor.indexer.scorer.weights_proj"},
    {"attn.indexer.weights_proj", "self_attn.compressor.indexer.weights_proj"},  // earlier 5.x
    {"attn.indexer.compressor.wkv", "self_attn.compressor.indexer.kv_proj"},
    {"attn.indexer.compressor.wgate", "self_attn.compressor.indexer.gate_proj"},
    {"attn.indexer.compressor.norm", "self_attn.compressor.indexer.kv_norm"},
    {"attn.indexer.compressor.ape", "self_attn.compressor.indexer.position_bias"},
    {"ffn.gate", "mlp.gate"},
    {"ffn.gate.bias", "mlp.gate.e_score_correction_bias"},
    {"ffn.gate.tid2eid", "mlp.gate.tid2eid"},
    {"ffn.shared_experts.w1", "mlp.shared_experts.gate_proj"},
    {"ffn.shared_experts.w3", "mlp.shared_experts.up_proj"},
    {"ffn.shared_experts.w2", "mlp.shared_experts.down_proj"},
};

// "12.rest" -> 12, leaving "rest"; false when it does not start so.
bool take_number(std::string_view& text, int64_t& number) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end == text.data() + text.size() || *end != '.') return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()) + 1);
  return true;
}

bool take_prefix(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

// Fused experts, `rest` being "E.w1": gate (w1) above up (w3) in gate_up_proj, and down (w2).
std::vector<StoredName> expert_names(const std::string& layer, std::string_view rest, bool scale) {
  int64_t expert = 0;
  if (!take_number(rest, expert)) return {};
  std::pair<std::string_view, StoredPart> fused;
  if (rest == "w1") {
    fused = {"gate_up_proj", StoredPart::kExpertFirstHalf};
  } else if (rest == "w3") {
    fused = {"gate_up_proj", StoredPart::kExpertLastHalf};
  } else if (rest == "w2") {
    fused = {"down_proj", StoredPart::kExpert};
  } else {
    return {};
  }
  std::string name = layer + "mlp.experts." + std::string(fused.first);
  if (!scale) return {{name, fused.second, expert}};
  return {{name + "_scale_inv", fused.second, expert}, {name + "_scale", fused.second, expert}};
}

}  // namespace

std::vector<StoredName> transformers_names(std::string_view official) {
  for (const Pair& pair : kTop) {
    if (pair.official == official) return {{std::string(pair.transformers), StoredPart::kWhole, 0}};
  }
  std::string_view rest = official;
  int64_t number = 0;
  if (!take_prefix(rest, "layers.") || !take_number(rest, number)) return {};
  const std::string layer = "model.layers." + std::to_string(number) + ".";

  bool weight = rest.ends_with(".weight"), scale = rest.ends_with(".scale");
  std::string_view stem = rest;
  if (weight || scale) stem.remove_suffix(rest.size() - rest.rfind('.'));
  if (take_prefix(stem, "ffn.experts.")) return expert_names(layer, stem, scale);

  std::vector<StoredName> names;
  for (const Pair& pair : kLayer) {
    if (pair.official != stem) continue;
    std::string name = layer + std::string(pair.transformers);
    if (scale) {  // the FP8 quantiser's spelling, and the plain one where it was not active
      names.push_back({name + ".weight_scale_inv", StoredPart::kWhole, 0});
      names.push_back({name + ".scale", StoredPart::kWhole, 0});
    } else {
      names.push_back({name + (weight ? ".weight" : ""), StoredPart::kWhole, 0});
    }
  }
  return names;
}

}  // namespace kvasir
