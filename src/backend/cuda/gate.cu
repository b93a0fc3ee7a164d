// Scores and choice of experts: one block per token; contract in ops/gate.h.
//
// The block's threads compute the scores, its first warp takes the k best one after the other. Scores are f64
// rounded to f32 as on the reference, since one unit in the last place can decide between two experts.
#include "backend/cuda/gate.h"

#include "base/check.h"

namespace kvasir::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kMaxChosen = 32;  // a lane keeps one choice

// Unsigned keys in the order of the floats they come from.
__device__ uint32_t ordered(float x) {
  uint32_t u = __float_as_uint(x);
  return (u & 0x80000000u) ? ~u : u | 0x80000000u;
}

__device__ float score_of(float logit) {
  double z = logit;
  return static_cast<float>(sqrt(z > 20 ? z : log1p(exp(z))));
}

// What launch_dependents gives: the next kernel may be set up while this one runs; it still waits for our
// writes.
__device__ void let_next_kernel_start() { asm volatile("griddepcontrol.launch_dependents;"); }
__device__ void wait_for_last_kernel() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

struct GateProblem {
  const float* logits;  // [T, E]
  int64_t logits_stride;
  const float* bias;     // null in hash layers
  const int32_t* table;  // tid2eid, null in score layers
  int64_t table_stride;
  const int32_t* ids;
  int32_t* experts;  // [T, k]
  int64_t experts_stride;
  float* weights;
  int64_t weights_stride;
  int num_experts;
  int k;
  float scale;
};

__global__ __launch_bounds__(kThreads) void gate_kernel(GateProblem p) {
  extern __shared__ float shared[];
  float* score = shared;                                                // [E]
  uint32_t* key = reinterpret_cast<uint32_t*>(shared + p.num_experts);  // [E], 0 once chosen
  const int64_t t = blockIdx.x;
  let_next_kernel_start();
  wait_for_last_kernel();
  for (int e = threadIdx.x; e < p.num_experts; e += kThreads) {
    score[e] = score_of(p.logits[t * p.logits_stride + e]);
    if (p.bias) key[e] = ordered(score[e] + p.bias[e]);
  }
  __syncthreads();
  if (threadIdx.x >= 32) return;

  const int lane = static_cast<int>(threadIdx.x);
  int32_t mine = -1;  // lane i: choice i
  if (p.table) {
    if (lane < p.k) mine = p.table[p.ids[t] * p.table_stride + lane];
  } else {
    for (int i = 0; i < p.k; ++i) {
      uint32_t best = 0, at = 0;
      for (int e = lane; e < p.num_experts; e += 32) {
        if (key[e] > best)
          best = key[e], at = static_cast<uint32_t>(e);  // ascending e: the lowest stays on a tie
      }
      uint32_t top = __reduce_max_sync(~0u, best);
      uint32_t id = __reduce_min_sync(~0u, best == top ? at : ~0u);
      if (id % 32 == static_cast<uint32_t>(lane)) key[id] = 0;
      if (lane == i) mine = static_cast<int32_t>(id);
    }
  }
  float s = mine >= 0 ? score[mine] : 0.f;
  double sum = 0;
  for (int i = 0; i < p.k; ++i) sum += static_cast<double>(__shfl_sync(~0u, s, i));
  if (lane < p.k) {
    p.experts[t * p.experts_stride + lane] = mine;
    p.weights[t * p.weights_stride + lane] = static_cast<float>(s / sum * p.scale);
  }
}

}  // namespace

void gate(CudaContext& context, const GateArgs& a) {
  const int64_t tokens = a.logits.shape(0), experts = a.logits.shape(1), k = a.experts.shape(1);
  KVASIR_CHECK(k <= kMaxChosen && k <= experts && experts <= 4096, "{} of {} experts", k, experts);
  KVASIR_CHECK(a.bias.empty() != a.tid2eid.empty(), "a layer chooses by score or by table");
  if (tokens == 0) return;
  GateProblem p{a.logits.data(),
                a.logits.stride(0),
                a.bias.data(),
                a.tid2eid.data(),
                a.tid2eid.empty() ? 0 : a.tid2eid.stride(0),
                a.ids.data(),
                a.experts.data(),
                a.experts.stride(0),
                a.weights.data(),
                a.weights.stride(0),
                static_cast<int>(experts),
                static_cast<int>(k),
                a.scale};
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(tokens);
  config.blockDim = kThreads;
  config.dynamicSmemBytes = static_cast<size_t>(experts) * 8;
  config.stream = context.stream;
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &early;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, gate_kernel, p);
}

}  // namespace kvasir::cuda
