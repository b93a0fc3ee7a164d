// Pooling of token rows into one entry, one number at a time; contract in ops/compressor.h.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "backend/reference/arithmetic.h"
#include "backend/reference/reference_ops.h"

namespace kvasir {
namespace {

// One token's projections, z = score + ape, wherever they are: this step's rows or the tail ring.
class TokenRows {
 public:
  explicit TokenRows(const CompressSequence& a) : a_(a), width_(a.kv.shape(1)) {}
  float kv(int64_t position, int64_t channel) const {
    if (position >= a_.start) return a_.kv(position - a_.start, channel);
    return tail(position)[channel];
  }
  float z(int64_t position, int64_t channel) const {
    if (position >= a_.start) return a_.score(position - a_.start, channel) + a_.ape(position % a_.ratio, channel);
    return tail(position)[width_ + channel];
  }
  float* tail(int64_t position) const { return a_.tail + position % a_.tail_capacity * 2 * width_; }
  int64_t width() const { return width_; }

 private:
  const CompressSequence& a_;
  int64_t width_;
};

// C[b][channel]: softmax over the group's tokens, per channel.
double pool(const CompressSequence& a, const TokenRows& rows, int64_t block, int64_t d, int64_t e) {
  int64_t end = (block + 1) * a.ratio, begin = std::max<int64_t>(0, end - a.lanes * a.ratio);
  auto channel = [&](int64_t p) { return a.lanes == 2 && p >= block * a.ratio ? d + e : e; };
  double max = -std::numeric_limits<double>::infinity(), sum = 0, value = 0;
  for (int64_t p = begin; p < end; ++p) max = std::max<double>(max, rows.z(p, channel(p)));
  for (int64_t p = begin; p < end; ++p) {
    double weight = std::exp(rows.z(p, channel(p)) - max);
    sum += weight;
    value += weight * rows.kv(p, channel(p));
  }
  return value / sum;
}

}  // namespace

void ReferenceOps::compress(const CompressArgs& a) {
  for (int64_t i = 0; i < a.batch.sequences.shape(0); ++i) compress_sequence(a.sequence(i));
}

void ReferenceOps::compress_sequence(const CompressSequence& a) {
  int64_t tokens = a.kv.shape(0), d = a.norm.shape(0);
  TokenRows rows(a);
  KVASIR_CHECK(rows.width() == a.lanes * d && d == a.format.dim, "rows of {} for {} lanes of {}", rows.width(), a.lanes, d);
  KVASIR_CHECK(a.tail_capacity >= a.lanes * a.ratio - 1, "a tail of {} for ratio {}", a.tail_capacity, a.ratio);
  std::vector<float> row(d), cos_sin(2 * a.inv_freq.shape(0));
  std::vector<double> normal(d);
  for (int64_t b = a.start / a.ratio; b < (a.start + tokens) / a.ratio; ++b) {
    for (int64_t e = 0; e < d; ++e) row[e] = round(pool(a, rows, b, d, e));
    reference::normalise(row.data(), a.norm.data(), d, a.norm_eps, normal.data());
    for (int64_t e = 0; e < d; ++e) row[e] = round(normal[e]);
    int64_t pairs = a.inv_freq.shape(0);
    reference::rotation(b * a.ratio, a.inv_freq, cos_sin.data());
    reference::rotate(&row[d - 2 * pairs], cos_sin.data(), pairs, 1.f);
    for (int64_t e = d - 2 * pairs; e < d; ++e) row[e] = round(row[e]);
    if (a.kind == CompressKind::kIndexKey) {
      reference::hadamard(row.data(), d);
      for (int64_t e = 0; e < d; ++e) row[e] = round(row[e]);
    }
    KvRows page = a.section.in_page(a.pages[b / a.section.rows_per_page]);
    int64_t slot = b % a.section.rows_per_page;
    encode_row(a.format, row.data(), page.row_data(a.format, slot), page.row_scale(a.format, slot));
  }
  for (int64_t i = std::max<int64_t>(0, tokens - a.tail_capacity); i < tokens; ++i) {
    float* tail = rows.tail(a.start + i);
    for (int64_t c = 0; c < rows.width(); ++c) {
      tail[c] = a.kv(i, c);
      tail[rows.width() + c] = a.score(i, c) + a.ape((a.start + i) % a.ratio, c);
    }
  }
}

}  // namespace kvasir
