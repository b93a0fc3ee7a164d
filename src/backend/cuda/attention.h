// Window rows and attention over them and the chosen entries, on the device; contract in ops/attention.h.
//
// kFast at head dim 512 over quantised rows runs the kernels of sm90/ (bf16 matrix units, bf16 queries and
// weights, f32 sums); everything else runs the generic kernel of attention.cu.
#pragma once

#include "backend/cuda/context.h"
#include "ops/attention.h"

namespace kvasir::cuda {

void store_window(CudaContext& context, const StoreWindowArgs& args);
void commit_window(CudaContext& context, const CommitWindowArgs& args);
void attend(CudaContext& context, const AttendArgs& args);

// In one kernel where can_attend_heads says so; it reads attend.q and leaves it as it was.
bool can_attend_heads(const CudaContext& context, const AttendArgs& args);
void attend_heads(CudaContext& context, const AttendHeadsArgs& args);

}  // namespace kvasir::cuda
