// Root-mean-square norms on the device; contract in ops/norm.h.
#pragma once

#include "backend/cuda/context.h"
#include "ops/norm.h"

namespace kvasir::cuda {

void rms_norm(CudaContext& context, const RmsNormArgs& args);

}  // namespace kvasir::cuda
