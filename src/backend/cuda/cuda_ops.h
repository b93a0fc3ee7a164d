// make_cuda_ops: the CUDA backend as an Ops, on one device.
#pragma once

#include <memory>

#include "ops/ops.h"

namespace kvasir::cuda {

struct CudaOptions {
  Numerics numerics = Numerics::kFast;
  int device = 0;
  bool deterministic = false;  // a row's bits do not depend on how many rows a step has
};

// Errors: no driver, no such device, an architecture that the kernels are not built for, memory.
Result<std::unique_ptr<Ops>> make_cuda_ops(const CudaOptions& options);

}  // namespace kvasir::cuda
