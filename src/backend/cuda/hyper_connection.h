// Hyper-connections on the device; contracts in ops/hyper_connection.h, and the boundary between two half
// blocks as one call.
#pragma once

#include "backend/cuda/context.h"
#include "ops/hyper_connection.h"

namespace kvasir::cuda {

void hc_pre(CudaContext& context, const HcPreArgs& args);
void hc_post(CudaContext& context, const HcPostArgs& args);
void hc_head(CudaContext& context, const HcHeadArgs& args);
void mtp_join(CudaContext& context, const MtpJoinArgs& args);

// Under kFast one launch for the shapes of sm90/boundary_cluster.h, and a token's bits depend on that token
// alone, however many there are. Everything else runs the three ops.
void hc_boundary(CudaContext& context, const HcBoundaryArgs& args);

}  // namespace kvasir::cuda
