// Window rows, and attention as one block for a query row and eight of its heads; see attention.h.
//
// The generic kernel goes over the keys twice: first for the maximum, since kNative rounds weights taken
// against the maximum over all keys, then for the weights and the sum. kExact and kNative add in f64, as the
// reference does.
#include "backend/cuda/attention.h"

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <algorithm>

#include "backend/cuda/attention_rows.cuh"
#include "backend/cuda/codec.cuh"
#include "backend/cuda/sm90/attention_split.h"
#include "backend/cuda/sm90/attention_tiles.h"
#include "base/check.h"

namespace kvasir::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kHeads = kThreads / 32;  // of a block of the generic kernel, one for each warp
constexpr int kTile = 16;              // keys decoded at a time
constexpr int64_t kSplitRows = 4;      // up to so many query rows, one kernel whose blocks have few heads

__device__ float grid_bf16(float x) { return __bfloat162float(__float2bfloat16_rn(x)); }

// Element e of a stored row; decode_row of ops/kv_page.cc.
__device__ float stored_value(const KvRowFormat& f, KeyAddress key, int e) {
  if (!f.quantised) return reinterpret_cast<const float*>(key.data)[e];
  int plain = f.dim - f.rope_dim;
  if (e < plain) return e4m3_value(static_cast<uint32_t>(key.data[e])) * e8m0_value(static_cast<uint32_t>(key.scale[e / 64]));
  return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(key.data + plain)[e - plain]);
}

// A block of 128 threads for a row: rotates the last 2 * pairs values, then encodes as encode_row does. A
// warp takes every fourth block of 64 values.
__global__ void __launch_bounds__(128)
    store_window_rows(const float* kv, int64_t kv_stride, const float* table, int64_t table_stride, int pairs,
                      KvRowFormat f, KvRows out) {
  int64_t t = blockIdx.x;
  const float* in = kv + t * kv_stride;
  const float* turn = table + t * table_stride;
  std::byte* data = out.data + t * f.data_bytes;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, turned = f.dim - 2 * pairs;
  auto rotated = [&](int i) {  // values 2i and 2i + 1 of the turned ones; products of floats are exact in f64
    double a = in[turned + 2 * i], b = in[turned + 2 * i + 1], c = turn[2 * i], s = turn[2 * i + 1];
    return float2{static_cast<float>(a * c - b * s), static_cast<float>(a * s + b * c)};
  };
  if (!f.quantised) {
    auto* values = reinterpret_cast<float*>(data);
    for (int e = threadIdx.x; e < turned; e += blockDim.x) values[e] = in[e];
    for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
      float2 v = rotated(i);
      values[turned + 2 * i] = v.x, values[turned + 2 * i + 1] = v.y;
    }
    return;
  }
  int plain = f.dim - f.rope_dim;
  std::byte* scale = out.scale + t * f.scale_bytes;
  for (int b = warp; b < plain / 64; b += 4) {
    float2 v = {in[64 * b + 2 * lane], in[64 * b + 2 * lane + 1]};
    float amax = fmaxf(1e-4f, fmaxf(fabsf(v.x), fabsf(v.y)));
    for (int distance = 16; distance > 0; distance /= 2)
      amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, distance));
    uint32_t bits = __float_as_uint(amax * (1.0f / 448.f));  // e8m0_scale_for
    uint32_t code = (bits >> 23) + ((bits & 0x7fffffu) != 0);
    float inverse = __uint_as_float((254 - code) << 23);
    __nv_fp8x2_storage_t pair =
        __nv_cvt_float2_to_fp8x2({v.x * inverse, v.y * inverse}, __NV_SATFINITE, __NV_E4M3);
    reinterpret_cast<__nv_fp8x2_storage_t*>(data + 64 * b)[lane] = pair;
    if (lane == 0) scale[b] = static_cast<std::byte>(code);
  }
  for (int b = plain / 64 + threadIdx.x; b < f.scale_bytes; b += blockDim.x) scale[b] = std::byte{0};
  auto* tail = reinterpret_cast<__nv_bfloat16*>(data + plain);
  for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
    float2 v = rotated(i);
    tail[f.rope_dim - 2 * pairs + 2 * i] = __float2bfloat16_rn(v.x);
    tail[f.rope_dim - 2 * pairs + 2 * i + 1] = __float2bfloat16_rn(v.y);
  }
}

// A warp for one of the last `capacity` tokens of a sequence; rows are multiples of 8 bytes.
__global__ void __launch_bounds__(kThreads)
    commit_rows(const CacheSequence* sequences, KvRows rows, int data_bytes, int scale_bytes,
                int64_t window_data, int64_t window_scale, int64_t capacity) {
  const CacheSequence& s = sequences[blockIdx.y];
  int64_t last =
      static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;  // counted from the newest
  if (last >= min(s.span.tokens, capacity)) return;
  int64_t i = s.span.tokens - 1 - last, from = s.span.first_row + i, slot = (s.span.start + i) % capacity;
  int lane = threadIdx.x % 32;
  auto copy = [&](std::byte* to, const std::byte* source, int bytes) {
    for (int w = lane; w < bytes / 8; w += 32)
      reinterpret_cast<uint64_t*>(to)[w] = reinterpret_cast<const uint64_t*>(source)[w];
  };
  copy(s.state + window_data + slot * data_bytes, rows.data + from * data_bytes, data_bytes);
  copy(s.state + window_scale + slot * scale_bytes, rows.scale + from * scale_bytes, scale_bytes);
}

