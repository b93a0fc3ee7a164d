// Root-mean-square norms; contract in ops/norm.h.
#include <vector>

#include "backend/reference/arithmetic.h"
#include "backend/reference/reference_ops.h"
#include "tensor/dtype.h"

namespace kvasir {

ReferenceOps::ReferenceOps(Numerics numerics) : numerics_(numerics) {
  KVASIR_CHECK(numerics != Numerics::kFast, "the reference backend has no fast numerics");
}

float ReferenceOps::round(double x) const {
  float f = static_cast<float>(x);
  return native() ? round_bf16(f) : f;
}

void ReferenceOps::rms_norm(const RmsNormArgs& a) {
  int64_t n = a.x.shape(1);
  KVASIR_CHECK(a.weight.shape(0) == n && a.out.shape() == a.x.shape(), "norm of {} with weight {}", n, a.weight.shape(0));
  std::vector<double> y(n);
  for (int64_t t = 0; t < a.x.shape(0); ++t) {
    reference::normalise(a.x.row(t), a.weight.data(), n, a.eps, y.data());
    for (int64_t i = 0; i < n; ++i) a.out(t, i) = round(y[i]);
  }
}

}  // namespace kvasir
