// Times attention on the device at the shapes of Flash and Pro: graph replay, medians, query sets rotated.
// Prints a table; JSON goes to the file named on the command line.
//
//   attention_bench [json]
//
// As the peers in gpu-kernels.md section 5 were timed: queries, lists and outputs rotate, the pool of rows
// does not, so that at short contexts rows come from L2. Floor: (584 bytes a row + 4 a query and head value)
// over the copy rate measured here, or the bf16 rate of section 1, whichever is more time.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "backend/cuda/attention.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/sm90/attention_split.h"
#include "backend/cuda/sm90/attention_tiles.h"

namespace kvasir::cuda {
namespace {

constexpr double kBf16Rate = 781e12;

void must(cudaError_t e, const char* what) {
  if (e == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorString(e));
  std::exit(1);
}

__device__ uint32_t hash(uint64_t x) {
  x = (x ^ (x >> 31)) * 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9ull;
  return static_cast<uint32_t>(x >> 32);
}

// Rows of plausible bytes: e4m3 of either sign below 4, scales around 2^-2, bf16 around 1. Row r is row r %
// per_page of page r / per_page.
__global__ void fill_rows(std::byte* data, std::byte* scale, int per_page, int64_t page_bytes) {
  int64_t r = blockIdx.x;
  data += r / per_page * (page_bytes - per_page * 576), scale += r / per_page * (page_bytes - per_page * 8);
  for (int i = threadIdx.x; i < 576; i += blockDim.x) {
    uint32_t h = hash(r * 1024 + i);
    uint32_t byte = i < 448 ? (h & 0x80) | (h >> 8) % 0x50 : i % 2 == 0 ? h & 0xff : (h & 0x80) | 0x3f;
    data[r * 576 + i] = static_cast<std::byte>(byte);
  }
  if (threadIdx.x < 8)
    scale[r * 8 + threadIdx.x] =
        static_cast<std::byte>(threadIdx.x < 7 ? 123 + hash(r * 7 + threadIdx.x) % 4 : 0);
}
__global__ void fill_floats(float* x, int64_t n, float scale, uint64_t seed) {
  int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i < n) x[i] = scale * (static_cast<float>(hash(seed + i)) / 2147483648.f - 1);
}
// Ascending, one entry out of each stretch of visible / topk.
__global__ void fill_lists(int32_t* lists, const int32_t* positions, int topk, uint64_t seed) {
  int64_t row = blockIdx.x;
  int64_t visible = (positions[row] + 1) / 4;
  for (int i = threadIdx.x; i < topk; i += blockDim.x) {
    int64_t low = visible * i / topk, high = visible * (i + 1) / topk;
    lists[row * topk + i] = visible <= topk
                                ? (i < visible ? i : -1)
                                : static_cast<int32_t>(low + hash(seed + row * topk + i) % (high - low));
  }
}

struct Case {
  const char* name;
  int heads;
  EntryChoice choice;
  int batch, tokens;  // sequences, tokens of each
  int64_t context;    // start + tokens
  int topk;
  double peer_us;
};

constexpr Case kDecode[] = {
    {"Flash window b=1", 64, EntryChoice::kNone, 1, 1, 8192, 512, 10.18},
    {"Flash CSA 8K b=1", 64, EntryChoice::kSelected, 1, 1, 8192, 512, 11.70},
    {"Flash CSA 128K b=1", 64, EntryChoice::kSelected, 1, 1, 131072, 512, 11.78},
    {"Flash CSA 1M b=1", 64, EntryChoice::kSelected, 1, 1, 1048576, 512, 13.23},
    {"Flash HCA 128K b=1", 64, EntryChoice::kAll, 1, 1, 131072, 512, 13.70},
    {"Flash HCA 1M b=1", 64, EntryChoice::kAll, 1, 1, 1048576, 512, 27.06},
    {"Pro CSA 128K b=1", 128, EntryChoice::kSelected, 1, 1, 131072, 1024, 13.75},
    {"Flash CSA 128K b=8", 64, EntryChoice::kSelected, 8, 1, 131072, 512, 14.96},
    {"Pro CSA 128K b=8", 128, EntryChoice::kSelected, 8, 1, 131072, 1024, 19.86},
    {"Flash HCA 1M b=8", 64, EntryChoice::kAll, 8, 1, 1048576, 512, 48.71},
    {"Pro HCA 1M b=8", 128, EntryChoice::kAll, 8, 1, 1048576, 1024, 62.31},
    {"Flash CSA 128K b=64", 64, EntryChoice::kSelected, 64, 1, 131072, 512, 44.49},
    {"Flash HCA 128K b=64", 64, EntryChoice::kAll, 64, 1, 131072, 512, 59.89},
    {"Pro CSA 128K b=64", 128, EntryChoice::kSelected, 64, 1, 131072, 1024, 53.89},
    {"Flash CSA 128K b=128", 64, EntryChoice::kSelected, 128, 1, 131072, 512, 47.25},
    {"Flash CSA 128K b=64 x2", 64, EntryChoice::kSelected, 64, 2, 131072, 512, 45.32},
};
constexpr Case kPrefill[] = {
    {"Flash CSA prefill 128K", 64, EntryChoice::kSelected, 1, 4096, 131072, 512, 697},
    {"Flash CSA prefill 1M", 64, EntryChoice::kSelected, 1, 4096, 1048576, 512, 802},
    {"Flash HCA prefill 128K", 64, EntryChoice::kAll, 1, 4096, 131072, 512, 1014},
    {"Pro CSA prefill 128K", 128, EntryChoice::kSelected, 1, 4096, 131072, 1024, 2126},
    {"Flash window prefill", 64, EntryChoice::kNone, 1, 4096, 131072, 512, 0},
};

template <class T>
T* device(size_t count) {
  void* p = nullptr;
  must(cudaMalloc(&p, std::max<size_t>(count * sizeof(T), 256)), "cudaMalloc");
  return static_cast<T*>(p);
}

// One case's memory: a pool of rows, and `sets` of queries, lists and outputs.
struct Setup {
  explicit Setup(const Case& shape)
      : c(shape), rows(int64_t{c.batch} * c.tokens), ratio(c.choice == EntryChoice::kAll ? 128 : 4) {
    format = KvRowFormat::entry(Numerics::kFast, 512, 64);
    int64_t set_bytes = rows * c.heads * 512 * 8;
    sets = static_cast<int>(std::clamp<int64_t>((int64_t{160} << 20) / set_bytes, 2, 20));
    int per_page = 128 / ratio;
    int64_t entries = c.choice == EntryChoice::kNone ? 0 : c.context / ratio,
            pages_each = (entries + per_page - 1) / per_page;
    int64_t page_bytes = int64_t{per_page} * 584 + (per_page == 1 ? 56 : 0);
    place.ratio = ratio;
    place.window_capacity = 132;
    place.window_scale = 132 * 576;
    place.entries.rows_per_page = per_page;
    place.entries.scale_offset = int64_t{per_page} * 576;
    state = take<std::byte>(static_cast<size_t>(c.batch) * kState);
    pool = take<std::byte>(static_cast<size_t>(std::max<int64_t>(1, pages_each * c.batch * page_bytes)));
    rows_data = take<std::byte>(static_cast<size_t>(rows) * 576),
    rows_scale = take<std::byte>(static_cast<size_t>(rows) * 8);
    fill_rows<<<static_cast<unsigned>(rows), 192>>>(rows_data, rows_scale, 1 << 30, 0);
    for (int b = 0; b < c.batch; ++b)
      fill_rows<<<132, 192>>>(state + b * kState, state + b * kState + 132 * 576, 1 << 30, 0);
    std::vector<std::byte*> table;
    for (int64_t p = 0; p < pages_each * c.batch; ++p) table.push_back(pool + p * page_bytes);
    // Pages of a sequence are scattered over the pool.
    for (size_t i = table.size(); i > 1; --i) std::swap(table[i - 1], table[(i * 7919 * 104729) % i]);
    if (!table.empty()) {
      auto all = static_cast<unsigned>(static_cast<int64_t>(table.size()) * per_page);
      fill_rows<<<all, 192>>>(pool, pool + place.entries.scale_offset, per_page, page_bytes);
    }
    d_table = put(table);
    std::vector<CacheSequence> sequences;
    std::vector<int32_t> numbers, positions;
    for (int b = 0; b < c.batch; ++b) {
      sequences.push_back({{b * int64_t{c.tokens}, c.tokens, c.context - c.tokens},
                           state + b * kState,
                           d_table + b * pages_each,
                           nullptr});
      for (int i = 0; i < c.tokens; ++i)
        numbers.push_back(b), positions.push_back(static_cast<int32_t>(c.context - c.tokens + i));
    }
    d_sequences = put(sequences), d_numbers = put(numbers), d_positions = put(positions);
    auto values = static_cast<size_t>(rows * c.heads * 512);
    sink = take<float>(static_cast<size_t>(c.heads)),
    table_rope = take<float>(static_cast<size_t>(rows) * 64);
    fill_floats<<<1, 128>>>(sink, c.heads, 1, 1);
    fill_floats<<<static_cast<unsigned>(rows), 64>>>(table_rope, rows * 64, 1, 2);
    for (int i = 0; i < sets; ++i) {
      q.push_back(take<float>(values)), out.push_back(take<float>(values));
      fill_floats<<<static_cast<unsigned>((values + 255) / 256), 256>>>(
          q.back(), static_cast<int64_t>(values), 1.7f, 1000 + i * values);
      lists.push_back(c.choice == EntryChoice::kSelected ? take<int32_t>(static_cast<size_t>(rows) * c.topk)
                                                         : nullptr);
      if (lists.back())
        fill_lists<<<static_cast<unsigned>(rows), 128>>>(lists.back(), d_positions, c.topk,
                                                         i * uint64_t{1} << 40);
    }
    must(cudaDeviceSynchronize(), "setup");
  }
  ~Setup() {
    for (void* p : owned) cudaFree(p);
  }
  AttendArgs args(int set) const {
    AttendArgs a;
    a.q = {q[set], {rows, c.heads, 512}};
    a.sink = {sink, {c.heads}};
    a.batch = {{d_sequences, {c.batch}}, {d_numbers, {rows}}, c.tokens, c.context};
    a.place = place;
    a.format = format;
    a.rows = {rows_data, rows_scale};
    a.choice = c.choice;
    if (lists[set]) a.selected = {lists[set], {rows, c.topk}};
    a.out = {out[set], {rows, c.heads, 512}};
    return a;
  }
  // Keys over all rows.
  double keys() const {
    double n = 0;
    for (int i = 0; i < c.tokens; ++i) {
      int64_t visible = c.choice == EntryChoice::kNone ? 0 : (c.context - c.tokens + i + 1) / ratio;
      n += 128 + static_cast<double>(c.choice == EntryChoice::kSelected ? std::min<int64_t>(visible, c.topk)
                                                                        : visible);
    }
    return n * c.batch;
  }

