// Weights: typed, named and shaped views of every tensor of a V4 checkpoint.
//
// Matrices stay as stored (FP4, FP8, bf16) and point into the checkpoint's memory mapping; vectors that
// ops read as f32 (norms, sinks, biases, mHC parameters) are small and are converted once into `owned`.
// Names are the official ones; the transformers names (spec 9.3) are mapped by load.cc. Source: spec 9.1.
#pragma once

#include <memory>
#include <vector>

#include "model/config.h"
#include "ops/experts.h"
#include "ops/hyper_connection.h"
#include "tensor/buffer.h"
#include "tensor/quant.h"

namespace kvasir {

struct CompressorWeights {      // attn.compressor.*, attn.indexer.compressor.*
  WeightMatrix wkv;             // [lanes*d, dim] bf16
  WeightMatrix wgate;           // [lanes*d, dim] bf16
  View<const float, 2> ape;     // [ratio, lanes*d]
  View<const float, 1> norm;    // [d]
};

struct IndexerWeights {         // attn.indexer.*, ratio-4 layers only
  WeightMatrix wq_b;            // [index_heads*index_dim, q_rank] fp8
  WeightMatrix weights_proj;    // [index_heads, dim] bf16
  CompressorWeights compressor;
};

struct AttentionWeights {       // attn.*
  WeightMatrix wq_a;            // [q_rank, dim] fp8
  View<const float, 1> q_norm;  // [q_rank]
  WeightMatrix wq_b;            // [num_heads*head_dim, q_rank] fp8
  WeightMatrix wkv;             // [head_dim, dim] fp8
  View<const float, 1> kv_norm; // [head_dim]
  WeightMatrix wo_a;            // [o_groups*o_rank, num_heads/o_groups*head_dim] fp8
  WeightMatrix wo_b;            // [dim, o_groups*o_rank] fp8
  View<const float, 1> sink;    // [num_heads]
  CompressorWeights compressor; // ratio 4 and 128
  IndexerWeights indexer;       // ratio 4
};

struct MoeWeights {             // ffn.*
  WeightMatrix gate;            // [num_experts, dim] bf16
  View<const float, 1> bias;    // [num_experts]; empty in hash layers
  View<const int32_t, 2> tid2eid;  // [vocab, experts_per_token]; empty in score layers
  std::vector<ExpertWeights> experts;  // fp4 or fp8
  View<const ExpertWeights, 1> table;  // `experts` where the backend computes; empty: it computes on the host
  ExpertWeights shared;         // fp8
};

struct LayerWeights {           // layers.L.* and the block part of mtp.0.*
  AttentionKind kind = AttentionKind::kSwa;
  int ratio = 0;
  View<const float, 1> inv_freq;  // [rope_dim/2] of this layer
  View<const float, 1> attn_norm; // [dim]
  View<const float, 1> ffn_norm;  // [dim]
  HyperConnectionWeights attn_hc;
  HyperConnectionWeights ffn_hc;
  AttentionWeights attn;
  MoeWeights moe;
};

struct MtpWeights {             // mtp.0.* beyond the block
  LayerWeights block;           // ratio 0, score routed
  WeightMatrix e_proj;          // [dim, dim] fp8
  WeightMatrix h_proj;          // [dim, dim] fp8
  View<const float, 1> enorm;   // [dim]
  View<const float, 1> hnorm;   // [dim]
  View<const float, 1> norm;    // [dim]
  HyperConnectionWeights hc_head;
};

// A model ready to run. Move-only; views point into `owned` and `storage`, which never move.
struct Model {
  ModelConfig config;
  WeightMatrix embed;           // [vocab, dim] bf16
  WeightMatrix head;            // [vocab, dim] bf16
  View<const float, 1> norm;    // [dim]
  HyperConnectionWeights hc_head;
  std::vector<LayerWeights> layers;
  std::unique_ptr<MtpWeights> mtp;  // null: the checkpoint has no MTP block that kvasir can use

  std::vector<Buffer> owned;                   // converted small tensors; all weights of a synthetic model
  std::vector<std::shared_ptr<void>> storage;  // keeps file mappings alive

  // Views of small f32 / i32 data the model owns.
  Result<View<float, 1>> own_f32(int64_t count);
};

}  // namespace kvasir
