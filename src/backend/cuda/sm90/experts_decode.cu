// Up to 64 tokens through MXFP4 experts and an FP8 shared expert in one launch, one block per multiprocessor.
//
// Such a call is a read of weights, so everything serves one stream of bulk copies per block that never
// pauses:
//
//   producer warp   copies 16 rows of weights after the other into a ring of slots. First the shared
//   expert's, whose
//                   place is known before anybody has been routed, so the stream starts while the gate still
//                   runs.
//   16 warps        each multiply their sixteenth of a slot's columns: e2m1 and e4m3 codes become f16 by
//   moving bits
//                   (the exponent's bias is made good at the end), tokens are the 8 columns of mma.m16n8k16.
//   2 warps         add the 16 partial sums in fixed order and finish them.
//
//   phase 1: rows of gate and up, 8 units at a time (rows 0-7 of a slot are w1's, 8-15 w3's), give hidden =
//   silu(g) * u all blocks meet; only the arithmetic waits there, the producer is a ring ahead with phase 2's
//   weights phase 2: a block owns some outputs of all tokens and goes through all experts in ascending order,
//   the shared one
//            last: sums need neither a merge nor an atomic
//
// Every block sorts the call's (token, expert) pairs by itself: a list of up to 8 tokens of one expert is a
// segment. An expert with more tokens has several, and its weights are read again, from L2. Activations are
// f16: of x with one power of two per token and warp, of hidden with one per call. A token's bits depend on
// its own row and choice alone.
#include "backend/cuda/device.h"
#include "backend/cuda/sm90/experts_decode.h"

#include <algorithm>

#include "backend/cuda/sm90/experts_decode_math.cuh"
#include "base/check.h"

namespace kvasir::cuda {
namespace {

// ---- the producer ----

template <class S>
struct Producer {
  std::byte* slots;
  Barriers& bars;
  Ring ring;
  int lane;

  // Lanes 0 to rows - 1 copy a row of codes each, to places `data_pitch` apart; lanes 16 and 17, or 16 alone,
  // the scales of several rows in one piece, since small copies cost as much as large ones.
  __device__ void fill(const uint8_t* from, int rows, uint32_t data_bytes, uint32_t data_pitch, int pieces,
                       uint32_t scale_bytes) {
    barrier_wait(&bars.empty[ring.slot], ring.parity ^ 1);
    uint64_t* full = &bars.full[ring.slot];
    if (lane == 0)
      barrier_expect(full,
                     static_cast<uint32_t>(rows) * data_bytes + static_cast<uint32_t>(pieces) * scale_bytes);
    __syncwarp();
    std::byte* slot = slots + ring.slot * S::kSlotBytes;
    const bool codes = lane < rows, scales = lane >= 16 && lane < 16 + pieces;
    std::byte* to = codes ? slot + lane * data_pitch : slot + S::kDataBytes + (lane - 16) * scale_bytes;
    if (codes || scales) copy_to_shared(to, from, codes ? data_bytes : scale_bytes, full);
    ring.advance(S::kSlots);
  }

  __device__ const uint8_t* gate_up_source(const ExpertWeights& e) const {
    if (lane < 16) return static_cast<const uint8_t*>(lane < 8 ? e.w1.data : e.w3.data);
    return lane == 16 ? e.w1.scale : e.w3.scale;
  }
  __device__ const uint8_t* down_source(const ExpertWeights& e) const {
    return lane < 16 ? static_cast<const uint8_t*>(e.w2.data) : e.w2.scale;
  }

