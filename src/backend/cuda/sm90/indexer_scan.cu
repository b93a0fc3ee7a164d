// Index scores for up to kScanTokens tokens of each sequence: one pass over all FP4 keys, at the rate of
// memory.
//
// Every block takes an equal run of the tiles (64 keys) of all sequences, four warpgroups take them in turn.
// A lane loads the 32 bytes that it expands itself, two tiles ahead, so that nothing waits for another warp,
// and it expands the next tile while the tensor cores multiply the last one with a token's 64 queries (keys
// are the rows of the product, heads its columns). The weighted sum over heads is a second, small product:
// relu of the dots in f16 (2^-12 relative) by weights split into two f16 parts. Beside the scores goes the
// largest of every 16, from which topk_groups.cu finds where the k best can lie. A score depends on its key
// and query alone.
#include <algorithm>

#include "backend/cuda/sm90/indexer_keys.cuh"
#include "backend/cuda/sm90/indexer_launch.h"
#include "backend/cuda/sm90/indexer_scan.h"
#include "backend/cuda/sm90/topk_rows.h"
#include "base/check.h"

namespace kvasir::cuda {
namespace {

constexpr int kGroups = 4;  // warpgroups
constexpr int kScanThreads = kGroups * 128;
constexpr int kTile = 64;
constexpr int kWarpKeys = 16;  // of a tile
constexpr int kScanTokens = 8;
constexpr int kMaxSequences = 512;

struct ScanCall {
  const float* q;
  int64_t q_token;
  const float* weight;
  int64_t weight_token;
  const float* table;  // of index_query's rotation, when that is to be done here; else null
  float weight_scale;
  const CacheSequence* sequences;
  int num_sequences;
  int ratio;
  int max_tokens;
  PageSection keys;
  float* scores;     // [T, capacity]
  float* group_max;  // [T, capacity / 16]
  int64_t capacity;
};

// Shared memory behind the queries, which take max_tokens * 8192 bytes.
struct ScanShared {
  // Fragments of the second product: column 0 the high parts, column 1 the low.
  uint4 weights[kScanTokens][32][2];
  float factor[kScanTokens][kIndexHeads];
  float unit[kScanTokens];
  int visible[kScanTokens];
  uint2 tables[kScaleTables];
  int first_tile[kMaxSequences + 1];
};

// The tiles [begin, end) of the call that a block takes, sequence by sequence.
struct TileRun {
  int begin, end, sequence;

  __device__ TileRun(const ScanShared& s, int num_sequences) {
    int64_t total = s.first_tile[num_sequences];
    begin = static_cast<int>(total * blockIdx.x / gridDim.x);
    end = static_cast<int>(total * (blockIdx.x + 1) / gridDim.x);
    int before = 0;
    for (int i = threadIdx.x % 32; i < num_sequences; i += 32) before += s.first_tile[i + 1] <= begin;
    sequence = __reduce_add_sync(0xffffffffu, before);
  }
};

__device__ void fill_first_tiles(const ScanCall& c, ScanShared& s) {
  int lane = threadIdx.x % 32, sum = 0;
  for (int first = 0; first < c.num_sequences; first += 32) {
    int tiles = 0;
    if (first + lane < c.num_sequences) {
      const SequenceSpan& span = c.sequences[first + lane].span;
      if (span.tokens > 0)
        tiles = static_cast<int>(((span.start + span.tokens) / c.ratio + kTile - 1) / kTile);
    }
    for (int i = 1; i < 32; i *= 2) {
      int other = __shfl_up_sync(0xffffffffu, tiles, i);
      if (lane >= i) tiles += other;
    }
    if (first + lane < c.num_sequences) s.first_tile[first + lane + 1] = sum + tiles;
    sum += __shfl_sync(0xffffffffu, tiles, 31);
  }
  if (lane == 0) s.first_tile[0] = 0;
}

// Sixteen keys as a lane of their warp holds them: its block of rows lane / 4 and lane / 4 + 8.
struct RawKeys {
  uint4 x, y;
  uint32_t scale_x, scale_y;
};

// The keys of one sequence that a warp takes: every kGroups-th tile, its sixteen rows of each. Lane i holds
// the page of the i-th tile of 32, and that of the 32 after them.
class KeyLoads {
 public:
  __device__ KeyLoads(const ScanCall& c, int sequence, int tile) : c_(c), sequence_(sequence) {
    int lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * kWarpKeys, slot = row % c.keys.rows_per_page;
    data_ = static_cast<uint32_t>(c.keys.data_offset) + slot * kKeyBytes + lane * 16;
    scale_ = static_cast<uint32_t>(c.keys.scale_offset) + slot * 4 + lane;
    row_ = (tile + lane * kGroups) * kTile + row;
    next_ = page();
    turn();
  }

