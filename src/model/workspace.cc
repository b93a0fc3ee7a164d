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
  int64_t t = w.max_tokens, block = w.block_rows, pairs = c.rope_dim / 2;
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

// The parts of a step's description, at fixed places for a workspace of this size.
struct StepParts {
  explicit StepParts(const Workspace& w) {
    int64_t max_tokens = w.max_tokens, max_logit_rows = w.max_logit_rows, pieces = max_tokens + max_tokens / w.block_rows + 1;
    positions = ids + max_tokens * kId;
    row_sequence = positions + max_tokens * kId;
    logit_rows = row_sequence + max_tokens * kId;
    sequences = (logit_rows + max_logit_rows * kId + 63) / 64 * 64;
    bytes = sequences + pieces * static_cast<int64_t>(sizeof(CacheSequence));
  }
  static constexpr int64_t kId = sizeof(int32_t);
  int64_t ids = 0, positions, row_sequence, logit_rows, sequences, bytes;
};

// A bound that stays the same for many steps, so that steps can be recorded and replayed.
int64_t length_bound(int64_t length) {
  int64_t bound = 1024;
  while (bound < length) bound *= 2;
  return bound;
}

// The sizing pass needs a non-null base only so that no arithmetic is done on a null pointer.
alignas(64) std::byte nowhere[64];

Workspace sized(int64_t max_tokens, int64_t max_logit_rows, const Ops& ops) {
  Workspace w;
  w.max_tokens = max_tokens;
  w.max_logit_rows = max_logit_rows;
  w.block_rows = std::min(max_tokens, ops.attention_rows());
  return w;
}

}  // namespace

Result<Workspace> Workspace::make(const ModelConfig& config, const KvLayout& layout, int64_t max_tokens,
                                  int64_t max_logit_rows, bool with_mtp, Ops& ops) {
  Workspace w = sized(max_tokens, max_logit_rows, ops);
  w.memory_ = &ops.memory();
  KVASIR_TRY(w.activations_,
             w.memory_->allocate(lay_out(w, config, layout, with_mtp, nowhere), "the activations of a step"));
  lay_out(w, config, layout, with_mtp, w.activations_.data());
  StepParts parts(w);
  KVASIR_TRY(w.step_, w.memory_->allocate(parts.bytes, "the description of a step"));
  w.staging_.resize(static_cast<size_t>(parts.bytes));
  return w;
}

int64_t Workspace::bytes(const ModelConfig& config, const KvLayout& layout, int64_t max_tokens, int64_t max_logit_rows,
                         bool with_mtp, const Ops& ops) {
  Workspace w = sized(max_tokens, max_logit_rows, ops);
  return lay_out(w, config, layout, with_mtp, nowhere) + StepParts(w).bytes;
}

void Workspace::load(const Batch& batch) {
  rows = batch.rows();
  KVASIR_CHECK(rows <= max_tokens, "a step of {} tokens in a workspace for {}", rows, max_tokens);
  auto wanted = static_cast<int64_t>(batch.logit_rows.size());
  KVASIR_CHECK(wanted <= max_logit_rows, "{} rows of logits in a workspace for {}", wanted, max_logit_rows);
  StepParts parts(*this);
  std::byte *stage = staging_.data(), *there = step_.data();
  auto put = [&](int64_t at, std::span<const int32_t> values) {
    std::copy(values.begin(), values.end(), reinterpret_cast<int32_t*>(stage + at));
    return View<int32_t, 1>(reinterpret_cast<int32_t*>(there + at), {static_cast<int64_t>(values.size())});
  };
  ids = put(parts.ids, batch.ids);
  positions = put(parts.positions, batch.positions);
  logit_rows = put(parts.logit_rows, batch.logit_rows);

  auto* row_sequence = reinterpret_cast<int32_t*>(stage + parts.row_sequence);
  auto* pieces = reinterpret_cast<CacheSequence*>(stage + parts.sequences);
  int64_t piece_count = 0;
  blocks.clear();
  for (const CacheSequence& sequence : batch.sequences) {
    for (int64_t done = 0; done < sequence.span.tokens;) {
      int64_t row = sequence.span.first_row + done;
      if (blocks.empty() || blocks.back().rows == block_rows) {
        auto* first = reinterpret_cast<const CacheSequence*>(there + parts.sequences) + piece_count;
        blocks.push_back({row, 0, {{first, {0}}, {}, 0, 0}});
      }
      Block& b = blocks.back();
      int64_t n = std::min(sequence.span.tokens - done, block_rows - b.rows), start = sequence.span.start + done;
      CacheSequence& piece = pieces[piece_count++] = sequence;
      piece.span = {b.rows, n, start};
      int64_t number = b.batch.sequences.shape(0);
      std::fill(row_sequence + row, row_sequence + row + n, static_cast<int32_t>(number));
      b.rows += n;
      b.batch.sequences = {b.batch.sequences.data(), {number + 1}};
      b.batch.row_sequence = {reinterpret_cast<const int32_t*>(there + parts.row_sequence) + b.first_row, {b.rows}};
      b.batch.max_tokens = std::max(b.batch.max_tokens, n);
      b.batch.max_length = std::max(b.batch.max_length, length_bound(start + n));
      done += n;
    }
  }
  memory_->write(there, stage, parts.sequences + piece_count * static_cast<int64_t>(sizeof(CacheSequence)));
}

const StepShape& Workspace::shape(int pass) {
  shape_.pass = pass;
  shape_.rows = rows;
  shape_.logit_rows = logit_rows.shape(0);
  shape_.blocks.clear();
  for (const Block& b : blocks) shape_.blocks.push_back({b.rows, b.batch.sequences.shape(0), b.batch.max_tokens, b.batch.max_length});
  return shape_;
}

}  // namespace kvasir
