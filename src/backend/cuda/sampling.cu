// A cluster of 16 blocks a row: each keeps its sixteenth of the row in shared memory, first logits, then
// weights.
//
// Without top_k and top_p the draw goes through the tokens by id, as the host's does. With them it goes
// through the tokens by weight, heaviest first, ids ascending among equals; no sort is needed for that. Every
// cut (the k-th token, the last of top_p, the drawn one) is a weight and a number of tokens of exactly that
// weight, and is found digit by digit: counts and sums per value of the leading 10 bits, then of the next 10
// among the weights that share those, then of the last 10. Sums inside a digit are whole numbers of the last
// place, hence exact; across digits f64.
#include "backend/cuda/device.h"
#include "backend/cuda/sampling.h"

#include "backend/cuda/sm90/boundary_ptx.cuh"
#include "base/check.h"

namespace kvasir::cuda {
namespace {

constexpr int kBlocks = 16;
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kDigit = 10;  // bits
constexpr int kBins = 1 << kDigit;

struct Bins {
  // Tokens, and the sums of the last digit and of the one before it, where they lie below the one that is
  // looked at.
  uint32_t count[kBins], low[kBins], middle[kBins];
};

struct Space {
  Bins mine, all;
  Bins top;  // `all` of the leading digit: it serves every cut
  unsigned long long keys[kBlocks];
  double masses[kBlocks];
  uint32_t ties[kBlocks];
  unsigned long long warp_keys[kWarps];
  double2 warp_sums[kWarps];
  int first_reached, last_filled;
  double above_mass, above_count;
  alignas(16) float values[1];  // as many as a block's share
};

struct Params {
  const float* logits;
  const SampleRequest* requests;
  int32_t *ids, *stopped;
  int64_t stride;
  int vocab, share;
};

__device__ uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// engine/sampler.h's uniform_at.
__device__ double uniform_of(uint64_t seed, uint64_t position) {
  return static_cast<double>(mix(mix(seed) ^ position) >> 11) * 0x1p-53;
}

// engine/sampler.cc's exp_of_minus and weight_of, every rounding of them.
__device__ float exp_of_minus(float x) {
  constexpr float kRound = 12582912.0f;
  float whole = __fsub_rn(__fadd_rn(__fmul_rn(x, -1.44269504f), kRound), kRound);
  float rest = __fadd_rn(__fsub_rn(-x, __fmul_rn(whole, 0.693359375f)), __fmul_rn(whole, 2.12194440e-4f));
  float series = __fadd_rn(__fmul_rn(1.0f / 720, rest), 1.0f / 120);
  series = __fadd_rn(__fmul_rn(series, rest), 1.0f / 24);
  series = __fadd_rn(__fmul_rn(series, rest), 1.0f / 6);
  series = __fadd_rn(__fmul_rn(series, rest), 0.5f);
  series = __fadd_rn(__fmul_rn(series, rest), 1.0f);
  series = __fadd_rn(__fmul_rn(series, rest), 1.0f);
  return __fmul_rn(series, __int_as_float((static_cast<int>(whole) + 127) << 23));
}

__device__ float weight_of(float x) {
  constexpr float kLowest = 87.0f;
  int size = __float_as_int(x) & 0x7fffffff;
  return __fsub_rn(exp_of_minus(__int_as_float(min(size, __float_as_int(kLowest)))), exp_of_minus(kLowest));
}

// Greater for greater values, and for lower ids among equals; 0 for NaN.
__device__ unsigned long long key_of(float value, int id) {
  if (isnan(value)) return 0;
  uint32_t u = __float_as_uint(value + 0.0f);  // -0 is 0
  u = (u & 0x80000000u) ? ~u : u | 0x80000000u;
  return static_cast<unsigned long long>(u) << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}
__device__ float value_of_key(unsigned long long key) {
  auto u = static_cast<uint32_t>(key >> 32);
  return __uint_as_float((u & 0x80000000u) ? u & 0x7fffffffu : ~u);
}

__device__ double2 plus(double2 a, double2 b) { return {a.x + b.x, a.y + b.y}; }
__device__ double2 from_below(double2 x, int distance, int lane) {
  double2 other = {__shfl_up_sync(~0u, x.x, distance), __shfl_up_sync(~0u, x.y, distance)};
  return lane >= distance ? other : double2{0, 0};
}

// Sums over the threads of the block in their order, up to and without this one, and of all. Two barriers.
struct Sums {
  double2 before, all;
};
__device__ Sums scan(Space& space, double2 mine) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  double2 upto = mine;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) upto = plus(from_below(upto, distance, lane), upto);
  __syncthreads();
  if (lane == 31) space.warp_sums[warp] = upto;
  __syncthreads();
  double2 warps = lane < kWarps ? space.warp_sums[lane] : double2{0, 0};
#pragma unroll
  for (int distance = 1; distance < kWarps; distance *= 2)
    warps = plus(from_below(warps, distance, lane), warps);
  double2 earlier = {__shfl_sync(~0u, warps.x, max(warp - 1, 0)),
                     __shfl_sync(~0u, warps.y, max(warp - 1, 0))};
  double2 below = from_below(upto, 1, lane);
  Sums sums;
  sums.before = warp == 0 ? below : plus(earlier, below);
  sums.all = {__shfl_sync(~0u, warps.x, kWarps - 1), __shfl_sync(~0u, warps.y, kWarps - 1)};
  return sums;
}