  // The next tile; behind the last one it reads keys that are there and not used.
  __device__ __forceinline__ void load(RawKeys& raw) {
    if (at_ == 32) turn();
    uint64_t address = __shfl_sync(0xffffffffu, page_, at_++);
    raw.x = stream_16(address + data_);
    raw.y = stream_16(address + data_ + 512);
    raw.scale_x = load_byte(address + scale_);
    raw.scale_y = load_byte(address + scale_ + 32);
  }

 private:
  __device__ __forceinline__ void turn() {
    at_ = 0;
    page_ = next_;
    row_ += 32 * kGroups * kTile;
    next_ = page();
  }
  // Little is kept in registers for this, which happens once in 32 tiles.
  __device__ __forceinline__ uint64_t page() const {
    const CacheSequence& q = c_.sequences[sequence_];
    int last = static_cast<int>((q.span.start + q.span.tokens) / c_.ratio) - 1;
    return reinterpret_cast<uint64_t>(q.pages[min(row_, last) / c_.keys.rows_per_page]);
  }

  const ScanCall& c_;
  int sequence_, row_, at_ = 0;
  uint32_t data_, scale_;  // offsets in a page
  uint64_t page_, next_;
};

// A fragments of sixteen keys, and the factors of this lane's two rows.
struct ExpandedKeys {
  uint32_t a[4][4];
  float fx, fy;

  __device__ __forceinline__ void expand(const RawKeys& raw, const uint2* tables) {
    auto sx = static_cast<int>(raw.scale_x), sy = static_cast<int>(raw.scale_y);
    int mx = row_scale(sx), my = row_scale(sy);
    uint2 tx = tables[min(mx - sx, kScaleTables - 1)], ty = tables[min(my - sy, kScaleTables - 1)];
    expand_nibbles(raw.x.x, tx, a[0][0], a[0][2]);
    expand_nibbles(raw.y.x, ty, a[0][1], a[0][3]);
    expand_nibbles(raw.x.y, tx, a[1][0], a[1][2]);
    expand_nibbles(raw.y.y, ty, a[1][1], a[1][3]);
    expand_nibbles(raw.x.z, tx, a[2][0], a[2][2]);
    expand_nibbles(raw.y.z, ty, a[2][1], a[2][3]);
    expand_nibbles(raw.x.w, tx, a[3][0], a[3][2]);
    expand_nibbles(raw.y.w, ty, a[3][1], a[3][3]);
    fx = row_factor(mx);
    fy = row_factor(my);
  }
  // Everything is computed here and not where it is used, which would be behind the product that it should
  // run beside.
  __device__ __forceinline__ void pin() {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      asm volatile("" : "+r"(a[i][0]), "+r"(a[i][1]), "+r"(a[i][2]), "+r"(a[i][3]) : : "memory");
  }
};

// One token's queries on their way, four heads a warp.
struct QueryLoads {
  static constexpr int kHeads = kIndexHeads / (kScanThreads / 32);
  float4 x[kHeads];
  float weight[kHeads];

  __device__ __forceinline__ void start(const ScanCall& c, int64_t row) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kHeads; ++i) {
      int head = warp * kHeads + i;
      x[i] = reinterpret_cast<const float4*>(c.q + row * c.q_token + head * kIndexDim)[lane];
      weight[i] = c.weight[row * c.weight_token + head];
    }
  }
  __device__ __forceinline__ void store(const ScanCall& c, int64_t row, uint8_t* query, float* factors) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kHeads; ++i) {
      int head = warp * kHeads + i;
      if (c.table != nullptr) x[i] = transform_query(x[i], c.table + row * 64, lane);
      float factor = store_query_head(query, head, x[i], lane);
      if (lane == 0) factors[head] = factor * (weight[i] * c.weight_scale);
    }
  }
};

