// Index selection for many tokens: scores stay in registers, only what may be among the k best is written.
//
// A block takes kQueries tokens of one sequence and all their keys. As in indexer_scan.cu a warp expands 16
// keys of a tile in registers; the fragments then meet every query of the block, one product under way while
// the scores of the one before are summed over heads. A score above its query's threshold goes to the query's
// list of candidates in memory. After every kEpoch keys the block looks at the lists: one that could overflow
// in the next epoch is cut to its k best, and the k-th of them is the new threshold. What comes later has a
// higher entry number and loses ties, so "above" is exact. Which candidates a list holds at the end of an
// epoch does not depend on timing, only their order does, and the last cut puts them in order.
#include <algorithm>

#include "backend/cuda/sm90/indexer_keys.cuh"
#include "backend/cuda/sm90/indexer_launch.h"
#include "backend/cuda/sm90/indexer_scan.h"
#include "backend/cuda/sm90/topk_select.cuh"
#include "base/check.h"

namespace kvasir::cuda {
namespace {

constexpr int kGroups = 4;  // warpgroups
constexpr int kThreads = kGroups * 128;
constexpr int kWarps = kThreads / 32;
constexpr int kTile = 64;
constexpr int kWarpKeys = 16;
constexpr int kStages = 3;
constexpr int kEpoch = 2048;       // keys
constexpr int kCandidates = 4096;  // of a list
constexpr int kMaxTopk = 1024;
constexpr int kCutAbove = kCandidates - kEpoch;  // a longer list could overflow in the next epoch
static_assert(kMaxTopk <= kCutAbove);
constexpr int kMaxSequences = 512;

// Each warpgroup cuts lists of its own.
using Select = Selection<128, kCandidates / 128>;

struct StreamCall {
  const float* q;
  int64_t q_token;
  const float* weight;
  int64_t weight_token;
  const CacheSequence* sequences;
  int num_sequences;
  int ratio;
  PageSection keys;
  uint2* candidates;  // [blocks, kQueries, kCandidates]: sortable score, entry
  int32_t* selected;
  int64_t selected_stride;
  int topk;
};

template <int kQueries>
struct StreamShared {
  uint8_t query[kQueries][kIndexHeads * kIndexDim];
  uint4 data[kWarps][kStages][2][32];
  uint8_t scale[kWarps][kStages][2][32];
  uint4 weights[kQueries][32][2];
  float factor[kQueries][kIndexHeads];
  float unit[kQueries];
  float threshold[kQueries];
  int count[kQueries];
  int visible[kQueries];
  uint2 tables[kScaleTables];
  Select::Shared select[kGroups];
  int first_block[kMaxSequences + 1];
};

__device__ __forceinline__ float score_of(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

template <int kQueries>
__device__ void fill_first_blocks(const StreamCall& c, StreamShared<kQueries>& s) {
  int lane = threadIdx.x % 32, sum = 0;
  for (int first = 0; first < c.num_sequences; first += 32) {
    int blocks = 0;
    if (first + lane < c.num_sequences)
      blocks = static_cast<int>((c.sequences[first + lane].span.tokens + kQueries - 1) / kQueries);
    blocks = warp_inclusive_sum(blocks);
    if (first + lane < c.num_sequences) s.first_block[first + lane + 1] = sum + blocks;
    sum += __shfl_sync(0xffffffffu, blocks, 31);
  }
  if (lane == 0) s.first_block[0] = 0;
}

// One block's tokens and keys.
struct Job {
  int64_t first_row;  // of the call
  int64_t position;   // of the first token
  int tokens;
  int visible;  // entries of the last token
  std::byte* const* pages;
};

// Queries and weights to shared memory; all threads.
template <int kQueries>
__device__ void load_queries(const StreamCall& c, const Job& job, StreamShared<kQueries>& s) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll 4
  for (int i = warp; i < kQueries * kIndexHeads; i += kWarps) {
    int token = i / kIndexHeads, head = i % kIndexHeads;
    float4 x{};
    float weight = 0;
    if (token < job.tokens) {
      x = reinterpret_cast<const float4*>(c.q + (job.first_row + token) * c.q_token + head * kIndexDim)[lane];
      weight = c.weight[(job.first_row + token) * c.weight_token + head];
    }
    float factor = store_query_head(s.query[token], head, x, lane);
    if (lane == 0) s.factor[token][head] = factor * weight;
  }
  if (threadIdx.x < kQueries) {
    bool used = threadIdx.x < job.tokens;
    s.threshold[threadIdx.x] = used ? -INFINITY : INFINITY;
    s.count[threadIdx.x] = 0;
    s.visible[threadIdx.x] = used ? static_cast<int>((job.position + threadIdx.x + 1) / c.ratio) : 0;
  }
  fence_async_shared();
  __syncthreads();
  for (int token = warp; token < kQueries; token += kWarps)
    s.unit[token] = weight_fragments(s.factor[token], s.weights[token][lane], lane);
  __syncthreads();
}

// Cuts the list of query i to its k best and sets the threshold; one warpgroup. The list holds more than k.
template <int kQueries>
__device__ __noinline__ void cut_list(uint2* list, int i, int k, StreamShared<kQueries>& s) {
  constexpr int kEach = kCandidates / 128;
  Select::Shared& select = s.select[threadIdx.x / 128];
  int count = s.count[i];
  uint32_t key[kEach], entry[kEach];
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    int at = Select::thread() + j * 128;
    uint2 x = at < count ? list[at] : uint2{0, 0};
    key[j] = x.x;
    entry[j] = x.y;
  }
  Select::Threshold t = Select::find_threshold(key, k, min(count, 128), select);
  if (t.ties > 0) {  // lowest entries first
    uint32_t late[kEach];
#pragma unroll
    for (int j = 0; j < kEach; ++j) late[j] = key[j] == t.key && key[j] != 0 ? ~entry[j] : 0;
    Select::sync();
    Select::Threshold u = Select::find_threshold(late, t.ties, 0, select);
#pragma unroll
    for (int j = 0; j < kEach; ++j)
      if (key[j] == t.key && late[j] <= u.key) key[j] = 0;
    t = {t.key - 1, 0};
  }
  uint32_t lowest = 0xffffffffu;
#pragma unroll
  for (int j = 0; j < kEach; ++j)
    if (key[j] > t.key) lowest = min(lowest, key[j]);
  Select::write_chosen(key, t, select, [&](int place, int j) { list[place] = {key[j], entry[j]}; });
  lowest = __reduce_min_sync(0xffffffffu, lowest);
  if (threadIdx.x % 32 == 0) select.warp_lo[Select::thread() / 32] = lowest;
  Select::sync();
  if (Select::thread() == 0) {
    lowest = min(min(select.warp_lo[0], select.warp_lo[1]), min(select.warp_lo[2], select.warp_lo[3]));
    s.threshold[i] = score_of(lowest);
    s.count[i] = k;
  }
  Select::sync();
}

// Writes the row of query i from its list, in order of entries; one warpgroup, when all tiles of the job are
// done. The list holds at most k. Entries are counted into bins by their upper bits, laid down bin by bin,
// and ranked in theirs.
template <int kQueries>
__device__ __noinline__ void write_row(const StreamCall& c, const uint2* list, int64_t row, int i,
                                       StreamShared<kQueries>& s) {
  constexpr int kBins = Select::kBins, kEach = kBins / 128;
  static_assert(kMaxTopk <= sizeof(s.data[0]) * 4 / sizeof(int));
  Select::Shared& select = s.select[threadIdx.x / 128];
  int* bins = select.count;
  int* order =
      reinterpret_cast<int*>(s.data[threadIdx.x / 128 * 4]);  // the ring of four warps, which is empty
  int count = s.count[i], thread = Select::thread(), shift = max(0, 22 - __clz(s.visible[i]));
  for (int j = thread; j < kBins; j += 128) bins[j] = 0;
  Select::sync();
  for (int j = thread; j < count; j += 128) atomicAdd(&bins[list[j].y >> shift], 1);
  Select::sync();
  int own[kEach], sum = 0;
#pragma unroll
  for (int j = 0; j < kEach; ++j) sum += own[j] = bins[thread * kEach + j];
  int inclusive = warp_inclusive_sum(sum);
  if (thread % 32 == 31) select.part[thread / 32] = inclusive;
  Select::sync();
  int before = inclusive - sum;
  for (int w = 0; w < thread / 32; ++w) before += select.part[w];
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    bins[thread * kEach + j] = before;
    before += own[j];
  }
  Select::sync();
  for (int j = thread; j < count; j += 128) {
    auto entry = static_cast<int>(list[j].y);
    order[atomicAdd(&bins[entry >> shift], 1)] = entry;
  }
  Select::sync();  // a bin now holds its end
  int32_t* out = c.selected + row * c.selected_stride;
  for (int j = thread; j < c.topk; j += 128) {
    if (j >= count) {
      out[j] = -1;
      continue;
    }
    int entry = order[j], bin = entry >> shift, first = bin > 0 ? bins[bin - 1] : 0, place = first;
    for (int n = first; n < bins[bin]; ++n) place += order[n] < entry;
    out[place] = entry;
  }
  Select::sync();
}