__device__ void cluster_sync() {
  ptx::cluster_arrive();
  ptx::cluster_wait();
}

// One thread's value to all blocks, at [rank] of an array.
template <class T>
__device__ void tell_all(T* array, uint32_t rank, T value) {
  for (uint32_t to = 0; to < kBlocks; ++to) ptx::store_remote(ptx::shared_address(&array[rank]), to, value);
}

// The block's part of a row.
struct Part {
  int first, count;  // tokens
  int chunk;         // values that one thread goes through in order: odd, so that a warp's share no bank
  __device__ int begin() const { return min(count, static_cast<int>(threadIdx.x) * chunk); }
  __device__ int end() const { return min(count, static_cast<int>(threadIdx.x + 1) * chunk); }
};

__device__ void load(Space& space, const Params& p, const SampleRequest& r, const Part& part,
                     const float* row) {
  for (int i = threadIdx.x; i < part.count; i += kThreads) space.values[i] = row[part.first + i];
  if (r.bias_count > 0) {
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int j = 0; j < r.bias_count; ++j) {
        int i = r.bias_ids[j] - part.first;
        if (i >= 0 && i < part.count) space.values[i] = __fadd_rn(space.values[i], r.bias[j]);
      }
    }
    __syncthreads();
  }
}

// Applies the mask and finds the best token of the whole row.
__device__ unsigned long long best(Space& space, const SampleRequest& r, const Part& part, uint32_t rank) {
  unsigned long long key = 0;
  for (int i = threadIdx.x; i < part.count; i += kThreads) {
    int id = part.first + i;
    float value = space.values[i];
    if (r.mask && !(r.mask[id / 32] >> (id % 32) & 1)) {
      value = __int_as_float(0xff800000);
      space.values[i] = value;
    }
    key = max(key, key_of(value, id));
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) key = max(key, __shfl_xor_sync(~0u, key, distance));
  if (threadIdx.x % 32 == 0) space.warp_keys[threadIdx.x / 32] = key;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < kWarps; ++w) key = max(key, space.warp_keys[w]);
    tell_all(space.keys, rank, key);
  }
  cluster_sync();
  key = 0;
  for (int b = 0; b < kBlocks; ++b) key = max(key, space.keys[b]);
  return key;
}

__device__ void answer(const Params& p, const SampleRequest& r, int row, int id) {
  int32_t stopped = 0;
  for (int i = 0; i < r.stop_count; ++i) stopped |= r.stops[i] == id;
  p.ids[row] = id;
  p.stopped[row] = stopped;
}

__device__ int best_id(unsigned long long key) {
  return key == 0 ? 0 : static_cast<int>(0xffffffffu - static_cast<uint32_t>(key));
}

