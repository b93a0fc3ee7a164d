// The experts of a few tokens under kFast: one launch that streams the weights of the experts that were
// chosen.
#pragma once

#include "backend/cuda/context.h"
#include "ops/experts.h"

namespace kvasir::cuda {

// Whether experts_decode can serve this call: sizes, formats and numerics.
bool experts_decode_serves(const CudaContext& context, const ExpertsArgs& args);
void experts_decode(CudaContext& context, const ExpertsArgs& args);

}  // namespace kvasir::cuda
