// Rows of the embedding table on the device; contracts in ops/embedding.h. Ids are read on the device.
#pragma once

#include "backend/cuda/context.h"
#include "ops/embedding.h"

namespace kvasir::cuda {

void embed(CudaContext& context, const EmbedArgs& args);
void gather_embedding(CudaContext& context, const GatherEmbeddingArgs& args);

}  // namespace kvasir::cuda