// Draws among the weights of at least `least`, by id. True where this thread holds the drawn token.
__device__ bool draw_by_id(Space& space, const Part& part, uint32_t rank, float least, double uniform,
                           double& total, int& id) {
  double sum = 0;
  for (int i = part.begin(); i < part.end(); ++i) sum += space.values[i] >= least ? space.values[i] : 0.0f;
  Sums sums = scan(space, {sum, 0});
  if (threadIdx.x == 0) tell_all(space.masses, rank, sums.all.x);
  cluster_sync();
  total = 0;
  for (int b = 0; b < kBlocks; ++b) total += space.masses[b];
  double point = uniform * total;
  uint32_t owner = 0, filled = 0;
  double before = 0;
  bool found = false;
  for (uint32_t b = 0; b < kBlocks; ++b) {
    if (space.masses[b] > 0) filled = b;
    if (!found && point < before + space.masses[b]) owner = b, found = true;
    if (!found) before += space.masses[b];
  }
  if (!found) owner = filled;
  // The first thread of the owner that reaches the point; rounding may leave it to the last one that has any
  // weight.
  if (threadIdx.x == 0) space.first_reached = kThreads, space.last_filled = -1;
  __syncthreads();
  if (sum > 0) {
    atomicMax(&space.last_filled, static_cast<int>(threadIdx.x));
    if (point < before + (sums.before.x + sum))
      atomicMin(&space.first_reached, static_cast<int>(threadIdx.x));
  }
  __syncthreads();
  int mine = space.first_reached < kThreads ? space.first_reached : space.last_filled;
  if (rank != owner || static_cast<int>(threadIdx.x) != mine) return false;
  double left = point - (before + sums.before.x);
  for (int i = part.begin(); i < part.end(); ++i) {
    if (!(space.values[i] >= least) || space.values[i] == 0) continue;
    id = part.first + i;
    left -= space.values[i];
    if (left < 0) break;
  }
  return true;
}

// Counts and sums of the digit that starts at bit `shift`, over weights whose bits above it are those of
// `prefix`, of the whole row: into space.all.
__device__ void fill_bins(Space& space, const Part& part, uint32_t rank, int shift, uint32_t prefix) {
  auto* mine = reinterpret_cast<uint32_t*>(&space.mine);
  int words = kBins * (1 + shift / kDigit);
  for (int i = threadIdx.x; i < words; i += kThreads) mine[i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < part.count; i += kThreads) {
    uint32_t bits = __float_as_uint(space.values[i]);
    if (bits == 0 || bits >> (shift + kDigit) != prefix >> (shift + kDigit)) continue;
    uint32_t bin = bits >> shift & (kBins - 1);
    atomicAdd(&space.mine.count[bin], 1u);
    if (shift > 0) atomicAdd(&space.mine.low[bin], bits & (kBins - 1));
    if (shift > kDigit) atomicAdd(&space.mine.middle[bin], bits >> kDigit & (kBins - 1));
  }
  cluster_sync();
  int share = words / kBlocks;
  if (static_cast<int>(threadIdx.x) < share) {
    int at = static_cast<int>(rank) * share + static_cast<int>(threadIdx.x);
    uint32_t from = ptx::shared_address(&mine[at]),
             to = ptx::shared_address(reinterpret_cast<uint32_t*>(&space.all) + at), sum = 0;
#pragma unroll
    for (uint32_t b = 0; b < kBlocks; ++b) sum += ptx::load_remote(from, b);
#pragma unroll
    for (uint32_t b = 0; b < kBlocks; ++b) ptx::store_remote(to, b, sum);
  }
  cluster_sync();
}

// Sum of the weights in a bin: each is that of `bits` plus whole units of its last place.
__device__ double mass_of(const Bins& bins, int bin, uint32_t bits, int shift) {
  uint32_t exponent = bits >> 23;
  double unit = exponent == 0 ? 0x1p-149 : ldexp(1.0, static_cast<int>(exponent) - 150);
  double below = shift == 0 ? 0 : static_cast<double>(bins.low[bin]);
  if (shift > kDigit) below += static_cast<double>(bins.middle[bin]) * kBins;
  return static_cast<double>(bins.count[bin]) * static_cast<double>(__uint_as_float(bits)) + unit * below;
}

enum class Reach {
  kCount,
  kMass,
  kBeyond
};  // sums that get to the target by number, by weight, or past it by weight

struct Cut {
  uint32_t bits = 0;                       // of a weight
  double above_mass = 0, above_count = 0;  // of the heavier ones
  double ties = 0;                         // tokens of exactly this weight; how many of them are kept
  __device__ double weight() const { return static_cast<double>(__uint_as_float(bits)); }
};

