// Token rows of the embedding table on the CPU backend. Contract: ops/embedding.h.
#pragma once

#include "backend/cpu/context.h"
#include "ops/embedding.h"

namespace kvasir::cpu {

void embed(CpuContext& context, const EmbedArgs& args);
void gather_embedding(CpuContext& context, const GatherEmbeddingArgs& args);

}  // namespace kvasir::cpu
