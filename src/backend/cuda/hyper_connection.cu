// hc_pre, hc_post and hc_head for any shape, a block a token; the fused boundary is in
// sm90/boundary_cluster.cu.
#include "backend/cuda/hyper_connection.h"

#include "backend/cuda/norm.h"
#include "backend/cuda/row_math.cuh"
#include "backend/cuda/sm90/boundary_cluster.h"
#include "base/check.h"

namespace kvasir::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kMaxStreams = 8;

// m = (f . fn^T) * rsqrt(mean(f^2) + eps) over one token's n values, into `m` (shared); ends with a barrier.
// Four rows of fn at a time.
template <class Sum>
__device__ void mixing_logits(const float* f, const float* fn, int64_t n, int outputs, float eps, Sum* space,
                              Sum* m) {
  constexpr int kRows = 4;
  Sum squares = 0, inverse = 0;
  for (int first = 0; first < outputs; first += kRows) {
    Sum dot[kRows] = {};
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < n; i += kThreads) {
      Sum value = f[i];
      if (first == 0) squares += value * value;
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        if (first + r < outputs) dot[r] += value * fn[(first + r) * n + i];
    }
    if (first == 0)
      inverse = inverse_root<Sum>(block_sum(squares, space) / static_cast<Sum>(n) + static_cast<Sum>(eps));
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      __syncthreads();
      Sum sum = block_sum(dot[r], space);
      if (threadIdx.x == 0 && first + r < outputs) m[first + r] = sum * inverse;
    }
    __syncthreads();
  }
}

// spec 6.2 over a[hc][hc] in shared memory, by the first hc threads of one warp: each takes a row, then a
// column.
template <class Sum>
__device__ void sinkhorn(Sum* a, int hc, int iterations, Sum eps) {
  int line = threadIdx.x;
  auto normalise = [&](int line_stride, int item_stride) {
    __syncwarp();
    if (line < hc) {
      Sum sum = eps;
      for (int i = 0; i < hc; ++i) sum += a[line * line_stride + i * item_stride];
      for (int i = 0; i < hc; ++i) a[line * line_stride + i * item_stride] /= sum;
    }
  };
  if (line < hc) {
    Sum* row = a + line * hc;
    Sum max = row[0], sum = 0;
    for (int k = 1; k < hc; ++k) max = row[k] > max ? row[k] : max;
    for (int k = 0; k < hc; ++k) {
      row[k] = exp(row[k] - max);
      sum += row[k];
    }
    for (int k = 0; k < hc; ++k) row[k] = row[k] / sum + eps;
  }
  normalise(1, hc);
  for (int i = 1; i < iterations; ++i) {
    normalise(hc, 1);
    normalise(1, hc);
  }
  __syncwarp();
}

template <class Policy>
__device__ void collapse(const float* streams, const typename Policy::Sum* pre, int hc, int64_t dim,
                         float* x) {
  for (int64_t e = threadIdx.x; e < dim; e += kThreads) {
    typename Policy::Sum sum = 0;
    for (int s = 0; s < hc; ++s) sum += pre[s] * streams[s * dim + e];
    x[e] = rounded<Policy>(sum);
  }
}

struct PreParams {
  const float *fn, *base, *scale, *streams;
  float *x, *post, *comb;
  int64_t dim;
  int hc, iterations;
  float norm_eps, sinkhorn_eps;
};

