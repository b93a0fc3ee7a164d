// One allocation, cut into the activations of a step; see workspace.h.
#include "model/workspace.h"

#include <algorithm>

namespace kvasir {
namespace {

// Hands out 64-byte aligned stretches of an allocation; the first pass, without memory, only adds up.
class Carver {
 public:
  explicit Carver(std::byte* base) : base_(base) {}
  template <class T, int Rank>
  void carve(View<T, Rank>& view, std::array<int64_t, Rank> shape) {
    view = View<T, Rank>(reinterpret_cast<T*>(here()), shape);
    used_ += (view.count() * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
  }
  std::byte* carve_bytes(int64_t bytes) {
    std::byte* p = here();
    used_ += (bytes + 63) / 64 * 64;
    return p;
  }
  int64_t used() const { return used_; }

 private:
  // In integers: the first pass has no memory, and a null pointer has no neighbours.
  std::byte* here() const {
    return reinterpret_cast<std::byte*>(reinterpret_cast<uintptr_t>(base_) + static_cast<uintptr_t>(used_));
  }

  std::byte* base_;
  int64_t used_ = 0;
};

int64_t lay_out(Workspace& w, const ModelConfig& c, const KvLayout& layout, bool with_mtp, std::byte* base) {
  Carver a(base);
  int64_t t = w.max_tokens, block = std::min(t, kAttentionBlock), pairs = c.rope_dim / 2;
  a.carve(w.streams, {t, c.hc, c.dim});
  a.carve(w.x, {t, c.dim});
  a.carve(w.y, {t, c.dim});
  a.carve(w.post, {t, c.hc});
  a.carve(w.comb, {t, c.hc, c.hc});
  a.carve(w.rope_main, {t, pairs, 2});
  a.carve(w.rope_compress, {t, pairs, 2});
  a.carve(w.selected, {t, c.index_topk});
  a.carve(w.gate_logits, {t, c.num_experts});
  a.carve(w.experts, {t, c.experts_per_token});
  a.carve(w.expert_weights, {t, c.experts_per_token});
  a.carve(w.qa, {block, c.q_rank});
  a.carve(w.q, {block, c.num_heads, c.head_dim});
  a.carve(w.o, {block, c.num_heads, c.head_dim});
  a.carve(w.u, {block, c.o_groups, c.o_rank});
  a.carve(w.kv, {block, c.head_dim});
  w.window_rows.data = a.carve_bytes(block * layout.entry_format.data_bytes);
  w.window_rows.scale = a.carve_bytes(block * layout.entry_format.scale_bytes);
  a.carve(w.compress_kv, {block, 2 * c.head_dim});
  a.carve(w.compress_score, {block, 2 * c.head_dim});
  a.carve(w.iq, {block, c.index_heads, c.index_dim});
  a.carve(w.index_weight, {block, c.index_heads});
  a.carve(w.index_kv, {block, 2 * c.index_dim});
  a.carve(w.index_score, {block, 2 * c.index_dim});
  a.carve(w.h, {w.max_logit_rows, c.dim});
  a.carve(w.logits, {w.max_logit_rows, c.vocab_size});
  if (with_mtp) a.carve(w.mtp_h, {t, c.hc, c.dim});
  return a.used();
}

}  // namespace

Result<Workspace> Workspace::make(const ModelConfig& config, const KvLayout& layout, int64_t max_tokens,
                                  int64_t max_logit_rows, bool with_mtp) {
  Workspace w;
  w.max_tokens = max_tokens;
  w.max_logit_rows = max_logit_rows;
  // The sizing pass needs a non-null base only so that no arithmetic is done on a null pointer.
  alignas(64) static std::byte nowhere[64];
  KVASIR_TRY(w.memory_,
             Buffer::make(lay_out(w, config, layout, with_mtp, nowhere), "the activations of a step"));
  lay_out(w, config, layout, with_mtp, w.memory_.data());
  return w;
}

void Workspace::cut_blocks(const Batch& batch) {
  blocks.clear();
  pieces.clear();
  for (int s = 0; s < static_cast<int>(batch.sequences.size()); ++s) {
    const SequenceSpan& span = batch.sequences[s].span;
    for (int64_t done = 0; done < span.tokens;) {
      if (blocks.empty() || blocks.back().rows == kAttentionBlock)
        blocks.push_back({span.first_row + done, 0, static_cast<int>(pieces.size()), 0});
      Block& b = blocks.back();
      int64_t n = std::min(span.tokens - done, kAttentionBlock - b.rows);
      pieces.push_back({s, {span.first_row + done, n, span.start + done}});
      b.rows += n;
      ++b.num_pieces;
      done += n;
    }
  }
}

}  // namespace kvasir
