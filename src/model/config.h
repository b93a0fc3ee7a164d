// ModelConfig: the dimensions of one DeepSeek-V4 checkpoint, as its config.json gives them.
//
// Field names are the report's; the config.json key stands beside each. Nothing has a silent default
// that changes results: a missing key is an error that names it (trap 4). Source: spec 1.1, 1.3.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace kvasir {

// Which compressed entries a layer sees beside its window. The trailing entries of compress_ratios
// belong to the MTP / draft blocks and are 0: window only. No layer of V4 has full attention.
enum class AttentionKind : uint8_t { kSwa, kCsa, kHca };  // compress_ratio 0, 4, 128

enum class ChatRevision : uint8_t { kA, kB };  // effort texts; spec/protocol.md 2.4

struct ModelConfig {
  int64_t vocab_size = 0;
  int64_t dim = 0;               // hidden_size
  int num_layers = 0;            // num_hidden_layers (trunk, without MTP)
  int num_heads = 0;             // num_attention_heads
  int head_dim = 0;              // head_dim: D, shared K = V row
  int rope_dim = 0;              // qk_rope_head_dim: R, the last R dims of a head
  int q_rank = 0;                // q_lora_rank
  int o_groups = 0;              // o_groups
  int o_rank = 0;                // o_lora_rank, per group
  int window = 0;                // sliding_window, including the query's own token
  std::vector<int> compress_ratios;  // one per trunk layer, then one per MTP / draft block
  double rope_theta = 0;             // ratio-0 layers
  double compress_rope_theta = 0;    // every rotation in ratio-4 and ratio-128 layers
  double yarn_factor = 0;            // rope_scaling.factor (ratio-4/128 layers only; no mscale)
  double yarn_beta_fast = 0;
  double yarn_beta_slow = 0;
  int64_t yarn_original_context = 0;  // rope_scaling.original_max_position_embeddings
  int64_t max_context = 0;            // max_position_embeddings
  int index_heads = 0;           // index_n_heads
  int index_dim = 0;             // index_head_dim
  int index_topk = 0;            // index_topk
  int hc = 0;                    // hc_mult: residual streams
  int hc_sinkhorn_iters = 0;
  float hc_eps = 0;
  int num_experts = 0;           // n_routed_experts
  int num_shared_experts = 0;    // n_shared_experts
  int experts_per_token = 0;     // num_experts_per_tok
  int expert_dim = 0;            // moe_intermediate_size
  int num_hash_layers = 0;       // num_hash_layers: first layers routed by token id
  float routed_scaling_factor = 0;
  float swiglu_limit = 0;
  float norm_eps = 0;            // rms_norm_eps
  int num_mtp = 0;               // num_nextn_predict_layers
  int bos_id = 0;
  int eos_id = 1;

  AttentionKind attention_kind(int layer) const;   // layer == num_layers: the MTP block
  int compress_ratio(int layer) const { return compress_ratios[static_cast<size_t>(layer)]; }
  bool hash_routed(int layer) const { return layer < num_hash_layers; }
  // Rotation frequencies [rope_dim/2] of a layer: theta without YaRN for ratio 0, YaRN otherwise (spec A.5).
  std::vector<float> inv_freq(int ratio) const;
};

// Parses config.json text. `where` names the file in errors. `warnings` receives unknown keys and the like.
// Errors: missing key, wrong type, out-of-range value, compress_ratios of a wrong length or value,
// a V4.1 (or other) architecture, JSON that is too deep or too large.
Result<ModelConfig> parse_config(std::string_view json, const std::string& where,
                                 std::vector<std::string>& warnings);

// The published shapes, for --synthetic, `kvasir memory` and tests.
ModelConfig flash_config();
ModelConfig pro_config();
// The first `layers` trunk layers of a config with its MTP block kept: what --layers N means.
ModelConfig with_layers(ModelConfig config, int layers);

}  // namespace kvasir
