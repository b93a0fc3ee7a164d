// The experts of many tokens under kFast: tokens grouped by expert, e4m3 activations, matrix products by
// warpgroups.
#pragma once

#include "backend/cuda/context.h"
#include "ops/experts.h"

namespace kvasir::cuda {

// Whether experts_prefill can serve this call: sizes, formats and numerics.
bool experts_prefill_serves(const CudaContext& context, const ExpertsArgs& args);
void experts_prefill(CudaContext& context, const ExpertsArgs& args);

}  // namespace kvasir::cuda