template <class Policy>
__global__ void __launch_bounds__(kThreads) pre_any(PreParams p) {
  using Sum = typename Policy::Sum;
  __shared__ Sum space[33], m[(2 + kMaxStreams) * kMaxStreams], pre[kMaxStreams],
      comb[kMaxStreams * kMaxStreams];
  int hc = p.hc, squared = hc * hc, i = threadIdx.x;
  int64_t t = blockIdx.x;
  const float* streams = p.streams + t * hc * p.dim;
  mixing_logits<Sum>(streams, p.fn, hc * p.dim, (2 + hc) * hc, p.norm_eps, space, m);
  if (i < hc) {
    pre[i] = sigmoid<Sum>(m[i] * p.scale[0] + p.base[i]) + p.sinkhorn_eps;
    p.post[t * hc + i] = static_cast<float>(2 * sigmoid<Sum>(m[hc + i] * p.scale[1] + p.base[hc + i]));
  }
  if (i < squared) comb[i] = m[2 * hc + i] * p.scale[2] + p.base[2 * hc + i];
  __syncthreads();
  if (i < 32) {
    sinkhorn<Sum>(comb, hc, p.iterations, p.sinkhorn_eps);
    for (int j = i; j < squared; j += 32) p.comb[t * squared + j] = static_cast<float>(comb[j]);
  }
  collapse<Policy>(streams, pre, hc, p.dim, p.x + t * p.dim);
}

struct HeadParams {
  const float *fn, *base, *scale, *streams;
  const int32_t* rows;
  float* x;
  int64_t dim;
  int hc;
  float norm_eps, hc_eps;
};

template <class Policy>
__global__ void __launch_bounds__(kThreads) head_any(HeadParams p) {
  using Sum = typename Policy::Sum;
  __shared__ Sum space[33], m[kMaxStreams], pre[kMaxStreams];
  const float* streams = p.streams + static_cast<int64_t>(p.rows[blockIdx.x]) * p.hc * p.dim;
  mixing_logits<Sum>(streams, p.fn, p.hc * p.dim, p.hc, p.norm_eps, space, m);
  if (threadIdx.x < p.hc)
    pre[threadIdx.x] = sigmoid<Sum>(m[threadIdx.x] * p.scale[0] + p.base[threadIdx.x]) + p.hc_eps;
  __syncthreads();
  collapse<Policy>(streams, pre, p.hc, p.dim, p.x + blockIdx.x * p.dim);
}

template <class Policy>
__global__ void __launch_bounds__(kThreads)
    post_any(const float* y, const float* post, const float* comb, float* streams, int hc, int64_t dim) {
  using Sum = typename Policy::Sum;
  int64_t t = blockIdx.y, e = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (e >= dim) return;
  float old[kMaxStreams];
  float* at = streams + t * hc * dim + e;
#pragma unroll
  for (int j = 0; j < kMaxStreams; ++j)
    if (j < hc) old[j] = at[j * dim];
  Sum value = y[t * dim + e];
  for (int k = 0; k < hc; ++k) {
    Sum sum = post[t * hc + k] * value;
#pragma unroll
    for (int j = 0; j < kMaxStreams; ++j)
      if (j < hc) sum += static_cast<Sum>(comb[(t * hc + j) * hc + k]) * old[j];
    at[k * dim] = rounded<Policy>(sum);
  }
}

template <class Policy>
__global__ void __launch_bounds__(kThreads)
    join_any(const float* h, const float* e, float* streams, int hc, int64_t dim, int64_t count) {
  using Sum = typename Policy::Sum;
  int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) streams[i] = rounded<Policy>(static_cast<Sum>(h[i]) + e[i / (hc * dim) * dim + i % dim]);
}

void check_weights(const HyperConnectionWeights& w, int64_t outputs, int64_t hc, int64_t dim) {
  KVASIR_CHECK(hc <= kMaxStreams, "{} streams, at most {} are served", hc, kMaxStreams);
  KVASIR_CHECK(w.fn.shape(0) == outputs && w.fn.shape(1) == hc * dim && w.fn.dense(),
               "fn [{}, {}] for {} streams of {}", w.fn.shape(0), w.fn.shape(1), hc, dim);
}

}  // namespace