  __device__ void run(const DecodeProblem& p, const Plan& plan) {
    const int octets = (p.tokens + kColumns - 1) / kColumns;
    const uint8_t* shared_gate_up = gate_up_source(p.shared);
    for (int item = part_begin(octets * S::kTiles), end = part_end(octets * S::kTiles); item < end; ++item) {
      const int64_t unit = item % S::kTiles * 8 + lane % 8;
      for (int h = 0; h < 2; ++h)
        fill(shared_gate_up + unit * S::dim + h * (S::dim / 2), 16, S::dim / 2, S::dim / 2 + 32, 0, 0);
    }

    barrier_wait(&bars.planned, 0);
    int segment = -1;
    const uint8_t* source = nullptr;
    for (int item = part_begin(plan.segments * S::kTiles), end = part_end(plan.segments * S::kTiles);
         item < end; ++item) {
      if (item / S::kTiles != segment) {
        segment = item / S::kTiles;
        source = gate_up_source(p.routed[unpack(plan.segment[segment]).expert]);
      }
      const int64_t unit = item % S::kTiles * 8;
      fill(source + (lane < 16 ? (unit + lane % 8) * (S::dim / 2) : unit * (S::dim / 32)), 16, S::dim / 2,
           S::dim / 2 + 16, 2, 8 * (S::dim / 32));
    }

    const int first = static_cast<int>(blockIdx.x) * p.rows_per_block,
              last = min(S::dim, first + p.rows_per_block);
    if (first >= last) return;
    const uint8_t* next = plan.segments > 0 ? down_source(p.routed[unpack(plan.segment[0]).expert]) : nullptr;
    for (int s = 0; s < plan.segments; ++s) {
      source = next;
      if (s + 1 < plan.segments) next = down_source(p.routed[unpack(plan.segment[s + 1]).expert]);
      for (int r = first; r < last; r += 16)
        fill(source + (lane < 16 ? int64_t{r + lane} * (S::inner / 2) : int64_t{r} * (S::inner / 32)),
             min(16, last - r), S::inner / 2, S::inner / 2 + 16, 1,
             static_cast<uint32_t>(min(16, last - r)) * (S::inner / 32));
    }
    source = static_cast<const uint8_t*>(p.shared.w2.data);
    for (int o = 0; o < octets; ++o)
      for (int r = first; r < last; r += 16)
        fill(source + int64_t{r + lane} * S::inner, min(16, last - r), S::inner, S::inner + 32, 0, 0);
  }
};

// ---- the end of each tile ----

template <class S>
struct Finish {
  Barriers& bars;
  Sums& sums;
  float* out;  // [tokens][rows_per_block] of this block
  Ring sum;
  int thread;  // of the finishing ones

  // The sum over all warps of element `at` of the present tile, which the caller has waited for.
  __device__ float add_parts(int at) const {
    float v = 0.f;
#pragma unroll
    for (int w = 0; w < kMathWarps; ++w) v += sums.part[sum.slot][w][at];
    return v;
  }
  __device__ void wait_tile() { barrier_wait(&bars.sums_full[sum.slot], sum.parity); }
  // `read`: made of everything that was read.
  __device__ void release_tile(float read) {
    __syncwarp();
    if (thread % 32 == 0) barrier_arrive_after(&bars.sums_empty[sum.slot], read);
    sum.advance(S::kSums);
  }

  // 8 units of `count` tokens; `row` is the first one's row of hidden.
  __device__ void swiglu(const DecodeProblem& p, int row, int tile, int count, bool e4m3) {
    const int unit = thread / 8, column = thread % 8;
    __half* to =
        p.hidden + (row + column) * S::inner + tile * 8 + (e4m3 ? e4m3_place(unit) : e2m1_place(unit));
    wait_tile();
    const float top = add_parts(thread), low = add_parts(64 + thread);
    release_tile(top + low);
    const float gate = fminf(top, p.limit), up = fminf(fmaxf(low, -p.limit), p.limit);
    const float a = __fdividef(gate, 1.f + __expf(-gate)) * up;
    if (column < count) *to = __float2half_rn(a * p.hidden_gain);
  }

  __device__ void gate_up(const DecodeProblem& p, const Plan& plan) {
    const int octets = (p.tokens + kColumns - 1) / kColumns;
    for (int item = part_begin(octets * S::kTiles), end = part_end(octets * S::kTiles); item < end; ++item) {
      const int octet = item / S::kTiles;
      swiglu(p, plan.pairs + octet * kColumns, item % S::kTiles, min(kColumns, p.tokens - octet * kColumns),
             true);
    }
    for (int item = part_begin(plan.segments * S::kTiles), end = part_end(plan.segments * S::kTiles);
         item < end; ++item) {
      const Segment s = unpack(plan.segment[item / S::kTiles]);
      swiglu(p, s.begin, item % S::kTiles, s.count, false);
    }
  }

