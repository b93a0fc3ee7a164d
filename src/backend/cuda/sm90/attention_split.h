// kFast attention at head dim 512 over quantised rows for few query rows; see attention_split.cu.
#pragma once

#include "backend/cuda/attention.h"

namespace kvasir::cuda::sm90 {

// Asks for what can_attend_tiles asks for. `heads`: as attend_tiles. `wide`: 16 heads a block, not 8.
// `ranks`: blocks that share the keys of a query and a group of heads, 8 or 16.
void attend_split(CudaContext& context, const AttendArgs& args, const AttendHeadsArgs* heads, bool wide,
                  int ranks);

}  // namespace kvasir::cuda::sm90
