// Attention over window rows and chosen entries, one query and head at a time; contract in ops/attention.h.
#include <cmath>
#include <cstring>
#include <vector>

#include "backend/reference/arithmetic.h"
#include "backend/reference/reference_ops.h"
#include "tensor/dtype.h"

namespace kvasir {
namespace {

// Decodes every key that row i sees, in list order: window oldest first, then entries ascending.
std::vector<float> gather_keys(const AttendSequence& a, int64_t i, int64_t d) {
  std::vector<float> keys;
  auto push = [&](const KvRows& rows, int64_t r) {
    keys.resize(keys.size() + d);
    decode_row(a.format, rows.row_data(a.format, r), rows.row_scale(a.format, r), &keys[keys.size() - d]);
  };
  auto push_entry = [&](int64_t b) { push(a.entries.in_page(a.pages[b / a.entries.rows_per_page]), b % a.entries.rows_per_page); };
  int64_t t = a.start + i;
  for (int64_t p = std::max<int64_t>(0, t - a.window + 1); p <= t; ++p)
    p < a.start ? push(a.ring, p % a.ring_capacity) : push(a.rows, p - a.start);
  if (a.choice == EntryChoice::kAll) {
    for (int64_t b = 0; b < (t + 1) / a.ratio; ++b) push_entry(b);
  } else if (a.choice == EntryChoice::kSelected) {
    for (int64_t j = 0; j < a.selected.shape(1) && a.selected(i, j) >= 0; ++j) push_entry(a.selected(i, j));
  }
  return keys;
}

}  // namespace

void ReferenceOps::store_window(const StoreWindowArgs& a) {
  int64_t d = a.kv.shape(1), pairs = a.table.shape(1);
  KVASIR_CHECK(d == a.format.dim, "rows of {} in a format of {}", d, a.format.dim);
  std::vector<float> row(d);
  for (int64_t t = 0; t < a.kv.shape(0); ++t) {
    std::memcpy(row.data(), a.kv.row(t), sizeof(float) * d);
    reference::rotate(&row[d - 2 * pairs], &a.table(t, 0, 0), pairs, 1.f);
    encode_row(a.format, row.data(), a.out.row_data(a.format, t), a.out.row_scale(a.format, t));
  }
}

void ReferenceOps::commit_window(const CommitWindowArgs& a) {
  for (int64_t i = 0; i < a.batch.sequences.shape(0); ++i) commit_window_sequence(a.sequence(i));
}

void ReferenceOps::commit_window_sequence(const CommitWindowSequence& a) {
  for (int64_t i = std::max<int64_t>(0, a.tokens - a.capacity); i < a.tokens; ++i) {
    int64_t slot = (a.start + i) % a.capacity;
    std::memcpy(a.ring.row_data(a.format, slot), a.rows.row_data(a.format, i), a.format.data_bytes);
    if (a.format.scale_bytes) std::memcpy(a.ring.row_scale(a.format, slot), a.rows.row_scale(a.format, i), a.format.scale_bytes);
  }
}

void ReferenceOps::attend(const AttendArgs& a) {
  for (int64_t i = 0; i < a.batch.sequences.shape(0); ++i) attend_sequence(a.sequence(i));
}

void ReferenceOps::attend_sequence(const AttendSequence& a) {
  int64_t heads = a.q.shape(1), d = a.q.shape(2);
  KVASIR_CHECK(d == a.format.dim && a.sink.shape(0) == heads, "q [{}, {}], rows of {}, {} sinks", heads, d, a.format.dim, a.sink.shape(0));
  double scale = 1.0 / std::sqrt(static_cast<double>(d));
  std::vector<double> out(d);
  for (int64_t i = 0; i < a.q.shape(0); ++i) {
    std::vector<float> keys = gather_keys(a, i, d);
    int64_t n = static_cast<int64_t>(keys.size()) / d;
    std::vector<double> p(n);
    for (int64_t h = 0; h < heads; ++h) {
      double max = -std::numeric_limits<double>::infinity();
      for (int64_t j = 0; j < n; ++j) max = std::max(max, p[j] = reference::dot(&a.q(i, h, 0), &keys[j * d], d) * scale);
      double sum = std::exp(a.sink(h) - max);
      std::fill(out.begin(), out.end(), 0.0);
      for (int64_t j = 0; j < n; ++j) {
        double weight = std::exp(p[j] - max);
        sum += weight;
        if (native()) weight = round_bf16(static_cast<float>(weight));
        for (int64_t e = 0; e < d; ++e) out[e] += weight * keys[j * d + e];
      }
      for (int64_t e = 0; e < d; ++e) a.out(i, h, e) = round(out[e] / sum);
    }
  }
}

}  // namespace kvasir
