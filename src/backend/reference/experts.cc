// The chosen experts of each token, one token at a time; contract in ops/experts.h.
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "backend/reference/reference_ops.h"

namespace kvasir {

void ReferenceOps::experts(const ExpertsArgs& a) {
  int64_t dim = a.x.shape(1), k = a.experts.shape(1);
  std::vector<float> g, u, y(dim);
  std::vector<double> sum(dim);
  // One token through one expert, added to `sum`.
  auto add_expert = [&](int64_t t, const ExpertWeights& w, double route_weight) {
    int64_t n = w.w1.rows;
    g.resize(n);
    u.resize(n);
    linear({w.w1, a.x.rows(t, 1), View<float, 2>(g.data(), {1, n})});
    linear({w.w3, a.x.rows(t, 1), View<float, 2>(u.data(), {1, n})});
    for (int64_t i = 0; i < n; ++i) {
      double gate = std::min(g[i], a.limit), up = std::clamp(u[i], -a.limit, a.limit);
      g[i] = round(route_weight * (gate / (1.0 + std::exp(-gate)) * up));
    }
    linear({w.w2, View<const float, 2>(g.data(), {1, n}), View<float, 2>(y.data(), {1, dim})});
    for (int64_t e = 0; e < dim; ++e) sum[e] += y[e];
  };
  std::vector<int64_t> slots(k);
  for (int64_t t = 0; t < a.x.shape(0); ++t) {
    std::fill(sum.begin(), sum.end(), 0.0);
    for (int64_t i = 0; i < k; ++i) slots[i] = i;
    std::sort(slots.begin(), slots.end(),
              [&](int64_t x, int64_t z) { return std::pair(a.experts(t, x), x) < std::pair(a.experts(t, z), z); });
    for (int64_t i : slots) add_expert(t, a.routed(a.experts(t, i)), a.weights(t, i));
    add_expert(t, a.shared, 1.0);
    for (int64_t e = 0; e < dim; ++e) a.out(t, e) = round(sum[e]);
  }
}

}  // namespace kvasir