void hc_pre(CudaContext& context, const HcPreArgs& a) {
  int64_t tokens = a.streams.shape(0), hc = a.streams.shape(1), dim = a.streams.shape(2);
  check_weights(a.w, (2 + hc) * hc, hc, dim);
  KVASIR_CHECK(a.streams.dense() && a.x.dense() && a.post.dense() && a.comb.dense(),
               "streams that are {} apart", a.streams.stride(0));
  if (tokens == 0) return;
  PreParams p{a.w.fn.data(),        a.w.base.data(),  a.w.scale.data(), a.streams.data(),
              a.x.data(),           a.post.data(),    a.comb.data(),    dim,
              static_cast<int>(hc), a.sinkhorn_iters, a.norm_eps,       a.sinkhorn_eps};
  with_policy(context.numerics, [&](auto policy) {
    pre_any<decltype(policy)><<<static_cast<unsigned>(tokens), kThreads, 0, context.stream>>>(p);
  });
}

void hc_post(CudaContext& context, const HcPostArgs& a) {
  int64_t tokens = a.streams.shape(0), hc = a.streams.shape(1), dim = a.streams.shape(2);
  KVASIR_CHECK(hc <= kMaxStreams && a.y.shape(0) == tokens && a.y.shape(1) == dim,
               "y [{}, {}] into {} rows of {} streams of {}", a.y.shape(0), a.y.shape(1), tokens, hc, dim);
  KVASIR_CHECK(a.streams.dense() && a.y.dense() && a.post.dense() && a.comb.dense(),
               "streams that are {} apart", a.streams.stride(0));
  constexpr int64_t kMaxRows = 65535;  // of a grid's second dimension
  with_policy(context.numerics, [&](auto policy) {
    for (int64_t t = 0; t < tokens; t += kMaxRows) {
      dim3 grid(static_cast<unsigned>((dim + kThreads - 1) / kThreads),
                static_cast<unsigned>(std::min(kMaxRows, tokens - t)));
      post_any<decltype(policy)><<<grid, kThreads, 0, context.stream>>>(
          a.y.row(t), a.post.row(t), a.comb.row(t), a.streams.row(t), static_cast<int>(hc), dim);
    }
  });
}

void hc_head(CudaContext& context, const HcHeadArgs& a) {
  int64_t rows = a.rows.shape(0), hc = a.streams.shape(1), dim = a.streams.shape(2);
  check_weights(a.w, hc, hc, dim);
  KVASIR_CHECK(a.streams.dense() && a.x.dense() && a.rows.dense(), "streams that are {} apart",
               a.streams.stride(0));
  if (rows == 0) return;
  HeadParams p{
      a.w.fn.data(), a.w.base.data(),      a.w.scale.data(), a.streams.data(), a.rows.data(), a.x.data(),
      dim,           static_cast<int>(hc), a.norm_eps,       a.hc_eps};
  with_policy(context.numerics, [&](auto policy) {
    head_any<decltype(policy)><<<static_cast<unsigned>(rows), kThreads, 0, context.stream>>>(p);
  });
}

void mtp_join(CudaContext& context, const MtpJoinArgs& a) {
  int64_t hc = a.h.shape(1), dim = a.h.shape(2), count = a.h.count();
  KVASIR_CHECK(a.h.dense() && a.e.dense() && a.streams.dense() && a.streams.shape() == a.h.shape() &&
                   a.e.shape(1) == dim,
               "h of {} streams of {}, e of {}", hc, dim, a.e.shape(1));
  if (count == 0) return;
  with_policy(context.numerics, [&](auto policy) {
    join_any<decltype(policy)>
        <<<static_cast<unsigned>((count + kThreads - 1) / kThreads), kThreads, 0, context.stream>>>(
            a.h.data(), a.e.data(), a.streams.data(), static_cast<int>(hc), dim, count);
  });
}

void hc_boundary(CudaContext& context, const HcBoundaryArgs& a) {
  if (a.streams.shape(0) == 0) return;
  if (context.numerics == Numerics::kFast && boundary_cluster_serves(a)) return boundary_cluster(context, a);
  if (!a.y.empty()) hc_post(context, {a.y, a.post, a.comb, a.streams});
  hc_pre(context, {a.w, a.streams, a.norm_eps, a.sinkhorn_eps, a.sinkhorn_iters, a.x, a.post, a.comb});
  rms_norm(context, {a.x, a.norm, a.norm_eps, a.x});
}

}  // namespace kvasir::cuda
