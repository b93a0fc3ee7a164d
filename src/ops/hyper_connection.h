// Manifold-constrained hyper-connections (mHC): the residual is `hc` parallel streams; each half block
// reads a weighted sum of them and writes back through a doubly stochastic mix. Source: spec 6.
//
// The streams are held as bf16 values under kNative and as f32 otherwise; coefficients are always f32.
#pragma once

#include "tensor/view.h"

namespace kvasir {

struct HyperConnectionWeights {
  View<const float, 2> fn;     // [(2+hc)*hc, hc*dim]; [hc, hc*dim] for the head
  View<const float, 1> base;   // [(2+hc)*hc]; [hc] for the head
  View<const float, 1> scale;  // [3]: pre, post, comb; [1] for the head
};

// Ops::hc_pre:  x[t] = sum_s pre[t,s] * streams[t,s];  also the mix that hc_post will need.
//   comb comes from `sinkhorn_iters` row/column normalisations (spec 6.2) and ends on a column one.
struct HcPreArgs {
  HyperConnectionWeights w;
  View<const float, 3> streams;  // [T, hc, dim]
  float norm_eps = 1e-6f;
  float sinkhorn_eps = 1e-6f;
  int sinkhorn_iters = 20;
  View<float, 2> x;     // [T, dim]
  View<float, 2> post;  // [T, hc]
  View<float, 3> comb;  // [T, hc, hc]: first index is the source stream
};

// Ops::hc_post:  streams[t,k] <- post[t,k] * y[t] + sum_j comb[t,j,k] * streams[t,j], in place.
struct HcPostArgs {
  View<const float, 2> y;     // [T, dim]
  View<const float, 2> post;  // [T, hc]
  View<const float, 3> comb;  // [T, hc, hc]
  View<float, 3> streams;     // [T, hc, dim]
};

// Ops::hc_boundary: everything between two half blocks:
//   streams <- hc_post(y, post, comb, streams)   unless y is empty (in front of the first half block)
//   (x, post, comb) <- hc_pre(w, streams)        post and comb are replaced
//   x <- rms_norm(x, norm)
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

// Ops::hc_head:  x[t] = sum_s pre[t,s] * streams[rows[t], s]: collapse before the final norm (spec 6.4).
struct HcHeadArgs {
  HyperConnectionWeights w;
  View<const float, 3> streams;  // [T, hc, dim]
  View<const int32_t, 1> rows;   // [n] rows of `streams` to collapse
  float norm_eps = 1e-6f;
  float hc_eps = 1e-6f;
  View<float, 2> x;              // [n, dim]
};

// Ops::mtp_join:  streams[t,s] = h[t,s] + e[t], rounded to bf16 under kNative (spec 8).
struct MtpJoinArgs {
  View<const float, 3> h;  // [T, hc, dim]
  View<const float, 2> e;  // [T, dim]
  View<float, 3> streams;  // [T, hc, dim]; may be h
};

}  // namespace kvasir
