// Workspace: one step's input and activations where the backend computes, from one allocation made at start.
//
// Attention works on blocks of at most Ops::attention_rows rows, since its activations are the widest
// (num_heads * head_dim per row) and gain nothing from more rows; the experts see all rows of the step
// at once, since more rows per expert is what makes them efficient.
#pragma once

#include <vector>

#include "base/result.h"
#include "model/batch.h"
#include "model/config.h"
#include "model/kv_layout.h"
#include "ops/ops.h"
#include "tensor/memory.h"

namespace kvasir {

struct Workspace {
  int64_t max_tokens = 0;      // rows of a step
  int64_t max_logit_rows = 0;
  int64_t block_rows = 0;      // of attention, at most

  // The step: what load() has brought. Nothing of it is read on the host.
  int64_t rows = 0;            // T
  View<int32_t, 1> ids;        // [T]
  View<int32_t, 1> positions;  // [T]
  View<int32_t, 1> logit_rows; // [n]

  View<float, 3> streams;      // [max_tokens, hc, dim] the residual
  View<float, 2> x;            // [max_tokens, dim] input of a half block
  View<float, 2> y;            // [max_tokens, dim] output of a half block
  View<float, 2> post;         // [max_tokens, hc]
  View<float, 3> comb;         // [max_tokens, hc, hc]
  View<float, 3> rope_main;      // [max_tokens, rope_dim/2, 2] for ratio-0 layers
  View<float, 3> rope_compress;  // the same for ratio-4 and ratio-128 layers
  View<int32_t, 2> selected;   // [max_tokens, index_topk]
  View<float, 2> gate_logits;  // [max_tokens, num_experts]
  View<int32_t, 2> experts;    // [max_tokens, experts_per_token]
  View<float, 2> expert_weights;

  // Rows of one attention block.
  View<float, 2> qa;           // [block, q_rank]
  View<float, 3> q;            // [block, num_heads, head_dim]
  View<float, 3> o;            // [block, num_heads, head_dim]
  View<float, 3> u;            // [block, o_groups, o_rank]
  View<float, 2> kv;           // [block, head_dim]
  KvRows window_rows;          // [block] encoded
  View<float, 2> compress_kv;     // [block, 2*head_dim] (half of it for ratio 128)
  View<float, 2> compress_score;
  View<float, 3> iq;           // [block, index_heads, index_dim]
  View<float, 2> index_weight; // [block, index_heads]
  View<float, 2> index_kv;     // [block, 2*index_dim]
  View<float, 2> index_score;

  View<float, 2> h;            // [max_logit_rows, dim] collapsed rows of the head
  View<float, 2> logits;       // [max_logit_rows, vocab]
  View<float, 3> mtp_h;        // [max_tokens, hc, dim]; empty without an MTP block

  // Rows [first_row, first_row + rows) of the step, and the pieces of sequences that they are: at most one of each
  // sequence. Spans and row numbers of `batch` count from the block's own row 0.
  struct Block {
    int64_t first_row = 0, rows = 0;
    CacheBatch batch;
  };
  std::vector<Block> blocks;  // refilled by each step; capacity is kept

  // `ops` outlives the workspace.
  static Result<Workspace> make(const ModelConfig& config, const KvLayout& layout, int64_t max_tokens,
                                int64_t max_logit_rows, bool with_mtp, Ops& ops);
  // What make() would allocate.
  static int64_t bytes(const ModelConfig& config, const KvLayout& layout, int64_t max_tokens, int64_t max_logit_rows,
                       bool with_mtp, const Ops& ops);
  // Cuts a step into attention blocks and takes what describes it to the backend.
  void load(const Batch& batch);
  // Of the loaded step, for the given pass over it.
  const StepShape& shape(int pass);

 private:
  Memory* memory_ = nullptr;
  Buffer activations_;
  Buffer step_;                     // ids, positions, ... : a copy of staging_
  std::vector<std::byte> staging_;
  StepShape shape_;                 // its memory is kept
};

}  // namespace kvasir