// The first weight, heaviest first, at which the sum reaches the target; the lightest one if rounding leaves
// none.
__device__ Cut find(Space& space, const Part& part, uint32_t rank, Reach reach, double target) {
  Cut cut;
  for (int shift = 2 * kDigit; shift >= 0; shift -= kDigit) {
    bool top = shift == 2 * kDigit;
    if (!top) fill_bins(space, part, rank, shift, cut.bits);
    const Bins& bins = top ? space.top : space.all;
    if (threadIdx.x == 0) space.first_reached = kBins, space.last_filled = -1;
    // Two bins a thread, from the heaviest.
    int bin[2];
    double count[2], mass[2];
    for (int k = 0; k < 2; ++k) {
      bin[k] = kBins - 1 - 2 * static_cast<int>(threadIdx.x) - k;
      count[k] = bins.count[bin[k]];
      mass[k] =
          count[k] > 0 ? mass_of(bins, bin[k], cut.bits | static_cast<uint32_t>(bin[k]) << shift, shift) : 0;
    }
    double2 before =
        plus(scan(space, {count[0] + count[1], mass[0] + mass[1]}).before, {cut.above_count, cut.above_mass});
    double before_count[2] = {before.x, before.x + count[0]}, before_mass[2] = {before.y, before.y + mass[0]};
    for (int k = 0; k < 2; ++k) {
      if (count[k] == 0) continue;
      int order = kBins - 1 - bin[k];
      atomicMax(&space.last_filled, order);
      double sum = reach == Reach::kCount ? before_count[k] + count[k] : before_mass[k] + mass[k];
      if (reach == Reach::kBeyond ? sum > target : sum >= target) atomicMin(&space.first_reached, order);
    }
    __syncthreads();
    int order = space.first_reached < kBins ? space.first_reached : space.last_filled;
    for (int k = 0; k < 2; ++k)
      if (kBins - 1 - bin[k] == order) space.above_count = before_count[k], space.above_mass = before_mass[k];
    __syncthreads();
    cut.above_count = space.above_count;
    cut.above_mass = space.above_mass;
    cut.bits |= static_cast<uint32_t>(kBins - 1 - order) << shift;
    cut.ties = bins.count[kBins - 1 - order];
    __syncthreads();
  }
  return cut;
}

// Sum of the weights of at least `least`, of the whole row.
__device__ double mass_from(Space& space, const Part& part, uint32_t rank, float least) {
  double sum = 0;
  for (int i = threadIdx.x; i < part.count; i += kThreads)
    sum += space.values[i] >= least ? space.values[i] : 0.0f;
  sum = scan(space, {sum, 0}).all.x;
  if (threadIdx.x == 0) tell_all(space.masses, rank, sum);
  cluster_sync();
  sum = 0;
  for (int b = 0; b < kBlocks; ++b) sum += space.masses[b];
  return sum;
}

// Token number `index`, by id, of those whose weight has these bits. True where this thread holds it.
__device__ bool find_tie(Space& space, const Part& part, uint32_t rank, uint32_t bits, double index,
                         int& id) {
  double count = 0;
  for (int i = part.begin(); i < part.end(); ++i) count += __float_as_uint(space.values[i]) == bits;
  Sums sums = scan(space, {count, 0});
  if (threadIdx.x == 0) tell_all(space.ties, rank, static_cast<uint32_t>(sums.all.x));
  cluster_sync();
  double left = index - sums.before.x;
  for (uint32_t b = 0; b < rank; ++b) left -= space.ties[b];
  if (left < 0 || left >= count) return false;
  for (int i = part.begin(); i < part.end(); ++i) {
    if (__float_as_uint(space.values[i]) != bits) continue;
    if (left == 0) id = part.first + i;
    left -= 1;
  }
  return true;
}

// top_k, top_p and min_p each keep the heaviest so many; then one draw among what is left.
__device__ bool draw_by_weight(Space& space, const Part& part, uint32_t rank, const SampleRequest& r,
                               bool by_k, double uniform, int& id) {
  fill_bins(space, part, rank, 2 * kDigit, 0);
  double sum = 0;
  for (int k = 0; k < 2; ++k) {
    int bin = 2 * static_cast<int>(threadIdx.x) + k;
    space.top.count[bin] = space.all.count[bin], space.top.low[bin] = space.all.low[bin],
    space.top.middle[bin] = space.all.middle[bin];
    if (space.all.count[bin] > 0)
      sum += mass_of(space.all, bin, static_cast<uint32_t>(bin) << (2 * kDigit), 2 * kDigit);
  }
  double total = scan(space, {sum, 0}).all.x;
  Cut kept;
  kept.ties = 1e9;  // everything
  if (by_k) {
    Cut cut = find(space, part, rank, Reach::kCount, r.top_k);
    if (cut.above_count + cut.ties >= r.top_k) {  // not if fewer tokens have any weight
      kept = cut;
      kept.ties = r.top_k - cut.above_count;
      total = kept.above_mass + kept.ties * kept.weight();
    }
  }
  if (r.top_p < 1) {
    double target = r.top_p * total;
    Cut cut = find(space, part, rank, Reach::kMass, target);
    double enough = fmin(fmax(1.0, ceil((target - cut.above_mass) / cut.weight())), cut.ties);
    if (cut.bits > kept.bits || (cut.bits == kept.bits && enough < kept.ties)) {
      kept = cut;
      kept.ties = enough;
      total = kept.above_mass + kept.ties * kept.weight();
    }
  }
  if (r.min_p > 0 && __uint_as_float(kept.bits) < r.min_p) {
    kept = Cut{__float_as_uint(r.min_p), 0, 0, 1e9};
    total = mass_from(space, part, rank, r.min_p);
  }
  double point = uniform * total;
  Cut cut = find(space, part, rank, Reach::kBeyond, point);
  double index = fmin(fmax(0.0, floor((point - cut.above_mass) / cut.weight())), cut.ties - 1);
  if (cut.bits < kept.bits) {  // rounding went past the last that is kept
    cut = kept;
    index = kept.ties - 1;
  } else if (cut.bits == kept.bits) {
    index = fmin(index, kept.ties - 1);
  }
  return find_tie(space, part, rank, cut.bits, index, id);
}

