// One block a token: the row is read once and written into every stream; contract in ops/embedding.h.
#include "backend/cuda/embedding.h"
#include "backend/cuda/codec.cuh"
#include "backend/cuda/row_math.cuh"
#include "backend/cuda/sm90/boundary_launch.cuh"
#include "base/check.h"

namespace kvasir::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    gather_any(WeightMatrix w, const int32_t* ids, float* out, int copies) {
  int64_t row = ids[blockIdx.x];
  float* first = out + static_cast<int64_t>(blockIdx.x) * copies * w.cols;
  for (int64_t k = threadIdx.x; k < w.cols; k += kThreads) {
    float value = weight_value(w, row, k);
    for (int copy = 0; copy < copies; ++copy) first[copy * w.cols + k] = value;
  }
}

// bf16 rows of a multiple of 8 values: 16-byte loads and stores.
__global__ void __launch_bounds__(kThreads)
    gather_bf16(const uint4* table, const int32_t* ids, float4* out, int chunks, int copies) {
  ptx::let_next_start();
  ptx::wait_for_previous();
  const uint4* row = table + static_cast<int64_t>(ids[blockIdx.x]) * chunks;
  float4* first = out + static_cast<int64_t>(blockIdx.x) * copies * chunks * 2;
  for (int i = threadIdx.x; i < chunks; i += kThreads) {
    uint4 v = row[i];
    float4 low = {__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16),
                  __uint_as_float(v.y & 0xffff0000u)};
    float4 high = {__uint_as_float(v.z << 16), __uint_as_float(v.z & 0xffff0000u), __uint_as_float(v.w << 16),
                   __uint_as_float(v.w & 0xffff0000u)};
    for (int copy = 0; copy < copies; ++copy) {
      first[(static_cast<int64_t>(copy) * chunks + i) * 2] = low;
      first[(static_cast<int64_t>(copy) * chunks + i) * 2 + 1] = high;
    }
  }
}

void gather(CudaContext& context, const WeightMatrix& table, View<const int32_t, 1> ids, float* out,
            int64_t copies) {
  if (ids.shape(0) == 0) return;
  KVASIR_CHECK(!table.empty() && ids.dense(), "ids with stride {} or an absent table", ids.stride(0));
  auto blocks = static_cast<unsigned>(ids.shape(0));
  if (table.format == WeightFormat::kBf16 && table.cols % 8 == 0) {
    launch_dependent(context.stream, gather_bf16, blocks, kThreads, static_cast<const uint4*>(table.data),
                     ids.data(), reinterpret_cast<float4*>(out), static_cast<int>(table.cols / 8),
                     static_cast<int>(copies));
  } else {
    gather_any<<<blocks, kThreads, 0, context.stream>>>(table, ids.data(), out, static_cast<int>(copies));
  }
}

}  // namespace

void embed(CudaContext& context, const EmbedArgs& a) {
  KVASIR_CHECK(
      a.table.cols == a.streams.shape(2) && a.streams.shape(0) == a.ids.shape(0) && a.streams.dense(),
      "{} rows of {} into {} of {}", a.ids.shape(0), a.table.cols, a.streams.shape(0), a.streams.shape(2));
  gather(context, a.table, a.ids, a.streams.data(), a.streams.shape(1));
}

void gather_embedding(CudaContext& context, const GatherEmbeddingArgs& a) {
  KVASIR_CHECK(a.table.cols == a.out.shape(1) && a.out.shape(0) == a.ids.shape(0) && a.out.dense(),
               "{} rows of {} into {} of {}", a.ids.shape(0), a.table.cols, a.out.shape(0), a.out.shape(1));
  gather(context, a.table, a.ids, a.out.data(), 1);
}

}  // namespace kvasir::cuda