// This warp's copies of tiles group, group + kGroups, ... of the job, several ahead of the products.
template <int kQueries>
class TileCopies {
 public:
  __device__ TileCopies(const StreamCall& c, const Job& job, StreamShared<kQueries>& s)
      : c_(c), job_(job), s_(s), warp_(threadIdx.x / 32), lane_(threadIdx.x % 32), next_(warp_ / 4) {
    fetch();
  }

  __device__ __forceinline__ void start(int stage) {
    int row = next_ * kTile + warp_ % 4 * kWarpKeys;
    if (row < job_.visible) {
      if (held_ == 32) fetch();
      uint64_t page = __shfl_sync(0xffffffffu, reinterpret_cast<uint64_t>(page_), held_);
      int slot = row % c_.keys.rows_per_page;
      auto* data =
          reinterpret_cast<const uint8_t*>(page) + c_.keys.data_offset + slot * kKeyBytes + lane_ * 16;
      copy_16(&s_.data[warp_][stage][0][lane_], data);
      copy_16(&s_.data[warp_][stage][1][lane_], data + 512);
      auto* scale = reinterpret_cast<const uint8_t*>(page) + c_.keys.scale_offset + slot * 4;
      if (lane_ < 16) copy_4(&s_.scale[warp_][stage][0][0] + lane_ * 4, scale + lane_ * 4);
    }
    ++held_;
    next_ += kGroups;
    copy_commit();
  }

