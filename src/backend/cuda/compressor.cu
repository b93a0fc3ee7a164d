// Pooling of token rows into cache rows, and the tail of tokens that later groups need; contract in
// ops/compressor.h.
//
// Here: the plain kernels, f64 arithmetic, which serve every shape and every numerics. Two launches, since
// writing the tail overwrites tokens that the first groups still read. kFast at the shapes of V4 goes to
// sm90/compressor_*.cu.
#include "backend/cuda/compressor.h"

#include <algorithm>

#include "backend/cuda/indexer_codec.cuh"
#include "backend/cuda/sm90/compressor_rows.h"
#include "base/check.h"

namespace kvasir::cuda {
namespace {

constexpr int kThreads = 256;

__device__ double block_sum(double x, double* part) {
  for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(0xffffffffu, x, i);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0;
  for (int i = 0; i < kThreads / 32; ++i) x += part[i];
  __syncthreads();
  return x;
}

__device__ float rounded(const CompressCall& c, double x) {
  float f = static_cast<float>(x);
  return c.native ? round_to_bf16(f) : f;
}

// One group of one sequence. Dynamic shared memory: dim doubles and dim floats.
__global__ void __launch_bounds__(kThreads) compress_kernel(CompressCall c) {
  extern __shared__ double wide[];
  __shared__ double part[kThreads / 32];
  auto* row = reinterpret_cast<float*>(wide + c.format.dim);
  const CacheSequence& s = c.sequences[blockIdx.y];
  int64_t start = s.span.start, b = start / c.ratio + blockIdx.x;
  if (b >= (start + s.span.tokens) / c.ratio) return;
  int dim = c.format.dim, width = c.lanes * dim;
  const auto* tail = reinterpret_cast<const float*>(s.state + c.tail);
  int64_t end = (b + 1) * c.ratio, begin = max(int64_t{0}, end - c.lanes * c.ratio);
  for (int e = threadIdx.x; e < dim; e += kThreads) {
    auto z = [&](int64_t p, int channel) {
      if (p < start) return tail[p % c.tail_capacity * 2 * width + width + channel];
      return c.score[(s.span.first_row + p - start) * c.score_row + channel] +
             c.ape[p % c.ratio * width + channel];
    };
    auto kv = [&](int64_t p, int channel) {
      if (p < start) return tail[p % c.tail_capacity * 2 * width + channel];
      return c.kv[(s.span.first_row + p - start) * c.kv_row + channel];
    };
    auto channel = [&](int64_t p) { return c.lanes == 2 && p >= b * c.ratio ? dim + e : e; };
    double max = -INFINITY, sum = 0, value = 0;
    for (int64_t p = begin; p < end; ++p) max = fmax(max, static_cast<double>(z(p, channel(p))));
    for (int64_t p = begin; p < end; ++p) {
      double weight = exp(z(p, channel(p)) - max);
      sum += weight;
      value += weight * kv(p, channel(p));
    }
    row[e] = rounded(c, value / sum);
  }
  __syncthreads();
  double squares = 0;
  for (int e = threadIdx.x; e < dim; e += kThreads) squares += static_cast<double>(row[e]) * row[e];
  double inverse = 1.0 / sqrt(block_sum(squares, part) / dim + c.norm_eps);
  for (int e = threadIdx.x; e < dim; e += kThreads) row[e] = rounded(c, c.norm[e] * (row[e] * inverse));
  __syncthreads();
  for (int i = threadIdx.x; i < c.pairs; i += kThreads) {
    double angle = static_cast<float>(b * c.ratio) * c.inv_freq[i];
    double cosine = static_cast<float>(cos(angle)), sine = static_cast<float>(sin(angle));
    float* pair = row + dim - 2 * c.pairs + 2 * i;
    double x = pair[0], y = pair[1];
    pair[0] = rounded(c, static_cast<float>(x * cosine - y * sine));
    pair[1] = rounded(c, static_cast<float>(x * sine + y * cosine));
  }
  __syncthreads();
  if (c.hadamard) {
    for (int e = threadIdx.x; e < dim; e += kThreads) wide[e] = row[e];
    __syncthreads();
    for (int half = 1; half < dim; half *= 2) {
      for (int i = threadIdx.x; i < dim / 2; i += kThreads) {
        int at = i / half * 2 * half + i % half;
        double x = wide[at], y = wide[at + half];
        wide[at] = x + y;
        wide[at + half] = x - y;
      }
      __syncthreads();
    }
    double scale = 1.0 / sqrt(static_cast<double>(dim));
    for (int e = threadIdx.x; e < dim; e += kThreads) row[e] = rounded(c, wide[e] * scale);
    __syncthreads();
  }
  std::byte* page = s.written_pages[b / c.section.rows_per_page];
  int64_t slot = b % c.section.rows_per_page;
  encode_row_by_block(c.format, row, page + c.section.data_offset + slot * c.format.data_bytes,
                      page + c.section.scale_offset + slot * c.format.scale_bytes);
}

// Token blockIdx.x of the last min(tokens, tail_capacity) of a sequence.
__global__ void __launch_bounds__(kThreads) compress_tail_kernel(CompressCall c) {
  const CacheSequence& s = c.sequences[blockIdx.y];
  int64_t kept = min(s.span.tokens, c.tail_capacity);
  if (blockIdx.x >= kept) return;
  int64_t i = s.span.tokens - kept + blockIdx.x, p = s.span.start + i, row = s.span.first_row + i;
  int width = c.lanes * c.format.dim;
  auto* tail = reinterpret_cast<float*>(s.state + c.tail) + p % c.tail_capacity * 2 * width;
  for (int e = threadIdx.x; e < width; e += kThreads) {
    tail[e] = c.kv[row * c.kv_row + e];
    tail[width + e] = c.score[row * c.score_row + e] + c.ape[p % c.ratio * width + e];
  }
}

CompressCall call_of(const CudaContext& context, const CompressArgs& a) {
  int64_t tokens = a.kv.shape(0), width = int64_t{a.lanes} * a.format.dim;
  bool entry = a.kind == CompressKind::kEntry;
  KVASIR_CHECK(a.lanes == 1 || a.lanes == 2, "{} lanes", a.lanes);
  KVASIR_CHECK(a.kv.shape(1) == width && a.score.shape(1) == width && a.score.shape(0) == tokens &&
                   a.kv.stride(1) == 1 && a.score.stride(1) == 1,
               "kv [{}, {}], score [{}, {}] for {} lanes of {}", tokens, a.kv.shape(1), a.score.shape(0),
               a.score.shape(1), a.lanes, a.format.dim);
  KVASIR_CHECK(a.ape.shape(0) == a.place.ratio && a.ape.shape(1) == width && a.ape.dense(),
               "ape [{}, {}] for ratio {}", a.ape.shape(0), a.ape.shape(1), a.place.ratio);
  KVASIR_CHECK(a.norm.shape(0) == a.format.dim, "norm of {} for rows of {}", a.norm.shape(0), a.format.dim);
  KVASIR_CHECK(a.place.tail_capacity >= a.lanes * a.place.ratio - 1, "a tail of {} for ratio {}",
               a.place.tail_capacity, a.place.ratio);
  CompressCall c;
  c.kv = a.kv.data();
  c.score = a.score.data();
  c.kv_row = a.kv.stride(0);
  c.score_row = a.score.stride(0);
  c.ape = a.ape.data();
  c.norm = a.norm.data();
  c.norm_eps = a.norm_eps;
  c.inv_freq = a.inv_freq.data();
  c.pairs = static_cast<int>(a.inv_freq.shape(0));
  c.sequences = a.batch.sequences.data();
  c.num_sequences = static_cast<int>(a.batch.sequences.shape(0));
  c.max_tokens = a.batch.max_tokens;
  c.ratio = a.place.ratio;
  c.lanes = a.lanes;
  c.tail = entry ? a.place.tail : a.place.index_tail;
  c.tail_capacity = a.place.tail_capacity;
  c.section = entry ? a.place.entries : a.place.keys;
  c.format = a.format;
  c.hadamard = !entry;
  c.native = context.numerics == Numerics::kNative;
  return c;
}

void compress_plain(cudaStream_t stream, const CompressCall& c) {
  int shared = c.format.dim * static_cast<int>(sizeof(double) + sizeof(float));
  KVASIR_CHECK(shared <= 48 << 10, "rows of {}", c.format.dim);
  auto sequences = static_cast<unsigned>(c.num_sequences);
  dim3 groups(static_cast<unsigned>(c.max_tokens / c.ratio + 1), sequences);
  compress_kernel<<<groups, kThreads, shared, stream>>>(c);
  dim3 tokens(static_cast<unsigned>(std::min(c.max_tokens, c.tail_capacity)), sequences);
  compress_tail_kernel<<<tokens, kThreads, 0, stream>>>(c);
}

bool empty(const CompressArgs& a) {
  return a.kv.shape(0) == 0 || a.batch.sequences.shape(0) == 0 || a.batch.max_tokens == 0;
}

}  // namespace

void compress(CudaContext& context, const CompressArgs& args) {
  if (empty(args)) return;
  CompressCall call = call_of(context, args);
  if (context.numerics == Numerics::kFast && compress_rows_serves(call)) {
    compress_rows(context.stream, call);
  } else {
    compress_plain(context.stream, call);
  }
}

void compress_pair(CudaContext& context, const CompressArgs& entry, const CompressArgs& key) {
  if (empty(entry)) return;
  CompressCall e = call_of(context, entry), k = call_of(context, key);
  if (context.numerics == Numerics::kFast && e.ratio == k.ratio && compress_rows_serves(e) &&
      compress_rows_serves(k)) {
    compress_rows_pair(context.stream, e, k);
  } else {
    compress(context, entry);
    compress(context, key);
  }
}

}  // namespace kvasir::cuda
