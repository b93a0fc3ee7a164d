// Index queries, index scores and the top k; contracts in ops/indexer.h.
//
// Here: the plain kernels, f64 sums, which serve every shape and every numerics. kFast at the shapes of V4
// goes to sm90/indexer_*.cu. Scores are computed for a span of rows at a time, so that their memory stays
// bounded.
#include "backend/cuda/indexer.h"

#include <algorithm>

#include "backend/cuda/indexer_codec.cuh"
#include "backend/cuda/sm90/indexer_scan.h"
#include "backend/cuda/sm90/topk_rows.h"
#include "base/check.h"

namespace kvasir::cuda {
namespace {

constexpr int64_t kMaxScores = int64_t{8} << 20;  // f32 scores held at a time
constexpr int kKeys = 16;                         // keys of a block
constexpr int kThreadsPerKey = 16;

struct QueryCall {
  float* q;
  int64_t q_token, q_head;
  const float* table;
  int64_t table_token;
  int dim, pairs;
  bool native;
};

// One block per (head, token). Dynamic shared memory: dim doubles.
__global__ void index_query_kernel(QueryCall c) {
  extern __shared__ double v[];
  float* q = c.q + blockIdx.y * c.q_token + blockIdx.x * c.q_head;
  const float* table = c.table + blockIdx.y * c.table_token;
  int first = c.dim - 2 * c.pairs;
  for (int i = threadIdx.x; i < c.dim / 2; i += blockDim.x) {
    double a = q[2 * i], b = q[2 * i + 1];
    int pair = i - first / 2;
    if (pair >= 0) {
      double cos = table[2 * pair], sin = table[2 * pair + 1];
      float x = static_cast<float>(a * cos - b * sin), y = static_cast<float>(a * sin + b * cos);
      a = c.native ? round_to_bf16(x) : x;
      b = c.native ? round_to_bf16(y) : y;
    }
    v[2 * i] = a;
    v[2 * i + 1] = b;
  }
  __syncthreads();
  for (int half = 1; half < c.dim; half *= 2) {
    for (int i = threadIdx.x; i < c.dim / 2; i += blockDim.x) {
      int at = i / half * 2 * half + i % half;
      double a = v[at], b = v[at + half];
      v[at] = a + b;
      v[at + half] = a - b;
    }
    __syncthreads();
  }
  double scale = 1.0 / sqrt(static_cast<double>(c.dim));
  for (int i = threadIdx.x; i < c.dim; i += blockDim.x) {  // whole warps: dim is a multiple of 32
    float x = static_cast<float>(v[i] * scale);
    if (c.native) {
      x = round_to_bf16(x);
      float s = e8m0_value(e8m0_scale_byte(warp_max(fmaxf(fabsf(x), 6 * 0x1p-126f)), 6.f));
      x = e2m1_value(e2m1_code(x / s)) * s;
    }
    q[i] = x;
  }
}

__global__ void scale_weights_kernel(float* weight, int64_t stride, int64_t tokens, int64_t heads,
                                     double scale, bool native) {
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= tokens * heads) return;
  float& w = weight[i / heads * stride + i % heads];
  float x = static_cast<float>(static_cast<double>(w) * scale);
  w = native ? round_to_bf16(x) : x;
}

struct ScoreCall {
  const float* q;
  int64_t q_token, q_head;
  const float* weight;
  int64_t weight_token;
  const CacheSequence* sequences;
  const int32_t* row_sequence;
  int64_t first_row;  // of this span of rows
  int heads, dim, ratio;
  KvRowFormat format;
  PageSection keys;
  float* scores;  // [rows of the span, capacity]
  int64_t capacity;
  bool native;
};

// One block scores kKeys entries for one row. Dynamic shared memory: kKeys * (dim + 1) doubles.
__global__ void index_scores_kernel(ScoreCall c) {
  extern __shared__ double key[];
  int64_t row = c.first_row + blockIdx.y;
  const CacheSequence& s = c.sequences[c.row_sequence[row]];
  int64_t visible = (s.span.start + row - s.span.first_row + 1) / c.ratio;
  int64_t first = int64_t{blockIdx.x} * kKeys;
  if (first >= visible) return;
  int count = static_cast<int>(min(int64_t{kKeys}, visible - first));
  for (int i = threadIdx.x; i < count * c.dim; i += blockDim.x) {
    int64_t b = first + i / c.dim, slot = b % c.keys.rows_per_page;
    const std::byte* page = s.pages[b / c.keys.rows_per_page];
    key[i / c.dim * (c.dim + 1) + i % c.dim] =
        key_element(c.format, page + c.keys.data_offset + slot * c.format.data_bytes,
                    page + c.keys.scale_offset + slot * c.format.scale_bytes, i % c.dim);
  }
  __syncthreads();
  int which = threadIdx.x / kThreadsPerKey, part = threadIdx.x % kThreadsPerKey;
  double sum = 0;
  for (int h = part; h < c.heads; h += kThreadsPerKey) {
    const float* q = c.q + row * c.q_token + h * c.q_head;
    const double* k = key + which * (c.dim + 1);
    double dot = 0;
    for (int d = 0; d < c.dim; ++d) dot += q[d] * k[d];
    float x = static_cast<float>(dot);
    x = fmaxf(c.native ? round_to_bf16(x) : x, 0.f);
    float y = static_cast<float>(static_cast<double>(x) * c.weight[row * c.weight_token + h]);
    sum += c.native ? round_to_bf16(y) : y;
  }
  for (int i = kThreadsPerKey / 2; i > 0; i /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, i);
  if (part == 0 && which < count) {
    float x = static_cast<float>(sum);
    c.scores[blockIdx.y * c.capacity + first + which] = c.native ? round_to_bf16(x) : x;
  }
}

void check(const IndexSelectArgs& a) {
  int64_t tokens = a.q.shape(0);
  KVASIR_CHECK(
      a.weight.shape(0) == tokens && a.weight.shape(1) == a.q.shape(1) && a.selected.shape(0) == tokens,
      "q has {} rows of {} heads, weight [{}, {}], selected {} rows", tokens, a.q.shape(1), a.weight.shape(0),
      a.weight.shape(1), a.selected.shape(0));
  KVASIR_CHECK(a.q.shape(2) == a.format.dim && a.q.stride(2) == 1, "queries of {}, keys of {}", a.q.shape(2),
               a.format.dim);
  KVASIR_CHECK(a.batch.row_sequence.shape(0) >= tokens, "{} rows have a sequence, q has {}",
               a.batch.row_sequence.shape(0), tokens);
  KVASIR_CHECK(a.selected.stride(1) == 1 && a.place.keys.rows_per_page > 0 && a.place.ratio > 0,
               "keys: {} rows a page, ratio {}", a.place.keys.rows_per_page, a.place.ratio);
}

void select_plain(CudaContext& context, const IndexSelectArgs& a) {
  Scratch::Scope scope(context.scratch);
  int64_t tokens = a.q.shape(0),
          capacity = std::max<int64_t>(1, (a.batch.max_length / a.place.ratio + 63) / 64 * 64);
  int64_t span = std::clamp<int64_t>(kMaxScores / capacity, 1, std::min<int64_t>(tokens, 65535));
  auto* scores = context.scratch.take<float>(span * capacity);
  int dim = static_cast<int>(a.q.shape(2));
  ScoreCall c{a.q.data(),
              a.q.stride(0),
              a.q.stride(1),
              a.weight.data(),
              a.weight.stride(0),
              a.batch.sequences.data(),
              a.batch.row_sequence.data(),
              0,
              static_cast<int>(a.q.shape(1)),
              dim,
              a.place.ratio,
              a.format,
              a.place.keys,
              scores,
              capacity,
              context.numerics == Numerics::kNative};
  int shared = kKeys * (dim + 1) * static_cast<int>(sizeof(double));
  KVASIR_CHECK(shared <= 200 << 10, "index keys of {}", dim);
  cudaFuncSetAttribute(index_scores_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  for (int64_t first = 0; first < tokens; first += span) {
    int64_t rows = std::min(span, tokens - first);
    c.first_row = first;
    dim3 grid(static_cast<unsigned>((capacity + kKeys - 1) / kKeys), static_cast<unsigned>(rows));
    index_scores_kernel<<<grid, kKeys * kThreadsPerKey, shared, context.stream>>>(c);
    TopkRows t{scores,
               capacity,
               a.batch.sequences.data(),
               a.batch.row_sequence.data(),
               first,
               a.place.ratio,
               a.selected.data(),
               a.selected.stride(0),
               static_cast<int>(a.selected.shape(1))};
    topk_rows_plain(context.stream, t, rows);
  }
}

}  // namespace

void index_query(CudaContext& context, const IndexQueryArgs& args) {
  int64_t tokens = args.q.shape(0), heads = args.q.shape(1), dim = args.q.shape(2),
          pairs = args.table.shape(1);
  if (tokens == 0) return;
  KVASIR_CHECK(dim % 32 == 0 && (dim & (dim - 1)) == 0 && 2 * pairs <= dim && args.q.stride(2) == 1 &&
                   args.table.dense(),
               "queries of {} with {} rotated pairs", dim, pairs);
  KVASIR_CHECK(args.weight.shape(0) == tokens && args.weight.shape(1) == heads && args.weight.stride(1) == 1,
               "weight [{}, {}] for {} tokens of {} heads", args.weight.shape(0), args.weight.shape(1),
               tokens, heads);
  if (context.numerics == Numerics::kFast && index_query_rows_serves(args)) {
    index_query_rows(context, args);
    return;
  }
  bool native = context.numerics == Numerics::kNative;
  constexpr int64_t kRows = 65535;  // blocks along y
  int shared = static_cast<int>(dim) * static_cast<int>(sizeof(double));
  KVASIR_CHECK(shared <= 48 << 10, "index queries of {}", dim);
  for (int64_t first = 0; first < tokens; first += kRows) {
    QueryCall c{args.q.data() + first * args.q.stride(0),
                args.q.stride(0),
                args.q.stride(1),
                args.table.data() + first * args.table.stride(0),
                args.table.stride(0),
                static_cast<int>(dim),
                static_cast<int>(pairs),
                native};
    dim3 grid(static_cast<unsigned>(heads), static_cast<unsigned>(std::min(kRows, tokens - first)));
    index_query_kernel<<<grid, static_cast<unsigned>(std::min<int64_t>(dim, 256)), shared, context.stream>>>(
        c);
  }
  scale_weights_kernel<<<static_cast<unsigned>((tokens * heads + 255) / 256), 256, 0, context.stream>>>(
      args.weight.data(), args.weight.stride(0), tokens, heads, args.weight_scale, native);
}

void index_select(CudaContext& context, const IndexSelectArgs& args) {
  if (args.q.shape(0) == 0) return;
  check(args);
  if (context.numerics == Numerics::kFast && index_scan_serves(args)) {
    Scratch::Scope scope(context.scratch);
    IndexScores scores = take_index_scores(context, args);
    index_scan(context, args, scores);
    index_scan_select(context, args, scores);
    return;
  }
  if (context.numerics == Numerics::kFast && index_stream_serves(args)) {
    Scratch::Scope scope(context.scratch);
    index_stream(context, args);
    return;
  }
  select_plain(context, args);
}

void index_query_select(CudaContext& context, const IndexQueryArgs& query, const IndexSelectArgs& args) {
  if (args.q.shape(0) == 0) return;
  check(args);
  if (context.numerics == Numerics::kFast && index_query_rows_serves(query) && index_scan_serves(args)) {
    Scratch::Scope scope(context.scratch);
    IndexScores scores = take_index_scores(context, args);
    index_scan(context, args, scores, &query);
    index_scan_select(context, args, scores);
    return;
  }
  index_query(context, query);
  index_select(context, args);
}

}  // namespace kvasir::cuda
