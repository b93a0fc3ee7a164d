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

// attend with what stands on both sides of it: `attend.q` is wq_b's raw output; head_norm_rope before, the
// inverse rotation of the result behind. Only where can_attend_heads says so.
struct AttendHeadsArgs {
  AttendArgs attend;
  View<const float, 3> table;  // [T, R/2, 2]
  float eps = 1e-6f;
};
bool can_attend_heads(const CudaContext& context, const AttendArgs& args);
void attend_heads(CudaContext& context, const AttendHeadsArgs& args);

}  // namespace kvasir::cuda