// Queries of one sequence's tokens to shared memory, the first token's from `loads`. All threads.
__device__ void store_queries(const ScanCall& c, const SequenceSpan& span, QueryLoads& loads, uint8_t* query,
                              ScanShared& s) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, tokens = static_cast<int>(span.tokens);
  named_barrier(1, kScanThreads);  // the last sequence's queries are done with
  loads.store(c, span.first_row, query, s.factor[0]);
  for (int token = 1; token < tokens; ++token) {
    loads.start(c, span.first_row + token);
    loads.store(c, span.first_row + token, query + token * kIndexHeads * kIndexDim, s.factor[token]);
  }
  fence_async_shared();
  named_barrier(1, kScanThreads);
  if (warp < tokens) {
    s.unit[warp] = weight_fragments(s.factor[warp], s.weights[warp][lane], lane);
    if (lane == 0) s.visible[warp] = static_cast<int>((span.start + warp + 1) / c.ratio);
  }
  named_barrier(1, kScanThreads);
}

// Where a token's scores of a warp's keys go.
struct ScorePlace {
  float* score;      // of row lane / 4
  float* group_max;  // of the sixteen keys
  int left;          // visible entries from row lane / 4 on

  __device__ __forceinline__ void step() {
    score += kGroups * kTile;
    group_max += kGroups * kTile / kWarpKeys;
    left -= kGroups * kTile;
  }
  __device__ __forceinline__ void store(const float (&d)[32], const uint4 (&weights)[2], float fx,
                                        float fy) const {
    float sum[4];
    sum_heads(d, weights, sum);
    float high = left > 0 ? (sum[0] + sum[1]) * fx : -INFINITY,
          low = left > 8 ? (sum[2] + sum[3]) * fy : -INFINITY;
    if (threadIdx.x % 4 == 0) {
      score[0] = high;
      score[8] = low;
    }
    float best = fmaxf(high, low);
    best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 4));
    best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 8));
    best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 16));
    if (threadIdx.x % 32 == 0) *group_max = best;
  }
};

// Tiles tile, tile + kGroups, ... below end of one sequence, counted from its first entry.
template <bool kOneToken>
__device__ __forceinline__ void score_tiles(const ScanCall& c, const SequenceSpan& span, KeyLoads& loads,
                                            int tile, int end, const uint8_t* query, const ScanShared& s,
                                            RawKeys& even, RawKeys& odd) {
  int lane = threadIdx.x % 32, key = tile * kTile + threadIdx.x / 32 % 4 * kWarpKeys + lane / 4;
  int tokens = kOneToken ? 1 : static_cast<int>(span.tokens);
  uint64_t queries = matrix_descriptor(query);
  ScorePlace place{c.scores + span.first_row * c.capacity + key,
                   c.group_max + (span.first_row * c.capacity + key) / kWarpKeys, s.visible[0] - key};
  float unit = s.unit[0];
  // The product of `now`, and the expansion of `raw` into `next` beside it.
  auto step = [&](const ExpandedKeys& now, ExpandedKeys& next, RawKeys& raw) {
    float d[32];
    multiply(d, now.a, queries);
    next.expand(raw, s.tables);
    next.pin();
    loads.load(raw);
    uint4 weights[2] = {s.weights[0][lane][0], s.weights[0][lane][1]};
    wgmma_wait<0>();
    place.store(d, weights, now.fx * unit, now.fy * unit);
    if constexpr (!kOneToken) {
      for (int token = 1; token < tokens; ++token) {
        multiply(d, now.a, queries + token * (kIndexHeads * kIndexDim / 16));
        ScorePlace other{place.score + token * c.capacity, place.group_max + token * (c.capacity / kWarpKeys),
                         place.left + s.visible[token] - s.visible[0]};
        uint4 w[2] = {s.weights[token][lane][0], s.weights[token][lane][1]};
        float u = s.unit[token];
        wgmma_wait<0>();
        other.store(d, w, now.fx * u, now.fy * u);
      }
    }
    place.step();
  };
  ExpandedKeys first, second;
  if (tile < end) {
    first.expand(even, s.tables);
    loads.load(even);
  }
  for (; tile < end; tile += 2 * kGroups) {
    step(first, second, odd);
    if (tile + kGroups >= end) break;
    step(second, first, even);
  }
}

