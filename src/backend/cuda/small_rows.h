// The small rows of an attention block as one launch; contract in ops/attention.h.
#pragma once

#include "backend/cuda/context.h"
#include "ops/attention.h"

namespace kvasir::cuda {

void small_rows(CudaContext& context, const SmallRowsArgs& args);

}  // namespace kvasir::cuda
