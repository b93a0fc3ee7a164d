// Ops::experts on a CUDA device; contract in ops/experts.h.
#pragma once

#include "backend/cuda/context.h"
#include "ops/experts.h"

namespace kvasir::cuda {

void experts(CudaContext& context, const ExpertsArgs& args);

}  // namespace kvasir::cuda
