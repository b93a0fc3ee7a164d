// RMS norm: rows over threads.
#include "backend/cpu/norm.h"

#include <algorithm>

#include "backend/cpu/row_kernels.h"
#include "base/check.h"

namespace kvasir::cpu {

void rms_norm(CpuContext& context, const RmsNormArgs& args) {
  int64_t rows = args.x.shape(0), n = args.x.shape(1);
  if (rows == 0) return;
  KVASIR_CHECK(args.out.shape() == args.x.shape() && args.weight.shape(0) == n,
               "x [{}, {}], out [{}, {}], weight [{}]", rows, n, args.out.shape(0), args.out.shape(1),
               args.weight.shape(0));
  KVASIR_CHECK(args.x.stride(1) == 1 && args.out.stride(1) == 1 && args.weight.stride(0) == 1,
               "rows must be dense");
  const RowKernels& kernels = row_kernels(context.isa);
  constexpr int64_t kRows = 8;  // a task
  context.pool.run((rows + kRows - 1) / kRows, [&](int64_t task, int) {
    for (int64_t i = task * kRows; i < std::min(rows, (task + 1) * kRows); ++i)
      kernels.rms_norm(args.x.row(i), args.weight.data(), args.eps, n, context.numerics == Numerics::kNative,
                       args.out.row(i));
  });
}

}  // namespace kvasir::cpu
