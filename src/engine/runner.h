// Runner: runs steps of one model on one backend for any number of sequences.
//
// Owns what a step needs (ops, layout, page pool, workspace); borrows the model. It knows tokens and
// sequences, not prompts or text. Threading: one caller.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "cache/page_pool.h"
#include "engine/sequence.h"
#include "model/forward.h"

namespace kvasir {

struct RunnerOptions {
  int64_t max_step_tokens = 512;     // rows of one step; longer prompts are cut into chunks of this
  int64_t max_logit_rows = 16;       // rows of one step whose logits can be had
  int64_t max_cache_tokens = 1 << 20;  // of all sequences together
  int64_t max_pages = 0;               // if not 0, the limit in pages, instead of max_cache_tokens
  bool mtp = false;                  // room for the draft block
};

class Runner {
 public:
  static Result<std::unique_ptr<Runner>> make(const Model& model, std::unique_ptr<Ops> ops, const RunnerOptions& options);

  // One sequence's tokens in a step, and which of its rows want logits. They do not straddle Sequence::stored().
  enum class Logits { kNone, kLast, kAll };
  struct Item {
    Sequence* sequence;
    std::span<const int32_t> tokens;
    Logits logits = Logits::kLast;
  };

  Result<Sequence> make_sequence() { return Sequence::make(layout_, *pool_); }

  // Computes all items in one step, in order, and advances their sequences. Pages are grown as needed.
  // Afterwards logits() holds the rows asked for, items in order.
  Status step(std::span<const Item> items);
  // On the host, until the next step or draft.
  View<const float, 2> logits() const;

  // The draft block on the first `next_ids.size()` rows of the last step, which must have had one item:
  // row i is followed by token next_ids[i]. `start` is the position of row 0. logits() then holds the rows
  // asked for.
  Status draft(Sequence& sequence, int64_t start, std::span<const int32_t> next_ids, Logits logits = Logits::kLast);
  // One more draft from the last row of the previous draft call (moved to row 0), at position `start`.
  Status chain_draft(Sequence& sequence, int64_t start, int64_t previous_rows, int32_t next_id);

  // The draft block for several sequences at once: `next_ids` follow rows [first_row, ...) of the last step or draft
  // call, the first of which stands at `start`. Items ascend by first_row. Afterwards the streams of item i's last row
  // are row last_draft_row(i), to chain from, and logits() holds one row per item.
  struct DraftItem {
    Sequence* sequence;
    int64_t first_row = 0;
    int64_t start = 0;
    std::span<const int32_t> next_ids;
  };
  Status draft(std::span<const DraftItem> items);
  int64_t last_draft_row(int64_t item) const { return sequences_[item].span.first_row + sequences_[item].span.tokens - 1; }

  const Model& model() const { return model_; }
  const KvLayout& layout() const { return layout_; }
  Ops& ops() { return *ops_; }
  PagePool& pool() { return *pool_; }
  const RunnerOptions& options() const { return options_; }
  void set_observer(ForwardObserver* observer) { observer_ = observer; }
  // For the steps to come. Where it does not open, step() counts the tokens as computed, but they are worth nothing.
  void set_gate(LayerGate* gate) { gate_ = gate; }

 private:
  Runner(const Model& model, std::unique_ptr<Ops> ops, const RunnerOptions& options);
  Result<std::byte* const*> discarded_pages(int64_t tokens);
  // Loads what the vectors below say, runs `pass` (the trunk or the draft block) and fetches its logits.
  Status run(void (*pass)(const ForwardContext&));
  // Rows of the streams that the trunk or the draft block has left.
  void move_streams(int64_t to, int64_t from, int64_t rows);
  ForwardContext context() { return {model_, layout_, *ops_, ws_, observer_, gate_}; }

  const Model& model_;
  std::unique_ptr<Ops> ops_;
  RunnerOptions options_;
  KvLayout layout_;
  std::unique_ptr<PagePool> pool_;  // outlives the sequences made from it
  Workspace ws_;
  ForwardObserver* observer_ = nullptr;
  LayerGate* gate_ = nullptr;
  Buffer discarded_;                        // rows that a replay computes and nobody reads; made when first needed
  Buffer discarded_table_;                  // their addresses
  std::vector<int32_t> ids_, positions_, logit_rows_;
  std::vector<CacheSequence> sequences_;
  std::vector<float> logits_;  // a copy, where the backend does not compute on the host
  int64_t logit_count_ = 0;
};

}  // namespace kvasir
