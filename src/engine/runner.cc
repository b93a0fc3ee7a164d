// From sequences and tokens to a Batch; see runner.h.
#include "engine/runner.h"

#include <fmt/core.h>

#include <algorithm>

namespace kvasir {

Runner::Runner(const Model& model, std::unique_ptr<Ops> ops, const RunnerOptions& options)
    : model_(model), ops_(std::move(ops)), options_(options), layout_(KvLayout::make(model.config, ops_->numerics())) {
  int64_t pages = options.max_pages > 0 ? options.max_pages : KvLayout::pages_for(options.max_cache_tokens) + PagePool::kSlabPages;
  pool_ = std::make_unique<PagePool>(layout_.page_bytes, pages, ops_->memory());
}

Result<std::unique_ptr<Runner>> Runner::make(const Model& model, std::unique_ptr<Ops> ops, const RunnerOptions& options) {
  std::unique_ptr<Runner> r(new Runner(model, std::move(ops), options));
  KVASIR_TRY(r->ws_, Workspace::make(model.config, r->layout_, options.max_step_tokens, options.max_logit_rows, options.mtp,
                                        *r->ops_));
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
    CacheSequence s;
    s.span = {static_cast<int64_t>(ids_.size()), tokens, start};
    s.state = item.sequence->state();
    s.pages = s.written_pages = item.sequence->pages();
    if (start < item.sequence->stored()) {
      KVASIR_CHECK(start + tokens <= item.sequence->stored(), "{} tokens at {}, rows are stored up to {}", tokens, start,
                   item.sequence->stored());
      KVASIR_TRY(s.written_pages, discarded_pages(start + tokens));
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
  KVASIR_TRY_STATUS(run(forward));
  for (const Item& item : items) item.sequence->advance(static_cast<int64_t>(item.tokens.size()));
  return {};
}

Status Runner::run(void (*pass)(const ForwardContext&)) {
  ws_.load({ids_, positions_, sequences_, logit_rows_});
  logit_count_ = static_cast<int64_t>(logit_rows_.size());
  if (observer_ || gate_)
    pass(context());
  else
    KVASIR_TRY_STATUS(ops_->run_step(ws_.shape(pass == forward ? 0 : 1), [&] { pass(context()); }));
  Memory& memory = ops_->memory();
  if (!memory.on_host() && logit_count_ > 0) {
    logits_.resize(static_cast<size_t>(ws_.logits.count()));
    memory.read(logits_.data(), ws_.logits.data(), logit_count_ * ws_.logits.stride(0) * static_cast<int64_t>(sizeof(float)));
  }
  return ops_->synchronize();
}

View<const float, 2> Runner::logits() const {
  const float* data = ops_->memory().on_host() ? ws_.logits.data() : logits_.data();
  return {data, {logit_count_, model_.config.vocab_size}};
}

Status Runner::draft(Sequence& sequence, int64_t start, std::span<const int32_t> next_ids, Logits logits) {
  auto rows = static_cast<int64_t>(next_ids.size());
  ids_.assign(next_ids.begin(), next_ids.end());
  positions_.clear();
  logit_rows_.clear();
  for (int64_t i = 0; i < rows; ++i) {
    positions_.push_back(static_cast<int32_t>(start + i));
    if (logits == Logits::kAll || (logits == Logits::kLast && i == rows - 1)) logit_rows_.push_back(static_cast<int32_t>(i));
  }
  sequences_.assign(1, CacheSequence{{0, rows, start}, sequence.state(), sequence.pages(), sequence.pages()});
  return run(mtp_forward);
}

// A table whose pages repeat: no step touches two pages that share memory, so no two writers meet.
Result<std::byte* const*> Runner::discarded_pages(int64_t tokens) {
  int64_t pages = options_.max_step_tokens / kPageTokens + 2, entries = KvLayout::pages_for(model_.config.max_context) + 1;
  constexpr int64_t kEntry = sizeof(std::byte*);
  KVASIR_CHECK(KvLayout::pages_for(tokens) <= entries, "{} tokens", tokens);
  if (!discarded_table_.data()) {
    Memory& memory = ops_->memory();
    KVASIR_TRY(discarded_, memory.allocate(pages * layout_.page_bytes, "discarded rows"));
    KVASIR_TRY(discarded_table_, memory.allocate(entries * kEntry, "the table of discarded rows"));
    std::vector<std::byte*> addresses(static_cast<size_t>(entries));
    for (int64_t i = 0; i < entries; ++i) addresses[i] = discarded_.data() + i % pages * layout_.page_bytes;
    memory.write(discarded_table_.data(), addresses.data(), entries * kEntry);
  }
  return reinterpret_cast<std::byte* const*>(discarded_table_.data());
}

Status Runner::draft(std::span<const DraftItem> items) {
  ids_.clear();
  positions_.clear();
  logit_rows_.clear();
  sequences_.clear();
  for (const DraftItem& item : items) {
    auto rows = static_cast<int64_t>(item.next_ids.size()), first = static_cast<int64_t>(ids_.size());
    KVASIR_CHECK(item.first_row >= first, "rows from {} after {} rows", item.first_row, first);
    if (item.first_row != first) move_streams(first, item.first_row, rows);
    sequences_.push_back({{first, rows, item.start}, item.sequence->state(), item.sequence->pages(), item.sequence->pages()});
    for (int64_t i = 0; i < rows; ++i) {
      ids_.push_back(item.next_ids[i]);
      positions_.push_back(static_cast<int32_t>(item.start + i));
    }
    logit_rows_.push_back(static_cast<int32_t>(first + rows - 1));
  }
  return run(mtp_forward);
}

Status Runner::chain_draft(Sequence& sequence, int64_t start, int64_t previous_rows, int32_t next_id) {
  if (previous_rows > 1) move_streams(0, previous_rows - 1, 1);
  return draft(sequence, start, {&next_id, 1});
}

void Runner::move_streams(int64_t to, int64_t from, int64_t rows) {
  ops_->memory().copy(ws_.streams.row(to), ws_.streams.row(from), rows * ws_.streams.stride(0) * static_cast<int64_t>(sizeof(float)));
}

}  // namespace kvasir