template <class SumType, bool kRound>
struct Roundings {
  using Sum = SumType;
  static constexpr bool kRounds = kRound;
};

// Keys first_key.. of a tile decoded to f32; those that are none become zeros and are not in `valid`.
__device__ void decode_tile(const KeyPlaces& p, const RowKeys& keys, const KvRowFormat& f, int first_key,
                            int n, float* tile, bool* valid) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int j = warp; j < n; j += kThreads / 32) {
    KeyAddress key;
    bool there = keys.address(p, first_key + j, key);
    if (lane == 0) valid[j] = there;
    for (int e = lane; e < f.dim; e += 32) tile[j * f.dim + e] = there ? stored_value(f, key, e) : 0.f;
  }
}

template <class Sum>
__device__ Sum warp_sum(Sum x) {
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(~0u, x, distance);
  return x;
}

// Warp w has head first_head + w. Shared memory: sums [kHeads][D], queries [kHeads][D], a tile of keys
// [kTile][D].
template <class R>
__global__ void __launch_bounds__(kThreads)
    attend_any(KeyPlaces p, KvRowFormat f, const float* q, int64_t q_row, int64_t q_head, const float* sink,
               float* out, int64_t out_row, int64_t out_head, int heads, double score_scale) {
  using Sum = typename R::Sum;
  extern __shared__ double space[];
  __shared__ bool valid[kTile];
  int d = f.dim, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int64_t row = blockIdx.x;
  int head = blockIdx.y * kHeads + warp;
  bool active = head < heads;
  Sum* sums = reinterpret_cast<Sum*>(space) + warp * d;
  float* query = reinterpret_cast<float*>(reinterpret_cast<Sum*>(space) + kHeads * d) + warp * d;
  float* tile = reinterpret_cast<float*>(reinterpret_cast<Sum*>(space) + kHeads * d) + kHeads * d;
  for (int e = lane; e < d; e += 32) {
    query[e] = active ? q[row * q_row + head * q_head + e] : 0.f;
    sums[e] = 0;
  }
  RowKeys keys(p, row);
  auto score = [&](int j) {
    Sum s = 0;
    for (int e = lane; e < d; e += 32) s += static_cast<Sum>(query[e]) * tile[j * d + e];
    return warp_sum(s) * static_cast<Sum>(score_scale);
  };
  Sum top = -INFINITY, total = 0;
  for (int pass = 0; pass < 2; ++pass) {
    for (int first = 0; first < keys.count; first += kTile) {
      int n = min(kTile, keys.count - first);
      __syncthreads();
      decode_tile(p, keys, f, first, n, tile, valid);
      __syncthreads();
      for (int j = 0; j < n; ++j) {
        if (!valid[j]) continue;
        Sum s = score(j);
        if (pass == 0) {
          top = max(top, s);
          continue;
        }
        Sum weight = exp(s - top);
        total += weight;
        if (R::kRounds) weight = grid_bf16(static_cast<float>(weight));
        for (int e = lane; e < d; e += 32) sums[e] += weight * tile[j * d + e];
      }
    }
  }
  if (!active) return;
  total += exp(static_cast<Sum>(sink[head]) - top);
  for (int e = lane; e < d; e += 32) {
    auto value = static_cast<float>(sums[e] / total);
    out[row * out_row + head * out_head + e] = R::kRounds ? grid_bf16(value) : value;
  }
}

template <class R>
void launch_attend_any(CudaContext& context, const AttendArgs& a) {
  int64_t d = a.q.shape(2), heads = a.q.shape(1);
  auto bytes = static_cast<size_t>(d) * (kHeads * sizeof(typename R::Sum) + (kHeads + kTile) * sizeof(float));
  auto kernel = attend_any<R>;
  KVASIR_CHECK(bytes <= 227 * 1024, "head dim {} needs {} bytes of shared memory", d, bytes);
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  dim3 grid(static_cast<unsigned>(a.q.shape(0)), static_cast<unsigned>((heads + kHeads - 1) / kHeads));
  kernel<<<grid, kThreads, bytes, context.stream>>>(
      key_places(a), a.format, a.q.data(), a.q.stride(0), a.q.stride(1), a.sink.data(), a.out.data(),
      a.out.stride(0), a.out.stride(1), static_cast<int>(heads), 1.0 / std::sqrt(static_cast<double>(d)));
}

// One sequence of 1M tokens has 8,320 keys in an HCA layer: 64 us by the first, 36 us by the second
// (docs/gpu-notes/attention.md).
constexpr int64_t kSplitLength = int64_t{1} << 18;

