// Linear layers on the device; contracts in ops/linear.h, all pointers on the device.
//
// kExact and kNative: one generic kernel with one order of summation for every number of rows.
// kFast: a kernel that streams the weights once (sm90/linear_stream.h) for up to kStreamRows rows, FP8 or bf16
// tensor core products (sm90/gemm_prefill.h) above, the generic kernel for shapes that neither takes.
#pragma once

#include <span>

#include "backend/cuda/context.h"
#include "ops/linear.h"

namespace kvasir::cuda {

void linear(CudaContext& context, const LinearArgs& args);
void grouped_linear(CudaContext& context, const GroupedLinearArgs& args);

// Several linears of the same x: out_i = linear_i for every i, in one launch when it pays. All `x` are the same view.
void linear_many(CudaContext& context, std::span<const LinearArgs> args);

}  // namespace kvasir::cuda
