// The indexer of the CUDA backend; contracts in ops/indexer.h.
#pragma once

#include "backend/cuda/context.h"
#include "ops/indexer.h"

namespace kvasir::cuda {

void index_query(CudaContext& context, const IndexQueryArgs& args);
void index_select(CudaContext& context, const IndexSelectArgs& args);

}  // namespace kvasir::cuda