template <bool kOneToken>
__device__ __forceinline__ void run_block(const ScanCall& c, uint8_t* query, ScanShared& s) {
  TileRun run(s, c.num_sequences);
  int group = threadIdx.x / 128;
  if (run.begin == run.end) wait_for_previous_kernels();
  for (int at = run.begin, sequence = run.sequence; at < run.end; ++sequence) {
    int first = s.first_tile[sequence], end = min(run.end, s.first_tile[sequence + 1]);
    if (at >= end) continue;
    SequenceSpan span = c.sequences[sequence].span;
    // The groups take turns from the start of a sequence's run.
    int tile = at - first + group;
    KeyLoads loads(c, sequence, tile);
    // Up to here only the batch was read.
    if (at == run.begin) wait_for_previous_kernels();
    QueryLoads queries;
    queries.start(c, span.first_row);
    RawKeys even, odd;
    loads.load(even);
    loads.load(odd);
    store_queries(c, span, queries, query, s);
    score_tiles<kOneToken>(c, span, loads, tile, end - first, query, s, even, odd);
    at = end;
  }
}

template <bool kOneToken>
__global__ void __launch_bounds__(kScanThreads, 1) index_scan_kernel(const __grid_constant__ ScanCall c) {
  extern __shared__ __align__(1024) uint8_t memory[];
  ScanShared& s = *reinterpret_cast<ScanShared*>(memory + c.max_tokens * kIndexHeads * kIndexDim);
  if (threadIdx.x < kScaleTables) s.tables[threadIdx.x] = scale_table(threadIdx.x);
  if (threadIdx.x < 32) fill_first_tiles(c, s);
  __syncthreads();
  let_next_kernel_start();
  run_block<kOneToken>(c, memory, s);
}

}  // namespace

bool index_kernels_serve(const IndexSelectArgs& a) {
  return a.q.shape(1) == kIndexHeads && a.q.shape(2) == kIndexDim && a.q.stride(1) == kIndexDim &&
         a.q.stride(0) % 4 == 0 && reinterpret_cast<uintptr_t>(a.q.data()) % 16 == 0 && a.format.quantised &&
         a.place.keys.rows_per_page % kWarpKeys == 0 && a.place.keys.data_offset % 16 == 0 &&
         a.place.keys.scale_offset % 16 == 0 && a.place.keys.data_offset < INT32_MAX &&
         a.place.keys.scale_offset < INT32_MAX;
}

bool index_scan_serves(const IndexSelectArgs& a) {
  return index_kernels_serve(a) && kTile % a.place.keys.rows_per_page == 0 &&
         a.batch.sequences.shape(0) <= kMaxSequences && a.batch.max_tokens <= kScanTokens &&
         topk_groups_serve(a);
}

IndexScores take_index_scores(CudaContext& context, const IndexSelectArgs& a) {
  IndexScores s;
  s.capacity = (a.batch.max_length / a.place.ratio + kTile - 1) / kTile * kTile;
  s.scores = context.scratch.take<float>(a.q.shape(0) * s.capacity);
  s.group_max = context.scratch.take<float>(a.q.shape(0) * s.capacity / 16);
  return s;
}

void index_scan(CudaContext& context, const IndexSelectArgs& a, const IndexScores& out,
                const IndexQueryArgs* query) {
  ScanCall c;
  c.q = a.q.data();
  c.q_token = a.q.stride(0);
  c.weight = a.weight.data();
  c.weight_token = a.weight.stride(0);
  c.table = query != nullptr ? query->table.data() : nullptr;
  c.weight_scale = query != nullptr ? query->weight_scale : 1.f;
  c.sequences = a.batch.sequences.data();
  c.num_sequences = static_cast<int>(a.batch.sequences.shape(0));
  c.ratio = a.place.ratio;
  c.max_tokens = static_cast<int>(a.batch.max_tokens);
  c.keys = a.place.keys;
  c.capacity = out.capacity;
  c.scores = out.scores;
  c.group_max = out.group_max;
  int64_t tiles = std::max<int64_t>(1, c.num_sequences * (out.capacity / kTile));
  int shared = c.max_tokens * kIndexHeads * kIndexDim + static_cast<int>(sizeof(ScanShared));
  dim3 grid(static_cast<unsigned>(std::min<int64_t>(context.sm_count, tiles)));
  auto kernel = c.max_tokens == 1 ? index_scan_kernel<true> : index_scan_kernel<false>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  launch_early(context.stream, kernel, grid, kScanThreads, shared, c);
}

void index_scan_select(CudaContext& context, const IndexSelectArgs& a, const IndexScores& s) {
  TopkRows call{
      s.scores,      s.capacity,        a.batch.sequences.data(), a.batch.row_sequence.data(),          0,
      a.place.ratio, a.selected.data(), a.selected.stride(0),     static_cast<int>(a.selected.shape(1))};
  topk_rows_of_groups(context.stream, call, s.group_max, a.q.shape(0));
}

}  // namespace kvasir::cuda
