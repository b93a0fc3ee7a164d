// From sequences and tokens to a Batch; see runner.h.
#include "engine/runner.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>

namespace kvasir {

Runner::Runner(const Model& model, std::unique_ptr<Ops> ops, const RunnerOptions& options)
    : model_(model), ops_(std::move(ops)), options_(options), layout_(KvLayout::make(model.config, ops_->numerics())) {
  int64_t pages = options.max_pages > 0 ? options.max_pages : KvLayout::pages_for(options.max_cache_tokens) + PagePool::kSlabPages;
  pool_ = std::make_unique<PagePool>(layout_.page_bytes, pages);
}

Result<std::unique_ptr<Runner>> Runner::make(const Model& model, std::unique_ptr<Ops> ops, const RunnerOptions& options) {
  std::unique_ptr<Runner> r(new Runner(model, std::move(ops), options));
  KVASIR_TRY(r->ws_, Workspace::make(model.config, r->layout_, options.max_step_tokens, options.max_logit_rows, options.mtp));
  r->ids_.reserve(options.max_step_tokens);
  r->positions_.reserve(options.max_step_tokens);
  r->logit_rows_.reserve(options.max_logit_rows);
  return r;
}

Status Runner::step(std::span<const Item> items) {
  ids_.clear();
  positions_.clear();
  logit_rows_.clear();
  sequences_.clear();
  for (const Item& item : items) {
    auto tokens = static_cast<int64_t>(item.tokens.size());
    int64_t start = item.sequence->length();
    KVASIR_TRY_STATUS(item.sequence->reserve(start + tokens));
    BatchSequence s;
    s.span = {static_cast<int64_t>(ids_.size()), tokens, start};
    s.state = item.sequence->state();
    s.pages = s.written_pages = item.sequence->pages();
    if (start < item.sequence->stored()) {
      KVASIR_CHECK(start + tokens <= item.sequence->stored(), "{} tokens at {}, rows are stored up to {}", tokens, start,
                   item.sequence->stored());
      if (!discarded_.data()) {
        KVASIR_TRY(discarded_, Buffer::make((options_.max_step_tokens / kPageTokens + 2) * layout_.page_bytes, "discarded rows"));
      }
      s.written_pages = discarded_pages(start + tokens);
    }
    sequences_.push_back(s);
    for (int64_t i = 0; i < tokens; ++i) {
      int32_t id = item.tokens[i];
      if (id < 0 || id >= model_.config.vocab_size) {
        return Error{ErrorCode::kInvalid,
                     fmt::format("token id {} at position {} is outside the vocabulary of {}", id, start + i, model_.config.vocab_size)};
      }
      bool wanted = item.logits == Logits::kAll || (item.logits == Logits::kLast && i == tokens - 1);
      if (wanted) logit_rows_.push_back(static_cast<int32_t>(ids_.size()));
      ids_.push_back(id);
      positions_.push_back(static_cast<int32_t>(start + i));
    }
  }
  auto rows = static_cast<int64_t>(ids_.size());
  logit_count_ = static_cast<int64_t>(logit_rows_.size());
  Batch batch{{ids_.data(), {rows}}, {positions_.data(), {rows}}, sequences_, {logit_rows_.data(), {logit_count_}}};
  forward(context(), batch);
  KVASIR_TRY_STATUS(ops_->synchronize());
  for (const Item& item : items) item.sequence->advance(static_cast<int64_t>(item.tokens.size()));
  return {};
}

void Runner::draft(Sequence& sequence, int64_t start, std::span<const int32_t> next_ids, Logits logits) {
  auto rows = static_cast<int64_t>(next_ids.size());
  ids_.assign(next_ids.begin(), next_ids.end());
  positions_.clear();
  logit_rows_.clear();
  for (int64_t i = 0; i < rows; ++i) {
    positions_.push_back(static_cast<int32_t>(start + i));
    if (logits == Logits::kAll || (logits == Logits::kLast && i == rows - 1)) logit_rows_.push_back(static_cast<int32_t>(i));
  }
  logit_count_ = static_cast<int64_t>(logit_rows_.size());
  sequences_.assign(1, BatchSequence{{0, rows, start}, sequence.state(), sequence.pages(), sequence.pages()});
  Batch batch{{ids_.data(), {rows}}, {positions_.data(), {rows}}, sequences_, {logit_rows_.data(), {logit_count_}}};
  mtp_forward(context(), batch);
}

// A table whose pages repeat: no step touches two pages that share memory, so no two writers meet.
std::byte* const* Runner::discarded_pages(int64_t tokens) {
  int64_t pages = options_.max_step_tokens / kPageTokens + 2;
  // Its full size at once: earlier sequences of the step point into it.
  if (discarded_table_.empty()) {
    discarded_table_.resize(KvLayout::pages_for(model_.config.max_context) + 1);
    for (size_t i = 0; i < discarded_table_.size(); ++i)
      discarded_table_[i] = discarded_.data() + static_cast<int64_t>(i) % pages * layout_.page_bytes;
  }
  KVASIR_CHECK(KvLayout::pages_for(tokens) <= static_cast<int64_t>(discarded_table_.size()), "{} tokens", tokens);
  return discarded_table_.data();
}

void Runner::draft(std::span<const DraftItem> items) {
  ids_.clear();
  positions_.clear();
  logit_rows_.clear();
  sequences_.clear();
  for (const DraftItem& item : items) {
    auto rows = static_cast<int64_t>(item.next_ids.size()), first = static_cast<int64_t>(ids_.size());
    KVASIR_CHECK(item.first_row >= first, "rows from {} after {} rows", item.first_row, first);
    if (item.first_row != first)
      std::memmove(ws_.streams.row(first), ws_.streams.row(item.first_row), sizeof(float) * rows * model_.config.hc * model_.config.dim);
    sequences_.push_back({{first, rows, item.start}, item.sequence->state(), item.sequence->pages(), item.sequence->pages()});
    for (int64_t i = 0; i < rows; ++i) {
      ids_.push_back(item.next_ids[i]);
      positions_.push_back(static_cast<int32_t>(item.start + i));
    }
    logit_rows_.push_back(static_cast<int32_t>(first + rows - 1));
  }
  auto rows = static_cast<int64_t>(ids_.size());
  logit_count_ = static_cast<int64_t>(logit_rows_.size());
  Batch batch{{ids_.data(), {rows}}, {positions_.data(), {rows}}, sequences_, {logit_rows_.data(), {logit_count_}}};
  mtp_forward(context(), batch);
}

void Runner::chain_draft(Sequence& sequence, int64_t start, int64_t previous_rows, int32_t next_id) {
  if (previous_rows > 1) {
    std::memcpy(ws_.streams.row(0), ws_.streams.row(previous_rows - 1), sizeof(float) * model_.config.hc * model_.config.dim);
  }
  draft(sequence, start, {&next_id, 1});
}

}  // namespace kvasir