  static constexpr int64_t kState = 132 * 584 + 256 - 132 * 584 % 256;
  template <class T>
  T* take(size_t n) {
    T* p = device<T>(n);
    owned.push_back(p);
    return p;
  }
  template <class T>
  T* put(const std::vector<T>& v) {
    T* p = take<T>(v.size());
    must(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice), "copy");
    return p;
  }
  Case c;
  int64_t rows;
  int ratio, sets = 0;
  KvRowFormat format;
  LayerPlace place;
  std::byte *state = nullptr, *pool = nullptr, *rows_data = nullptr, *rows_scale = nullptr,
            **d_table = nullptr;
  CacheSequence* d_sequences = nullptr;
  int32_t *d_numbers = nullptr, *d_positions = nullptr;
  float *sink = nullptr, *table_rope = nullptr;
  std::vector<float*> q, out;
  std::vector<int32_t*> lists;
  std::vector<void*> owned;
};

// Microseconds a call: a graph of calls over all sets, median of replays.
double time_graph(cudaStream_t stream, int calls, int replays, const std::function<void(int)>& call) {
  call(0);
  must(cudaStreamSynchronize(stream), "first call");
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < calls; ++i) call(i);
  must(cudaStreamEndCapture(stream, &graph), "end of capture");
  must(cudaGraphInstantiate(&exec, graph, 0), "graph");
  cudaEvent_t begin, end;
  cudaEventCreate(&begin), cudaEventCreate(&end);
  std::vector<float> times;
  for (int i = 0; i < replays + 2; ++i) {
    cudaEventRecord(begin, stream);
    cudaGraphLaunch(exec, stream);
    cudaEventRecord(end, stream);
    must(cudaEventSynchronize(end), "replay");
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (i >= 2) times.push_back(ms);
  }
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2] * 1000. / calls;
}

