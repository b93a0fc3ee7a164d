// Index scores of every entry and the top k by sorting them; contract in ops/indexer.h.
#include <algorithm>
#include <numeric>
#include <vector>

#include "backend/reference/arithmetic.h"
#include "backend/reference/reference_ops.h"
#include "tensor/dtype.h"

namespace kvasir {

void ReferenceOps::index_query(const IndexQueryArgs& a) {
  int64_t heads = a.q.shape(1), d = a.q.shape(2);
  rope({a.q, a.table, false});
  KvRowFormat fp4 = KvRowFormat::index_key(Numerics::kNative, static_cast<int>(d));
  std::vector<std::byte> data(fp4.data_bytes), scale(fp4.scale_bytes);
  for (int64_t t = 0; t < a.q.shape(0); ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      float* q = &a.q(t, h, 0);
      reference::hadamard(q, d);
      if (native()) {
        for (int64_t i = 0; i < d; ++i) q[i] = round_bf16(q[i]);
        encode_row(fp4, q, data.data(), scale.data());
        decode_row(fp4, data.data(), scale.data(), q);
      }
      a.weight(t, h) = round(static_cast<double>(a.weight(t, h)) * a.weight_scale);
    }
  }
}

void ReferenceOps::index_select(const IndexSelectArgs& a) {
  for (int64_t i = 0; i < a.batch.sequences.shape(0); ++i) index_select_sequence(a.sequence(i));
}

void ReferenceOps::index_select_sequence(const IndexSelectSequence& a) {
  int64_t heads = a.q.shape(1), d = a.q.shape(2), topk = a.selected.shape(1);
  std::vector<float> key(d);
  for (int64_t i = 0; i < a.q.shape(0); ++i) {
    int64_t visible = (a.start + i + 1) / a.ratio;
    std::vector<float> score(visible);
    for (int64_t b = 0; b < visible; ++b) {
      KvRows page = a.keys.in_page(a.pages[b / a.keys.rows_per_page]);
      int64_t slot = b % a.keys.rows_per_page;
      decode_row(a.format, page.row_data(a.format, slot), page.row_scale(a.format, slot), key.data());
      double sum = 0;
      for (int64_t h = 0; h < heads; ++h) {
        float dot = round(reference::dot(&a.q(i, h, 0), key.data(), d));
        sum += round(static_cast<double>(std::max(dot, 0.f)) * a.weight(i, h));
      }
      score[b] = round(sum);
    }
    std::vector<int32_t> order(visible);
    std::iota(order.begin(), order.end(), 0);
    int64_t keep = std::min(topk, visible);
    std::partial_sort(order.begin(), order.begin() + keep, order.end(),
                      [&](int32_t x, int32_t y) { return score[x] != score[y] ? score[x] > score[y] : x < y; });
    std::sort(order.begin(), order.begin() + keep);
    for (int64_t j = 0; j < topk; ++j) a.selected(i, j) = j < keep ? order[j] : -1;
  }
}

}  // namespace kvasir
