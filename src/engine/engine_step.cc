// One step for everybody that runs: rows, pages, compute, sample, drafts; see engine_loop.h.
#include <algorithm>

#include "engine/engine_loop.h"

namespace kvasir {
namespace {

double seconds_between(EngineLoop::Clock::time_point a, EngineLoop::Clock::time_point b) { return std::chrono::duration<double>(b - a).count(); }

int32_t best_token(View<const float, 1> logits) {
  return static_cast<int32_t>(std::max_element(logits.data(), logits.data() + logits.shape(0)) - logits.data());
}

}  // namespace

bool EngineLoop::drafts_possible() const { return options_.draft_tokens > 0 && runner_->model().mtp != nullptr; }

Schedulable EngineLoop::describe(const ActiveRequest& a) const {
  Schedulable s;
  s.priority = a.request.priority;
  s.pending = a.known() - a.length();
  int64_t stop = a.length() < a.plan.stored ? a.plan.stored : a.known();
  for (size_t i = a.next_point; i < a.points.size(); ++i) {
    if (a.points[i].length <= a.length()) continue;
    stop = std::min(stop, a.points[i].length);
    break;
  }
  s.limit = std::min(s.pending, stop - a.length());
  if (s.pending == 1 && drafting_ && a.phase == Phase::kRunning) s.drafts = static_cast<int64_t>(a.drafts.size());
  return s;
}

// Rows for the coming step, and pages for all of them. False: nothing can run now.
bool EngineLoop::plan() {
  if (failed_) return false;
  for (;;) {
    running_.clear();
    schedulable_.clear();
    size_t decoding = 0;
    for (const auto& a : requests_) {
      if (a->phase != Phase::kRunning && a->phase != Phase::kClosing) continue;
      running_.push_back(a.get());
      decoding += a->known() - a->length() == 1;
    }
    if (running_.empty()) return false;
    // A prefill beside it would leave the draft block nothing to win.
    drafting_ = drafts_possible() && decoding == running_.size() && decoding < drafts_.size() && drafts_[decoding].drafting();
    for (ActiveRequest* a : running_) schedulable_.push_back(describe(*a));
    plan_step(schedulable_, {options_.step_tokens, chunks_.chunk_tokens()}, planned_);
    if (find_pages()) return true;
    preempt_one();
  }
}

// Whoever holds pages may have to give way, be it running or restoring.
void EngineLoop::preempt_one() {
  std::vector<ActiveRequest*> holders;
  std::vector<Priority> priorities;
  for (const auto& a : requests_) {
    if (a->phase == Phase::kWaiting || a->phase == Phase::kEnded) continue;
    holders.push_back(a.get());
    priorities.push_back(a->request.priority);
  }
  preempt(*holders[static_cast<size_t>(choose_victim(priorities))]);
}

bool EngineLoop::find_pages() {
  int64_t missing = 0;
  auto wanted = [&](size_t i) { return KvLayout::pages_for(running_[i]->length() + planned_[i]); };
  for (size_t i = 0; i < running_.size(); ++i)
    missing += std::max<int64_t>(0, wanted(i) - static_cast<int64_t>(running_[i]->sequence->page_ids().size()));
  if (missing == 0) return true;
  if (!cache_->make_room(missing)) return false;
  for (size_t i = 0; i < running_.size(); ++i)
    if (!running_[i]->sequence->reserve(running_[i]->length() + planned_[i])) return false;
  return true;
}

void EngineLoop::compute() {
  auto begin = Clock::now();
  rows_.clear();
  items_.clear();
  int64_t prefill_rows = 0, decode_rows = 0, first_row = 0, logits = 0;
  for (size_t i = 0; i < running_.size(); ++i) {
    if (planned_[i] == 0) continue;
    ActiveRequest& a = *running_[i];
    Row row;
    row.request = &a;
    row.first_row = first_row;
    row.start = a.length();
    row.drafts = schedulable_[i].drafts;
    row.ids.assign(a.tokens.begin() + row.start, a.tokens.begin() + row.start + planned_[i] - row.drafts);
    if (row.drafts > 0) row.ids.insert(row.ids.end(), a.drafts.begin(), a.drafts.begin() + row.drafts);
    (schedulable_[i].pending == 1 ? decode_rows : prefill_rows) += planned_[i];
    bool samples = a.phase == Phase::kRunning && row.start + planned_[i] - row.drafts == a.known();
    row.first_logit = samples ? logits : -1;
    logits += samples ? 1 + row.drafts : 0;
    first_row += planned_[i];
    counters_.drafted_tokens += row.drafts;
    rows_.push_back(std::move(row));
  }
  for (const Row& row : rows_) {
    auto wanted = row.first_logit < 0 ? Runner::Logits::kNone : row.drafts > 0 ? Runner::Logits::kAll : Runner::Logits::kLast;
    items_.push_back({&*row.request->sequence, row.ids, wanted});
  }
  ActiveRequest* early = rows_.size() == 1 && rows_[0].request->restore ? rows_[0].request : nullptr;
  if (early) {
    gate_.watch(*early->restore);
    runner_->set_gate(&gate_);
  }
  Status status = runner_->step(items_);
  runner_->set_gate(nullptr);
  if (!status) return fail(status.error());
  if (early && !end_early(*early)) return;
  if (early) begin += std::chrono::duration_cast<Clock::duration>(gate_.waited());  // no time of the model
  auto computed = Clock::now();
  int64_t generated = counters_.generated_tokens;
  for (Row& row : rows_) commit(row);
  auto sampled = Clock::now();
  if (drafts_possible() && rows_.size() < drafts_.size() && drafts_[rows_.size()].drafting()) draft();
  record(decode_rows, prefill_rows, begin, computed, sampled, counters_.generated_tokens - generated);
}

// After a step beside which its pages were read. False: some of them were lost, and with them what it computed.
bool EngineLoop::end_early(ActiveRequest& a) {
  if (gate_.failed() || a.restore->page_tokens() < a.plan.stored) {
    ++counters_.early_losses;
    look_up_again(a, {ErrorCode::kNotFound, "a part of the prefix was lost on its way"});
    return false;
  }
  finish_restore(a, a.waited + gate_.waited());
  return true;
}

void EngineLoop::record(int64_t decode_rows, int64_t prefill_rows, Clock::time_point begin, Clock::time_point computed,
                        Clock::time_point sampled, int64_t generated) {
  auto end = Clock::now();
  double seconds = seconds_between(begin, end);
  ++counters_.steps;
  counters_.step_tokens += decode_rows + prefill_rows;
  counters_.step_seconds += seconds;
  counters_.forward_seconds += seconds_between(begin, computed);
  counters_.sample_seconds += seconds_between(computed, sampled);
  counters_.draft_seconds += seconds_between(sampled, end);
  (prefill_rows > 0 ? counters_.prefill_step_seconds : counters_.decode_step_seconds) += seconds;
  chunks_.record(decode_rows, prefill_rows, seconds);
  size_t sequences = rows_.size();
  if (drafts_possible() && prefill_rows == 0 && sequences < drafts_.size()) drafts_[sequences].record(drafting_, generated, seconds);
}

// After the step: its tokens are in the cache. Samples, tells the reader, gives the cache what it may have.
void EngineLoop::commit(Row& row) {
  ActiveRequest& a = *row.request;
  a.drafts.clear();
  if (int64_t prefilled = std::min(a.length(), a.prompt_tokens); prefilled > a.prefilled && row.start < a.prompt_tokens) {
    a.prefilled = prefilled;
    StreamEvent event;
    event.kind = StreamEvent::Kind::kPrefill;
    event.prefilled = prefilled;
    send(a, std::move(event));
  }
  if (a.phase == Phase::kClosing) return finish(a, a.reason);
  if (row.first_logit >= 0 && !sample_rows(a, row)) return;
  publish(a);
  while (a.next_point < a.points.size() && a.points[a.next_point].length <= a.length()) {
    if (a.points[a.next_point].length == a.length()) keep_snapshot(a, a.points[a.next_point].use);
    ++a.next_point;
  }
}

// Rows whose drafts the trunk agrees with become text; the rest is rolled back. False: the request has ended.
bool EngineLoop::sample_rows(ActiveRequest& a, const Row& row) {
  int64_t base = a.length() - row.drafts;  // the first token that was not known
  for (int64_t i = 0; i <= row.drafts; ++i) {
    SampledToken token;
    if (Status status = sample(a, row.first_logit + i, base + i, token); !status) {
      a.sequence->roll_back(base + i);
      finish(a, EndReason::kFailed, status.error());
      return false;
    }
    int32_t id = token.id;
    const auto& stops = a.request.stop_ids;
    if (std::find(stops.begin(), stops.end(), id) != stops.end()) {
      a.sequence->roll_back(base + i);
      finish(a, EndReason::kStop);
      return false;
    }
    a.tokens.push_back(id);
    a.sampler.accept(id);
    ++a.generated;
    ++counters_.generated_tokens;
    if (a.request.constraint && a.request.script.empty()) a.request.constraint->accept(id);
    StreamEvent event;
    event.token = std::move(token);
    send(a, std::move(event));
    bool agreed = i < row.drafts && id == row.ids[row.ids.size() - row.drafts + i];
    if (agreed) ++counters_.accepted_tokens;
    if (a.generated >= a.max_tokens) {
      a.phase = Phase::kClosing;
      a.reason = EndReason::kLength;
      // With the last token accepted its row is there already; else the next step computes it.
      a.sequence->roll_back(base + i + (agreed ? 1 : 0));
      if (agreed) finish(a, a.reason);
      return !agreed;
    }
    if (!agreed) {
      a.sequence->roll_back(base + i);
      break;
    }
  }
  return true;
}

Status EngineLoop::sample(ActiveRequest& a, int64_t logit, int64_t position, SampledToken& token) {
  if (a.generated < static_cast<int64_t>(a.request.script.size())) {
    token = a.sampler.force(logit_row(logit), a.request.script[static_cast<size_t>(a.generated)]);
    return {};
  }
  std::span<const uint32_t> mask;
  TokenConstraint* constraint = a.request.script.empty() ? a.request.constraint.get() : nullptr;
  int32_t banned = constraint ? constraint->only_ban() : -1;
  if (constraint && banned < 0) {
    std::fill(mask_.begin(), mask_.end(), ~uint32_t{0});
    if (constraint->restrict(mask_)) mask = mask_;
    int64_t spare = static_cast<int64_t>(mask_.size()) * 32 - runner_->model().config.vocab_size;
    mask_.back() &= ~uint32_t{0} >> spare;
    if (std::all_of(mask_.begin(), mask_.end(), [](uint32_t word) { return word == 0; }))
      return Error{ErrorCode::kInvalid, "the constraint of the answer lets no token through"};
  }
  token = a.sampler.sample(logit_row(logit), position, mask, banned);
  return {};
}

// Feeds the draft block the rows of the step that became text, then has it guess on from each sequence's end.
void EngineLoop::draft() {
  draft_items_.clear();
  draft_owners_.clear();
  int64_t window = runner_->model().config.window;
  for (const Row& row : rows_) {
    ActiveRequest& a = *row.request;
    if (a.phase != Phase::kRunning) continue;
    // The block sees a window only, so it need not read what lies further back than that.
    int64_t rows = a.length() - row.start;
    if (a.known() - a.length() > window || rows == 0) continue;
    draft_items_.push_back({&*a.sequence, row.first_row, row.start, std::span(a.tokens).subspan(row.start + 1, rows)});
    draft_owners_.push_back(&a);
  }
  int64_t guesses = 0;
  while (!draft_items_.empty()) {
    if (Status status = runner_->draft(draft_items_); !status) return fail(status.error());
    size_t kept = 0;
    for (size_t i = 0; i < draft_items_.size(); ++i) {
      ActiveRequest& a = *draft_owners_[i];
      int64_t room = std::min<int64_t>(options_.draft_tokens, a.max_tokens - a.generated - 1);
      if (a.known() - a.length() != 1 || guesses >= room) continue;
      a.drafts.push_back(best_token(logit_row(static_cast<int64_t>(i))));
      if (guesses + 1 >= room) continue;
      draft_owners_[kept] = &a;
      draft_items_[kept++] = {&*a.sequence, runner_->last_draft_row(static_cast<int64_t>(i)), a.length() + guesses, std::span(a.drafts).last(1)};
    }
    draft_items_.resize(kept);
    draft_owners_.resize(kept);
    ++guesses;
  }
}

}  // namespace kvasir