 private:
  // Lane i takes the page of this warp's i-th tile from here.
  __device__ void fetch() {
    int row = (next_ + lane_ * kGroups) * kTile + warp_ % 4 * kWarpKeys;
    page_ = row < job_.visible ? job_.pages[row / c_.keys.rows_per_page] : nullptr;
    held_ = 0;
  }

  const StreamCall& c_;
  const Job& job_;
  StreamShared<kQueries>& s_;
  int warp_, lane_, next_, held_ = 0;
  const std::byte* page_ = nullptr;
};

// Candidates among the 16 keys of this warp for query i: d are their dots with its heads. While a list can
// take every entry that there is so far, entries go to their own places (`direct`), and those behind the
// visible ones are not counted.
template <int kQueries>
__device__ __forceinline__ void keep_candidates(const float (&d)[32], int i, int key, float fx, float fy,
                                                bool direct, uint2* lists, StreamShared<kQueries>& s) {
  int lane = threadIdx.x % 32;
  uint4 weights[2] = {s.weights[i][lane][0], s.weights[i][lane][1]};
  float unit = s.unit[i], threshold = s.threshold[i], sum[4];
  sum_heads(d, weights, sum);
  float high = (sum[0] + sum[1]) * (fx * unit), low = (sum[2] + sum[3]) * (fy * unit);
  // One lane of four holds the sums.
  bool holds = lane % 4 == 0, high_in = holds && high > threshold, low_in = holds && low > threshold;
  if (!__any_sync(0xffffffffu, high_in || low_in)) return;
  uint2* list = lists + i * kCandidates;
  if (direct) {
    if (high_in) list[key] = {sortable(high), static_cast<uint32_t>(key)};
    if (low_in) list[key + 8] = {sortable(low), static_cast<uint32_t>(key + 8)};
    return;
  }
  high_in = high_in && key < s.visible[i];
  low_in = low_in && key + 8 < s.visible[i];
  if (high_in || low_in) {
    list += atomicAdd(&s.count[i], high_in + low_in);
    if (high_in) *list++ = {sortable(high), static_cast<uint32_t>(key)};
    if (low_in) *list = {sortable(low), static_cast<uint32_t>(key + 8)};
  }
}

