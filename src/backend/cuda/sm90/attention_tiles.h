// kFast attention at head dim 512 over quantised rows, 64 heads a block; see attention_tiles.cu.
#pragma once

#include "backend/cuda/attention.h"

namespace kvasir::cuda::sm90 {

bool can_attend_tiles(const AttendArgs& args);
// `heads` null: args.q is normed and rotated, the result stays rotated; else as attend_heads.
// `ranks`: blocks that share the keys of a query, a power of two up to 16; 0: what suits the number of rows.
void attend_tiles(CudaContext& context, const AttendArgs& args, const AttendHeadsArgs* heads, int ranks = 0);

}  // namespace kvasir::cuda::sm90
