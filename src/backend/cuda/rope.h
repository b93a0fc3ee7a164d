// Rotary embedding on the device; contracts in ops/rope.h.
#pragma once

#include "backend/cuda/context.h"
#include "ops/rope.h"

namespace kvasir::cuda {

void rope_table(CudaContext& context, const RopeTableArgs& args);
void rope(CudaContext& context, const RopeArgs& args);
void head_norm_rope(CudaContext& context, const HeadNormRopeArgs& args);

}  // namespace kvasir::cuda
