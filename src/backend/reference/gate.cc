// Scores and choice of experts, by sorting all of them; contract in ops/gate.h.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "backend/reference/reference_ops.h"

namespace kvasir {

void ReferenceOps::gate(const GateArgs& a) {
  int64_t n = a.logits.shape(1), k = a.experts.shape(1);
  std::vector<float> score(n);
  for (int64_t t = 0; t < a.logits.shape(0); ++t) {
    for (int64_t e = 0; e < n; ++e) {
      double z = a.logits(t, e);
      score[e] = static_cast<float>(std::sqrt(z > 20 ? z : std::log1p(std::exp(z))));
    }
    if (!a.tid2eid.empty()) {
      for (int64_t i = 0; i < k; ++i) a.experts(t, i) = a.tid2eid(a.ids(t), i);
    } else {
      std::vector<int32_t> order(n);
      std::iota(order.begin(), order.end(), 0);
      auto biased = [&](int32_t e) { return score[e] + a.bias(e); };
      std::partial_sort(order.begin(), order.begin() + k, order.end(),
                        [&](int32_t x, int32_t y) { return biased(x) != biased(y) ? biased(x) > biased(y) : x < y; });
      for (int64_t i = 0; i < k; ++i) a.experts(t, i) = order[i];
    }
    double sum = 0;
    for (int64_t i = 0; i < k; ++i) sum += score[a.experts(t, i)];
    for (int64_t i = 0; i < k; ++i) a.weights(t, i) = static_cast<float>(score[a.experts(t, i)] / sum * a.scale);
  }
}

}  // namespace kvasir
