// hc_pre, hc_post and Sinkhorn, one token at a time; contract in ops/hyper_connection.h.
#include <cmath>
#include <vector>

#include "backend/reference/arithmetic.h"
#include "backend/reference/reference_ops.h"

namespace kvasir {
namespace {

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// m = (f . fn^T) * rsqrt(mean(f^2) + eps) over the flattened streams of one token (spec 6.1).
std::vector<double> mixing_logits(const HyperConnectionWeights& w, const float* f, float eps) {
  int64_t n = w.fn.shape(1);
  double inverse = 1.0 / std::sqrt(reference::dot(f, f, n) / static_cast<double>(n) + eps);
  std::vector<double> m(w.fn.shape(0));
  for (int64_t i = 0; i < w.fn.shape(0); ++i) m[i] = reference::dot(f, w.fn.row(i), n) * inverse;
  return m;
}

// A <- row softmax + eps, then column, then (row, column) x (iterations - 1) normalisations (spec 6.2).
void sinkhorn(std::vector<double>& a, int n, int iterations, double eps) {
  for (int j = 0; j < n; ++j) {
    double max = a[j * n], sum = 0;
    for (int k = 1; k < n; ++k) max = std::max(max, a[j * n + k]);
    for (int k = 0; k < n; ++k) sum += a[j * n + k] = std::exp(a[j * n + k] - max);
    for (int k = 0; k < n; ++k) a[j * n + k] = a[j * n + k] / sum + eps;
  }
  auto normalise = [&](int line_stride, int item_stride) {
    for (int line = 0; line < n; ++line) {
      double sum = eps;
      for (int i = 0; i < n; ++i) sum += a[line * line_stride + i * item_stride];
      for (int i = 0; i < n; ++i) a[line * line_stride + i * item_stride] /= sum;
    }
  };
  normalise(1, n);  // columns
  for (int i = 1; i < iterations; ++i) {
    normalise(n, 1);  // rows
    normalise(1, n);
  }
}

}  // namespace

void ReferenceOps::hc_pre(const HcPreArgs& a) {
  int hc = static_cast<int>(a.streams.shape(1));
  int64_t dim = a.streams.shape(2);
  KVASIR_CHECK(a.w.fn.shape(0) == (2 + hc) * hc && a.w.fn.shape(1) == hc * dim, "fn [{}, {}] for {} streams of {}", a.w.fn.shape(0),
               a.w.fn.shape(1), hc, dim);
  for (int64_t t = 0; t < a.streams.shape(0); ++t) {
    std::vector<double> m = mixing_logits(a.w, &a.streams(t, 0, 0), a.norm_eps);
    std::vector<double> pre(hc), comb(hc * hc);
    for (int i = 0; i < hc; ++i) {
      pre[i] = sigmoid(m[i] * a.w.scale(0) + a.w.base(i)) + a.sinkhorn_eps;
      a.post(t, i) = static_cast<float>(2 * sigmoid(m[hc + i] * a.w.scale(1) + a.w.base(hc + i)));
    }
    for (int i = 0; i < hc * hc; ++i) comb[i] = m[2 * hc + i] * a.w.scale(2) + a.w.base(2 * hc + i);
    sinkhorn(comb, hc, a.sinkhorn_iters, a.sinkhorn_eps);
    for (int i = 0; i < hc * hc; ++i) a.comb(t, i / hc, i % hc) = static_cast<float>(comb[i]);
    for (int64_t e = 0; e < dim; ++e) {
      double x = 0;
      for (int s = 0; s < hc; ++s) x += pre[s] * a.streams(t, s, e);
      a.x(t, e) = round(x);
    }
  }
}

void ReferenceOps::hc_post(const HcPostArgs& a) {
  int64_t hc = a.streams.shape(1), dim = a.streams.shape(2);
  std::vector<float> old(hc);
  for (int64_t t = 0; t < a.streams.shape(0); ++t) {
    for (int64_t e = 0; e < dim; ++e) {
      for (int64_t j = 0; j < hc; ++j) old[j] = a.streams(t, j, e);
      for (int64_t k = 0; k < hc; ++k) {
        double x = static_cast<double>(a.post(t, k)) * a.y(t, e);
        for (int64_t j = 0; j < hc; ++j) x += static_cast<double>(a.comb(t, j, k)) * old[j];
        a.streams(t, k, e) = round(x);
      }
    }
  }
}

void ReferenceOps::hc_head(const HcHeadArgs& a) {
  int64_t hc = a.streams.shape(1), dim = a.streams.shape(2);
  KVASIR_CHECK(a.w.fn.shape(0) == hc && a.w.fn.shape(1) == hc * dim, "head fn [{}, {}] for {} streams of {}", a.w.fn.shape(0),
               a.w.fn.shape(1), hc, dim);
  for (int64_t i = 0; i < a.rows.shape(0); ++i) {
    int64_t t = a.rows(i);
    std::vector<double> pre = mixing_logits(a.w, &a.streams(t, 0, 0), a.norm_eps);
    for (int64_t s = 0; s < hc; ++s) pre[s] = sigmoid(pre[s] * a.w.scale(0) + a.w.base(s)) + a.hc_eps;
    for (int64_t e = 0; e < dim; ++e) {
      double x = 0;
      for (int64_t s = 0; s < hc; ++s) x += pre[s] * a.streams(t, s, e);
      a.x(i, e) = round(x);
    }
  }
}

void ReferenceOps::mtp_join(const MtpJoinArgs& a) {
  for (int64_t t = 0; t < a.h.shape(0); ++t)
    for (int64_t s = 0; s < a.h.shape(1); ++s)
      for (int64_t e = 0; e < a.h.shape(2); ++e) a.streams(t, s, e) = round(static_cast<double>(a.h(t, s, e)) + a.e(t, e));
}

}  // namespace kvasir