  // Returns when every block has written its part of hidden.
  __device__ void meet() {
    __threadfence();
    sync_threads<kFinishBarrier, kFinishThreads>();
    if (thread == 0) {
      atomicAdd(&meeting_arrived, 1u);
      unsigned arrived;
      do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                     : "=r"(arrived)
                     : "l"(&meeting_arrived)
                     : "memory");
      } while (arrived < gridDim.x);
      if (atomicAdd(&meeting_left, 1u) == gridDim.x - 1) {
        meeting_arrived = 0;
        meeting_left = 0;
      }
      __threadfence();
      barrier_arrive(&bars.met);
    }
  }

  __device__ void down(const DecodeProblem& p, const Plan& plan) {
    const int first = static_cast<int>(blockIdx.x) * p.rows_per_block,
              last = min(S::dim, first + p.rows_per_block);
    if (first >= last) return;
    const int segments = plan.segments + (p.tokens + kColumns - 1) / kColumns;
    const int row = thread / 8, column = thread % 8;
    for (int i = thread; i < p.tokens * p.rows_per_block; i += kFinishThreads) out[i] = 0.f;
    for (int s = 0; s < segments; ++s) {
      int token = (s - plan.segments) * kColumns + column, count = p.tokens - (s - plan.segments) * kColumns;
      float factor = kE4m3Gain;
      if (s < plan.segments) {
        const Segment segment = unpack(plan.segment[s]);
        count = segment.count;
        const int pair = min(segment.begin + column, kMaxPairs - 1);
        token = plan.token[pair];
        factor = kE2m1Gain * plan.weight[pair];
      }
      factor /= p.hidden_gain;
      // A token's column changes from segment to segment: its sum passes from thread to thread.
      sync_threads<kFinishBarrier, kFinishThreads>();
      for (int r = first; r < last; r += 16) {
        wait_tile();
        const float top = add_parts(thread), low = add_parts(64 + thread);
        release_tile(top + low);
        if (column < count) {
          float* sum_of = out + token * p.rows_per_block + r - first + row;
          if (r + row < last) sum_of[0] += top * factor;
          if (r + row + 8 < last) sum_of[8] += low * factor;
        }
      }
    }
    sync_threads<kFinishBarrier, kFinishThreads>();
    for (int i = thread; i < p.tokens * p.rows_per_block; i += kFinishThreads) {
      const int token = i / p.rows_per_block, r = first + i % p.rows_per_block;
      if (r < last) p.out[token * p.out_stride + r] = out[i];
    }
  }
};

template <class S>
__global__ __launch_bounds__(kThreads, 1) void decode_kernel(const __grid_constant__ DecodeProblem p) {
  extern __shared__ __align__(128) std::byte memory[];
  std::byte* slots = memory;
  Sums& sums = *reinterpret_cast<Sums*>(memory + S::kSlots * S::kSlotBytes);
  Plan& plan = *reinterpret_cast<Plan*>(&sums.part[S::kSums]);
  float* out = reinterpret_cast<float*>(&plan + 1);
  __shared__ Barriers bars;

  if (threadIdx.x == 0) {
    for (int s = 0; s < S::kSlots; ++s) {
      barrier_init(&bars.full[s], 1);
      barrier_init(&bars.empty[s], kMathWarps);
    }
    for (int b = 0; b < S::kSums; ++b) {
      barrier_init(&bars.sums_full[b], kMathWarps);
      barrier_init(&bars.sums_empty[b], kFinishWarps);
    }
    barrier_init(&bars.planned, kMathWarps);
    barrier_init(&bars.met, 1);
    barrier_init_done();
  }
  __syncthreads();
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (warp >= kFirstMathWarp) {
    let_next_kernel_start();
    wait_for_last_kernel();
    make_plan(p, sums, plan);
    if (lane == 0) barrier_arrive(&bars.planned);
    Math<S> math{slots, bars, sums, {}, {}, warp - kFirstMathWarp, lane};
    math.gate_up(p, plan);
    math.down(p, plan);
  } else if (warp == 0) {
    Producer<S>{slots, bars, {}, lane}.run(p, plan);  // reads weights only: they were there before any kernel
  } else if (warp <= kFinishWarps) {
    wait_for_last_kernel();
    barrier_wait(&bars.planned, 0);
    Finish<S> finish{bars, sums, out, {}, static_cast<int>(threadIdx.x) - 32};
    finish.gate_up(p, plan);
    finish.meet();
    finish.down(p, plan);
  }
}