__global__ void __launch_bounds__(kThreads) sample_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(16) uint8_t raw[];
  auto& space = *reinterpret_cast<Space*>(raw);
  uint32_t rank = ptx::cluster_rank();
  int row = static_cast<int>(blockIdx.x) / kBlocks;
  ptx::let_next_start();
  ptx::wait_for_previous();
  SampleRequest r = p.requests[row];
  Part part;
  part.first = min(p.vocab, static_cast<int>(rank) * p.share);
  part.count = min(p.vocab - part.first, p.share);
  part.chunk = ((p.share + kThreads - 1) / kThreads) | 1;
  load(space, p, r, part, p.logits + row * p.stride);
  cluster_sync();  // every block has started: it may be written to
  unsigned long long key = best(space, r, part, rank);
  if (!(r.temperature > 0)) {
    if (rank == 0 && threadIdx.x == 0) answer(p, r, row, best_id(key));
    return;
  }
  float greatest = key == 0 ? __int_as_float(0xff800000) : value_of_key(key);
  for (int i = threadIdx.x; i < part.count; i += kThreads)
    space.values[i] = weight_of(__fdiv_rn(__fsub_rn(space.values[i], greatest), r.temperature));
  __syncthreads();
  double uniform = uniform_of(r.seed, static_cast<uint64_t>(r.position));
  bool by_k = r.top_k > 0 && r.top_k < p.vocab, none = isinf(greatest);  // nothing has any weight
  int id = 0;
  if (none) {
    if (rank == 0 && threadIdx.x == 0) answer(p, r, row, best_id(key));
  } else if (by_k || r.top_p < 1) {
    if (draw_by_weight(space, part, rank, r, by_k, uniform, id)) answer(p, r, row, id);
  } else {
    double total = 0;
    if (draw_by_id(space, part, rank, r.min_p, uniform, total, id)) answer(p, r, row, id);
  }
}

// Bytes of shared memory, 0 where a cluster of 16 does not fit.
int64_t space_for(int share) { return static_cast<int64_t>(sizeof(Space)) + 4 * int64_t{share}; }

}  // namespace

void sample(CudaContext& context, const SampleArgs& a) {
  int64_t n = a.logits.shape(0), vocab = a.logits.shape(1);
  KVASIR_CHECK(
      a.requests.shape(0) == n && a.ids.shape(0) == n && a.stopped.shape(0) == n && a.logits.stride(1) == 1,
      "{} rows of logits, {} requests", n, a.requests.shape(0));
  if (n == 0) return;
  Params p{a.logits.data(),
           a.requests.data(),
           a.ids.data(),
           a.stopped.data(),
           a.logits.stride(0),
           static_cast<int>(vocab),
           static_cast<int>((vocab + kBlocks - 1) / kBlocks)};
  int64_t bytes = space_for(p.share);
  KVASIR_CHECK(vocab > 0 && bytes <= 232448, "a vocabulary of {}", vocab);
  static const cudaError_t allowed =
      cudaFuncSetAttribute(sample_kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  check_launch(allowed, "clusters of the sampler");
  cudaFuncSetAttribute(sample_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {kBlocks, 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(kBlocks * n));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(bytes);
  config.stream = context.stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  cudaError_t error = cudaLaunchKernelEx(&config, sample_kernel, p);
  check_launch(error, "sampling");
}

}  // namespace kvasir::cuda