__global__ void copy_all(uint4* to, const uint4* from) {
  int64_t i = (int64_t{blockIdx.x} * 4) * blockDim.x + threadIdx.x;
  uint4 v[4];
  for (int k = 0; k < 4; ++k) v[k] = from[i + k * blockDim.x];
  for (int k = 0; k < 4; ++k) to[i + k * blockDim.x] = v[k];
}

double copy_rate(cudaStream_t stream) {
  size_t bytes = size_t{1} << 30;
  auto *a = device<std::byte>(bytes), *b = device<std::byte>(bytes);
  cudaMemset(a, 1, bytes);
  double us = time_graph(stream, 2, 9, [&](int) {
    copy_all<<<static_cast<unsigned>(bytes / (4 * 512 * 16)), 512, 0, stream>>>(
        reinterpret_cast<uint4*>(b), reinterpret_cast<const uint4*>(a));
  });
  cudaFree(a), cudaFree(b);
  return 2. * static_cast<double>(bytes) / us * 1e6;
}

}  // namespace

int run(const char* json_path) {
  cudaStream_t stream;
  must(cudaStreamCreate(&stream), "stream");
  auto memory = CudaMemory::make(stream);
  if (!memory) return 1;
  Scratch scratch(**memory);
  CudaContext context{.stream = stream, .numerics = Numerics::kFast, .sm_count = 132, .scratch = scratch};
  double copy = copy_rate(stream);
  std::string json = "{\"copy_gbps\": " + std::to_string(copy / 1e9) + ", \"cases\": [";
  std::printf("copy %.0f GB/s\n%-26s %-10s %9s %8s %8s %8s %7s %7s\n", copy / 1e9, "case", "variant", "us",
              "TFLOP/s", "GB/s", "floor us", "ratio", "x peer");
  bool first = true;
  auto report = [&](const Setup& s, const char* variant, double us) {
    double flop = 4 * s.c.heads * 512. * s.keys(),
           bytes = 584 * s.keys() + 4. * static_cast<double>(s.rows) * 512 * s.c.heads;
    if (s.c.tokens > 64) bytes = 4. * static_cast<double>(s.rows) * 512 * s.c.heads;  // rows are shared
    double floor = std::max(flop / kBf16Rate, bytes / copy) * 1e6;
    std::printf("%-26s %-10s %9.2f %8.1f %8.0f %8.2f %7.2f %7.2f\n", s.c.name, variant, us, flop / us / 1e6,
                bytes / us / 1e3, floor, floor / us, s.c.peer_us / us);
    std::fflush(stdout);
    json += std::string(first ? "" : ", ") + "{\"case\": \"" + s.c.name + "\", \"variant\": \"" + variant +
            "\", \"us\": " + std::to_string(us) + ", \"floor_us\": " + std::to_string(floor) +
            ", \"peer_us\": " + std::to_string(s.c.peer_us) + "}";
    first = false;
  };
  auto measure = [&](const Case& c) {
    Setup s(c);
    int calls = c.tokens > 64 ? 2 : 20, replays = c.tokens > 64 ? 9 : 31;
    report(s, "attend",
           time_graph(stream, calls, replays, [&](int i) { attend(context, s.args(i % s.sets)); }));
    AttendHeadsArgs heads{s.args(0), {s.table_rope, {s.rows, 32, 2}}, 1e-6f};
    report(s, "heads", time_graph(stream, calls, replays, [&](int i) {
             heads.attend = s.args(i % s.sets);
             attend_heads(context, heads);
           }));
    if (c.tokens > 64) return;
    if (c.batch <= 8) {
      for (int ranks : {4, 8}) {
        for (bool wide : {false, true}) {
          std::string name = std::string(wide ? "wide/" : "split/") + std::to_string(ranks);
          report(s, name.c_str(), time_graph(stream, calls, replays, [&](int i) {
                   sm90::attend_split(context, s.args(i % s.sets), nullptr, wide, ranks);
                 }));
        }
      }
    }
    for (int ranks : {1, 2, 4, 8, 16}) {
      int blocks = static_cast<int>(s.rows) * ranks * c.heads / 64;
      if (blocks > 264 || (blocks < 64 && ranks < 8)) continue;
      std::string name = "tiles/" + std::to_string(ranks);
      report(s, name.c_str(), time_graph(stream, calls, replays, [&](int i) {
               sm90::attend_tiles(context, s.args(i % s.sets), nullptr, ranks);
             }));
    }
  };
  for (const Case& c : kDecode) measure(c);
  for (const Case& c : kPrefill) measure(c);
  json += "]}\n";
  if (json_path) {
    if (FILE* f = std::fopen(json_path, "w")) std::fputs(json.c_str(), f), std::fclose(f);
  }
  return 0;
}

}  // namespace kvasir::cuda

int main(int argc, char** argv) { return kvasir::cuda::run(argc > 1 ? argv[1] : nullptr); }