template <int kQueries>
__device__ void run_job(const StreamCall& c, const Job& job, uint2* lists, StreamShared<kQueries>& s) {
  load_queries(c, job, s);
  int group = threadIdx.x / 128, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  TileCopies<kQueries> copies(c, job, s);
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) copies.start(i);
  int stage = 0, tiles = (job.visible + kTile - 1) / kTile;
  uint64_t queries = matrix_descriptor(s.query[0]);
  for (int first = 0; first < tiles; first += kEpoch / kTile) {
    int end = min(tiles, first + kEpoch / kTile);
    bool direct = (first + kEpoch / kTile) * kTile <= kCandidates;
    for (int t = first + group; t < end; t += kGroups) {
      copy_wait<kStages - 2>();
      __syncwarp();
      uint4 x = s.data[warp][stage][0][lane], y = s.data[warp][stage][1][lane];
      int sx = s.scale[warp][stage][0][lane], sy = s.scale[warp][stage][1][lane];
      copies.start(stage == 0 ? kStages - 1 : stage - 1);
      stage = stage == kStages - 1 ? 0 : stage + 1;
      int mx = row_scale(sx), my = row_scale(sy);
      uint2 tx = s.tables[min(mx - sx, kScaleTables - 1)], ty = s.tables[min(my - sy, kScaleTables - 1)];
      uint32_t a[4][4];
      expand_nibbles(x.x, tx, a[0][0], a[0][2]);
      expand_nibbles(y.x, ty, a[0][1], a[0][3]);
      expand_nibbles(x.y, tx, a[1][0], a[1][2]);
      expand_nibbles(y.y, ty, a[1][1], a[1][3]);
      expand_nibbles(x.z, tx, a[2][0], a[2][2]);
      expand_nibbles(y.z, ty, a[2][1], a[2][3]);
      expand_nibbles(x.w, tx, a[3][0], a[3][2]);
      expand_nibbles(y.w, ty, a[3][1], a[3][3]);
      float fx = e8m0_value(mx), fy = e8m0_value(my);
      int key = t * kTile + warp % 4 * kWarpKeys + lane / 4;
      for (int i = 0; i < kQueries; i += 4) {
        constexpr int kNext = kIndexHeads * kIndexDim / 16;
        uint64_t b = queries + i * kNext;
        float even[32], odd[32];
        multiply(even, a, b);
        multiply(odd, a, b + kNext);
        wgmma_wait<1>();
        keep_candidates(even, i, key, fx, fy, direct, lists, s);
        multiply(even, a, b + 2 * kNext);
        wgmma_wait<1>();
        keep_candidates(odd, i + 1, key, fx, fy, direct, lists, s);
        multiply(odd, a, b + 3 * kNext);
        wgmma_wait<1>();
        keep_candidates(even, i + 2, key, fx, fy, direct, lists, s);
        wgmma_wait<0>();
        keep_candidates(odd, i + 3, key, fx, fy, direct, lists, s);
      }
    }
    if (direct && threadIdx.x < kQueries) s.count[threadIdx.x] = min(s.visible[threadIdx.x], end * kTile);
    __syncthreads();
    for (int i = group; i < job.tokens; i += kGroups) {
      bool last = end == tiles;
      uint2* list = lists + i * kCandidates;
      if (s.count[i] > (last ? c.topk : kCutAbove)) cut_list(list, i, c.topk, s);
      if (last) write_row(c, list, job.first_row + i, i, s);
    }
    __syncthreads();
  }
  if (tiles == 0)
    for (int i = group; i < job.tokens; i += kGroups)
      write_row(c, lists + i * kCandidates, job.first_row + i, i, s);
  __syncthreads();
}