void attend_fast(CudaContext& context, const AttendArgs& a, const AttendHeadsArgs* heads) {
  bool few = a.q.shape(0) <= kSplitRows && !context.deterministic;
  bool far = a.choice == EntryChoice::kAll && a.batch.max_length > kSplitLength;
  if (few && !far) return sm90::attend_split(context, a, heads, false, 8);
  sm90::attend_tiles(context, a, heads, few ? 16 : 0);
}

}  // namespace

KeyPlaces key_places(const AttendArgs& a) {
  KeyPlaces p{};
  p.sequences = a.batch.sequences.data();
  p.row_sequence = a.batch.row_sequence.data();
  p.rows_data = a.rows.data;
  p.rows_scale = a.rows.scale;
  p.window_data = a.place.window_data;
  p.window_scale = a.place.window_scale;
  p.entries_data = a.place.entries.data_offset;
  p.entries_scale = a.place.entries.scale_offset;
  p.data_bytes = a.format.data_bytes;
  p.scale_bytes = a.format.scale_bytes;
  p.window = a.window;
  p.window_capacity = static_cast<int32_t>(a.place.window_capacity);
  p.ratio = a.place.ratio;
  p.rows_per_page = a.place.entries.rows_per_page;
  p.choice = a.choice;
  if (a.choice == EntryChoice::kSelected) {
    p.selected = a.selected.data();
    p.selected_stride = a.selected.stride(0);
    p.topk = static_cast<int32_t>(a.selected.shape(1));
  }
  return p;
}

void store_window(CudaContext& context, const StoreWindowArgs& a) {
  int64_t rows = a.kv.shape(0), pairs = a.table.shape(1);
  KVASIR_CHECK(a.kv.shape(1) == a.format.dim, "rows of {} in a format of {}", a.kv.shape(1), a.format.dim);
  KVASIR_CHECK(a.kv.stride(1) == 1 && a.table.stride(1) == 2, "rows with values {} and turns {} apart",
               a.kv.stride(1), a.table.stride(1));
  KVASIR_CHECK(!a.format.quantised || 2 * pairs == a.format.rope_dim,
               "{} pairs turned in rows with {} bf16 values", pairs, a.format.rope_dim);
  if (rows == 0) return;
  store_window_rows<<<static_cast<unsigned>(rows), 128, 0, context.stream>>>(
      a.kv.data(), a.kv.stride(0), a.table.data(), a.table.stride(0), static_cast<int>(pairs), a.format,
      a.out);
}

void commit_window(CudaContext& context, const CommitWindowArgs& a) {
  int64_t sequences = a.batch.sequences.shape(0), capacity = a.place.window_capacity,
          rows = std::min(a.batch.max_tokens, capacity);
  KVASIR_CHECK(a.format.data_bytes % 8 == 0 && a.format.scale_bytes % 8 == 0, "rows of {} + {} bytes",
               a.format.data_bytes, a.format.scale_bytes);
  if (sequences == 0 || rows == 0) return;
  constexpr int kRows = kThreads / 32;
  dim3 grid(static_cast<unsigned>((rows + kRows - 1) / kRows), static_cast<unsigned>(sequences));
  commit_rows<<<grid, kThreads, 0, context.stream>>>(a.batch.sequences.data(), a.rows, a.format.data_bytes,
                                                     a.format.scale_bytes, a.place.window_data,
                                                     a.place.window_scale, capacity);
}

void attend(CudaContext& context, const AttendArgs& a) {
  int64_t heads = a.q.shape(1), d = a.q.shape(2);
  KVASIR_CHECK(d == a.format.dim && a.sink.shape(0) == heads && a.out.shape() == a.q.shape(),
               "q [{}, {}], rows of {}, {} sinks", heads, d, a.format.dim, a.sink.shape(0));
  KVASIR_CHECK(a.q.stride(2) == 1 && a.out.stride(2) == 1, "heads with values {} and {} apart", a.q.stride(2),
               a.out.stride(2));
  KVASIR_CHECK(a.batch.row_sequence.shape(0) == a.q.shape(0), "{} rows of sequences, {} of queries",
               a.batch.row_sequence.shape(0), a.q.shape(0));
  if (a.q.shape(0) == 0) return;
  if (can_attend_heads(context, a)) return attend_fast(context, a, nullptr);
  switch (context.numerics) {
    case Numerics::kExact:
      return launch_attend_any<Roundings<double, false>>(context, a);
    case Numerics::kNative:
      return launch_attend_any<Roundings<double, true>>(context, a);
    case Numerics::kFast:
      return launch_attend_any<Roundings<float, false>>(context, a);
  }
}

bool can_attend_heads(const CudaContext& context, const AttendArgs& a) {
  return context.numerics == Numerics::kFast && sm90::can_attend_tiles(a);
}

void attend_heads(CudaContext& context, const AttendHeadsArgs& a) {
  KVASIR_CHECK(can_attend_heads(context, a.attend), "attend_heads where can_attend_heads says no");
  if (a.attend.q.shape(0) == 0) return;
  attend_fast(context, a.attend, &a);
}

}  // namespace kvasir::cuda