using Flash = Shape<8, 4, 5, 4>;
using Pro = Shape<14, 6, 3, 3>;
using Small = Shape<2, 1, 5, 2>;  // no model's: for tests that shall be quick

template <class S>
bool fits(const ExpertsArgs& a) {
  return a.x.shape(1) == S::dim && a.routed_like.w1.rows == S::inner && a.shared.w1.rows == S::inner;
}

template <class S>
void launch(CudaContext& context, DecodeProblem p) {
  p.rows_per_block = (S::dim / 8 + context.sm_count - 1) / context.sm_count * 8;
  p.hidden = context.scratch.take<__half>(int64_t{p.tokens} * (p.k + 1) * S::inner);
  const size_t bytes = S::kSlots * S::kSlotBytes + S::kSums * sizeof(Sums{}.part[0]) + sizeof(Plan) +
                       static_cast<size_t>(p.tokens * p.rows_per_block) * sizeof(float);
  static const cudaError_t allowed =
      cudaFuncSetAttribute(decode_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           232448 - static_cast<int>(sizeof(Barriers)) - 1024);
  check_launch(allowed, "shared memory of the expert kernel");
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(context.sm_count);
  config.blockDim = kThreads;
  config.dynamicSmemBytes = bytes;
  config.stream = context.stream;
  config.attrs = &early;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, decode_kernel<S>, p);
}

}  // namespace

bool experts_decode_serves(const CudaContext& context, const ExpertsArgs& a) {
  auto all = [](const ExpertWeights& e, WeightFormat f) {
    return e.w1.format == f && e.w2.format == f && e.w3.format == f;
  };
  return context.numerics == Numerics::kFast && all(a.routed_like, WeightFormat::kFp4Group32) &&
         all(a.shared, WeightFormat::kFp8Block128) && (fits<Flash>(a) || fits<Pro>(a) || fits<Small>(a)) &&
         a.experts.shape(1) <= kMaxPairs / kMaxTokens && a.routed.shape(0) <= kMaxExperts &&
         a.x.stride(0) % 4 == 0 && reinterpret_cast<uintptr_t>(a.x.data()) % 16 == 0 &&
         a.limit * a.limit <= 16384.f;
}

void experts_decode(CudaContext& context, const ExpertsArgs& a) {
  DecodeProblem p{};
  p.routed = a.routed.data();
  p.shared = a.shared;
  p.experts_stride = a.experts.stride(0);
  p.weights_stride = a.weights.stride(0);
  p.x_stride = a.x.stride(0);
  p.out_stride = a.out.stride(0);
  p.k = static_cast<int>(a.experts.shape(1));
  p.num_experts = static_cast<int>(a.routed.shape(0));
  p.limit = a.limit;
  p.hidden_gain = 1.f;
  while (p.hidden_gain < 4096.f && p.hidden_gain * a.limit * a.limit <= 16384.f) p.hidden_gain *= 2;
  for (int64_t t = 0; t < a.x.shape(0); t += kMaxTokens) {
    p.tokens = static_cast<int>(std::min<int64_t>(kMaxTokens, a.x.shape(0) - t));
    p.experts = a.experts.row(t);
    p.weights = a.weights.row(t);
    p.x = a.x.row(t);
    p.out = a.out.row(t);
    Scratch::Scope scope(context.scratch);
    if (fits<Flash>(a))
      launch<Flash>(context, p);
    else if (fits<Pro>(a))
      launch<Pro>(context, p);
    else
      launch<Small>(context, p);
  }
}

}  // namespace kvasir::cuda
