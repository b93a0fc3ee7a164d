// The indexer of the CUDA backend; contracts in ops/indexer.h.
#pragma once

#include "backend/cuda/context.h"
#include "ops/indexer.h"

namespace kvasir::cuda {

void index_query(CudaContext& context, const IndexQueryArgs& args);
void index_select(CudaContext& context, const IndexSelectArgs& args);
// index_query and index_select of the same q and weight in one: where the scan of kFast serves, it transforms
// the queries in registers and leaves q and weight in memory as they were.
void index_query_select(CudaContext& context, const IndexQueryArgs& query, const IndexSelectArgs& args);

}  // namespace kvasir::cuda
