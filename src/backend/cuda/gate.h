// Ops::gate on a CUDA device; contract in ops/gate.h.
#pragma once

#include "backend/cuda/context.h"
#include "ops/gate.h"

namespace kvasir::cuda {

void gate(CudaContext& context, const GateArgs& args);

}  // namespace kvasir::cuda
