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

// hc_boundary: everything between two half blocks:
//   streams <- hc_post(y, post, comb, streams)   unless y is empty (in front of the first half block)
//   (x, post, comb) <- hc_pre(w, streams)        post and comb are replaced
//   x <- rms_norm(x, norm)
// Under kFast one launch for the shapes of sm90/boundary_cluster.h, and a token's bits depend on that token alone,
// however many there are. Everything else runs the three ops.
struct HcBoundaryArgs {
  View<const float, 2> y;  // [T, dim] what the previous half block made, or empty
  HyperConnectionWeights w;
  View<const float, 1> norm;  // [dim]
  float norm_eps = 1e-6f;     // of both norms
  float sinkhorn_eps = 1e-6f;
  int sinkhorn_iters = 20;
  View<float, 3> streams;  // [T, hc, dim]
  View<float, 2> x;        // [T, dim]; may be y
  View<float, 2> post;     // [T, hc]
  View<float, 3> comb;     // [T, hc, hc]
};
void hc_boundary(CudaContext& context, const HcBoundaryArgs& args);

}  // namespace kvasir::cuda