template <int kQueries>
__global__ void __launch_bounds__(kThreads, 1) index_stream_kernel(const __grid_constant__ StreamCall c) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& s = *reinterpret_cast<StreamShared<kQueries>*>(memory);
  if (threadIdx.x < kScaleTables) s.tables[threadIdx.x] = scale_table(threadIdx.x);
  wait_for_previous_kernels();
  let_next_kernel_start();
  if (threadIdx.x < 32) fill_first_blocks(c, s);
  __syncthreads();
  int blocks = s.first_block[c.num_sequences];
  uint2* lists = c.candidates + static_cast<int64_t>(blockIdx.x) * kQueries * kCandidates;
  // The last tokens, which see most, first.
  for (int block = blocks - 1 - static_cast<int>(blockIdx.x); block >= 0;
       block -= static_cast<int>(gridDim.x)) {
    int low = 0, high = c.num_sequences - 1;  // the sequence with first_block <= block < the next one's
    while (low < high) {
      int middle = (low + high + 1) / 2;
      if (s.first_block[middle] <= block) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    const CacheSequence& sequence = c.sequences[low];
    int64_t first = static_cast<int64_t>(block - s.first_block[low]) * kQueries;
    Job job;
    job.first_row = sequence.span.first_row + first;
    job.position = sequence.span.start + first;
    job.tokens = static_cast<int>(min(int64_t{kQueries}, sequence.span.tokens - first));
    job.visible = static_cast<int>((job.position + job.tokens) / c.ratio);
    job.pages = sequence.pages;
    run_job(c, job, lists, s);
  }
}

template <int kQueries>
void launch(CudaContext& context, StreamCall& c, int64_t blocks) {
  auto grid = static_cast<unsigned>(std::min<int64_t>(context.sm_count, blocks));
  c.candidates = context.scratch.take<uint2>(int64_t{grid} * kQueries * kCandidates);
  int shared = static_cast<int>(sizeof(StreamShared<kQueries>));
  cudaFuncSetAttribute(index_stream_kernel<kQueries>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  launch_early(context.stream, index_stream_kernel<kQueries>, dim3(grid), kThreads, shared, c);
}

}  // namespace

bool index_stream_serves(const IndexSelectArgs& a) {
  return index_kernels_serve(a) && a.selected.shape(1) <= kMaxTopk &&
         a.batch.sequences.shape(0) <= kMaxSequences;
}

void index_stream(CudaContext& context, const IndexSelectArgs& a) {
  StreamCall c;
  c.q = a.q.data();
  c.q_token = a.q.stride(0);
  c.weight = a.weight.data();
  c.weight_token = a.weight.stride(0);
  c.sequences = a.batch.sequences.data();
  c.num_sequences = static_cast<int>(a.batch.sequences.shape(0));
  c.ratio = a.place.ratio;
  c.keys = a.place.keys;
  c.selected = a.selected.data();
  c.selected_stride = a.selected.stride(0);
  c.topk = static_cast<int>(a.selected.shape(1));
  int64_t tokens = a.q.shape(0);
  // The number of queries a block for which the multiprocessors are done first; expanding a key costs about
  // as much as two.
  auto rounds = [&](int64_t queries) {
    return (tokens / queries + c.num_sequences + context.sm_count - 1) / context.sm_count * (queries + 2);
  };
  if (rounds(16) <= std::min(rounds(8), rounds(4))) {
    launch<16>(context, c, tokens / 16 + c.num_sequences);
  } else if (rounds(8) <= rounds(4)) {
    launch<8>(context, c, tokens / 8 + c.num_sequences);
  } else {
    launch<4>(context, c, tokens / 4 + c.num_sequences);
  }
}

}  // namespace kvasir::cuda
