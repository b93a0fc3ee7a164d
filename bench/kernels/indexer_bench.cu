// Times the indexer and the compressor of the CUDA backend at the shapes of V4-Flash and V4-Pro.
//
// Every case replays a graph of calls that go round the layers of a page, so that keys come from memory, as
// in a model, and takes the median. Beside each time stands its floor: bytes over the copy rate measured in
// the same run, or operations over the FP8 rate of the design document. Prints a table last and writes
// $OUT/indexer_bench.json.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/cuda/compressor.h"
#include "backend/cuda/indexer.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/sm90/indexer_scan.h"

namespace kvasir::cuda {
namespace {

constexpr double kFp8Rate = 1398e12;

void ok(cudaError_t e, const char* what) {
  if (e == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(e));
  std::exit(1);
}

__device__ uint32_t hash(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return static_cast<uint32_t>(x >> 32);
}
__global__ void fill_bytes(uint4* p, int64_t n) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * blockDim.x)
    p[i] = {hash(4 * i), hash(4 * i + 1), hash(4 * i + 2), hash(4 * i + 3)};
}
__global__ void copy_bytes(uint4* to, const uint4* from) {
  int64_t first = int64_t{blockIdx.x} * 1024 + threadIdx.x;
  uint4 v[4];
  for (int i = 0; i < 4; ++i) v[i] = from[first + 256 * i];
  for (int i = 0; i < 4; ++i) to[first + 256 * i] = v[i];
}
__global__ void fill_scales(std::byte* pages, int64_t page_bytes, int64_t num_pages, int64_t offset,
                            int64_t stride, int layers, int bytes) {
  for (int64_t p = blockIdx.x; p < num_pages; p += gridDim.x)
    for (int l = 0; l < layers; ++l)
      for (int i = threadIdx.x; i < bytes; i += blockDim.x)
        pages[p * page_bytes + offset + l * stride + i] =
            static_cast<std::byte>(120 + (hash(p * 977 + l * 131 + i) & 3));
}
__global__ void fill_normal(float* p, int64_t n, float deviation, uint64_t seed) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * blockDim.x) {
    float sum = 0;
    for (int j = 0; j < 12; ++j) sum += hash(seed + 12 * i + j) * 0x1p-32f;
    p[i] = (sum - 6) * deviation;
  }
}

template <class T>
T* device_array(int64_t n) {
  void* p = nullptr;
  ok(cudaMalloc(&p, std::max<int64_t>(1, n) * sizeof(T)), "cudaMalloc");
  return static_cast<T*>(p);
}
float* normals(int64_t n, float deviation, uint64_t seed) {
  float* p = device_array<float>(n);
  fill_normal<<<1024, 256>>>(p, n, deviation, seed);
  return p;
}

struct Row {
  std::string name;
  double us, bytes, flop, floor_us;
};
std::vector<Row> rows;
double copy_rate = 4248e9;
cudaStream_t stream;
std::unique_ptr<CudaMemory> memory;
std::unique_ptr<Scratch> scratch;
std::unique_ptr<CudaContext> context;

// Median time of one of `calls` calls recorded in a graph.
double time_us(int calls, const std::function<void(int)>& call) {
  call(0);
  ok(cudaStreamSynchronize(stream), "warm-up");
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin capture");
  for (int i = 0; i < calls; ++i) call(i);
  ok(cudaStreamEndCapture(stream, &graph), "end capture");
  ok(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  std::vector<float> times;
  for (int i = 0; i < 12; ++i) {
    cudaEventRecord(begin, stream);
    ok(cudaGraphLaunch(exec, stream), "launch");
    cudaEventRecord(end, stream);
    ok(cudaEventSynchronize(end), "replay");
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (i >= 2) times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return times[times.size() / 2] * 1e3 / calls;
}

void report(const std::string& name, double us, double bytes, double flop) {
  double floor = std::max(bytes / copy_rate, flop / kFp8Rate) * 1e6;
  rows.push_back({name, us, bytes, flop, floor});
  std::fprintf(stderr, "%-44s %9.2f us\n", name.c_str(), us);
}

// Sequences of one length whose pages hold `layers` layers, as KvLayout lays a CSA layer: 32 entries of 584
// bytes (left out of compact pages), then 32 keys.
struct Cache {
  int64_t batch, page_bytes, state_bytes, pages_each, layer_bytes;
  int layers;
  std::byte *pages, *states;
  CacheSequence* sequences;
  int32_t* row_sequence;
  CacheBatch view;

  Cache(int64_t b, int64_t entries, int64_t tokens, int num_layers, bool compact, int64_t start_offset = 0)
      : batch(b), layers(num_layers) {
    layer_bytes = (compact ? 0 : 32 * 584) + 32 * 68;
    page_bytes = layers * layer_bytes;
    pages_each = (entries + 31) / 32 + 1;
    state_bytes = 4 << 20;
    pages = device_array<std::byte>(batch * pages_each * page_bytes);
    states = device_array<std::byte>(batch * state_bytes);
    fill_bytes<<<4096, 256>>>(reinterpret_cast<uint4*>(pages), batch * pages_each * page_bytes / 16);
    fill_scales<<<4096, 128>>>(pages, page_bytes, batch * pages_each, key_offset() + 32 * 64, layer_bytes,
                               layers, 32 * 4);
    fill_normal<<<1024, 256>>>(reinterpret_cast<float*>(states), batch * state_bytes / 4, 1.f, 3);
    std::vector<std::byte*> pointers;
    for (int64_t i = 0; i < batch * pages_each; ++i)
      pointers.push_back(pages + (i * 7919 + 13) % (batch * pages_each) * page_bytes);
    auto* table = device_array<std::byte*>(batch * pages_each);
    cudaMemcpy(table, pointers.data(), pointers.size() * 8, cudaMemcpyHostToDevice);
    std::vector<CacheSequence> s;
    std::vector<int32_t> r;
    for (int64_t i = 0; i < batch; ++i) {
      std::byte** p = table + i * pages_each;
      s.push_back(
          {{i * tokens, tokens, 4 * entries - tokens + start_offset}, states + i * state_bytes, p, p});
      r.insert(r.end(), tokens, static_cast<int32_t>(i));
    }
    sequences = device_array<CacheSequence>(batch);
    row_sequence = device_array<int32_t>(r.size());
    cudaMemcpy(sequences, s.data(), s.size() * sizeof(s[0]), cudaMemcpyHostToDevice);
    cudaMemcpy(row_sequence, r.data(), r.size() * 4, cudaMemcpyHostToDevice);
    view.sequences = {sequences, {batch}};
    view.row_sequence = {row_sequence, {static_cast<int64_t>(r.size())}};
    view.max_tokens = tokens;
    view.max_length = (4 * entries + start_offset + 127) / 128 * 128;
  }
  ~Cache() {
    cudaFree(pages);
    cudaFree(states);
    cudaFree(sequences);
    cudaFree(row_sequence);
  }
  int64_t key_offset() const { return layer_bytes - 32 * 68; }
  LayerPlace place(int layer) const {
    LayerPlace p;
    p.ratio = 4;
    int64_t at = layer % layers * layer_bytes;
    p.entries = {at, at + 32 * 576, 32};
    p.keys = {at + key_offset(), at + key_offset() + 32 * 64, 32};
    p.tail_capacity = 16;
    p.tail = int64_t{layer % 8} << 18;
    p.index_tail = p.tail + (128 << 10);
    return p;
  }
};

void select_case(int64_t batch, int64_t entries, int64_t tokens, int topk, int layers, bool compact) {
  Cache cache(batch, entries, tokens, layers, compact);
  int64_t rows_ = batch * tokens;
  float *q = normals(rows_ * 64 * 128, 1.f, 1), *w = normals(rows_ * 64, 0.1f, 99);
  int32_t* selected = device_array<int32_t>(rows_ * topk);
  auto args = [&](int i) {
    IndexSelectArgs a;
    a.q = {q, {rows_, 64, 128}};
    a.weight = {w, {rows_, 64}};
    a.batch = cache.view;
    a.place = cache.place(i);
    a.format = KvRowFormat::index_key(Numerics::kFast, 128);
    a.selected = {selected, {rows_, topk}};
    return a;
  };
  double bytes = double(batch) * entries * 68, flop = double(rows_) * (entries - tokens / 8.) * 64 * 128 * 2;
  int calls = tokens > 256 ? 2 : std::max(2, std::min(layers * 2, 24));
  char name[128];
  std::snprintf(name, sizeof(name), "%ld x %ld keys, %ld token%s, top %d%s", batch, entries, tokens,
                tokens > 1 ? "s" : "", topk, compact ? ", compact" : "");
  if (index_scan_serves(args(0))) {
    Scratch::Scope scope(*scratch);
    IndexScores scores = take_index_scores(*context, args(0));
    report(std::string("scan   ") + name,
           time_us(calls, [&](int i) { index_scan(*context, args(i), scores); }), bytes, flop);
    report(std::string("select ") + name,
           time_us(calls, [&](int i) { index_scan_select(*context, args(i), scores); }), 0, 0);
  }
  report(std::string("both   ") + name, time_us(calls, [&](int i) { index_select(*context, args(i)); }),
         bytes, flop);
  cudaFree(q);
  cudaFree(w);
  cudaFree(selected);
}

void query_case(int64_t tokens) {
  int sets = tokens > 512 ? 4 : 16;
  float *q = normals(sets * tokens * 64 * 128, 1.f, 1), *w = normals(tokens * 64, 0.1f, 99),
        *table = normals(tokens * 64, 1.f, 5);
  double us = time_us(sets, [&](int i) {
    IndexQueryArgs a;
    a.q = {q + i * tokens * 64 * 128, {tokens, 64, 128}};
    a.table = {table, {tokens, 32, 2}};
    a.weight = {w, {tokens, 64}};
    a.weight_scale = 1;
    index_query(*context, a);
  });
  report("index_query, " + std::to_string(tokens) + " tokens", us, double(tokens) * 64 * 128 * 8, 0);
  cudaFree(q);
  cudaFree(w);
  cudaFree(table);
}

void compress_case(const char* what, CompressKind kind, int ratio, int64_t batch, int64_t tokens,
                   bool closes) {
  int dim = kind == CompressKind::kEntry ? 512 : 128, lanes = ratio == 4 ? 2 : 1;
  int64_t width = lanes * dim, n = batch * tokens;
  // The last token of a group when it closes, the one before otherwise.
  Cache cache(batch, 2048 + (tokens + 127) / 128 * 32, tokens, 1, false, closes ? 0 : -1);
  int sets = n > 4096 ? 2 : 4;
  float *kv = normals(sets * n * width, 1.f, 1), *score = normals(sets * n * width, 1.f, 2),
        *ape = normals(ratio * width, 1.f, 3);
  float *norm = normals(dim, 1.f, 4), *inv = normals(32, 0.1f, 5);
  auto place = cache.place(0);
  if (ratio == 128) {
    place.ratio = 128;
    place.entries = {0, 576, 1};
    place.tail_capacity = 136;
  }
  double us = time_us(8, [&](int i) {
    CompressArgs a;
    a.kind = kind;
    a.lanes = lanes;
    a.kv = {kv + i % sets * n * width, {n, width}};
    a.score = {score + i % sets * n * width, {n, width}};
    a.ape = {ape, {ratio, width}};
    a.norm = {norm, {dim}};
    a.inv_freq = {inv, {32}};
    a.batch = cache.view;
    a.place = place;
    a.format = kind == CompressKind::kEntry ? KvRowFormat::entry(Numerics::kFast, 512, 64)
                                            : KvRowFormat::index_key(Numerics::kFast, 128);
    compress(*context, a);
  });
  double groups = tokens == 1 ? (closes ? 1 : 0) : double(tokens) / ratio;
  double bytes = tokens == 1 ? batch * (groups * (lanes * ratio * dim * 8 + 600) + width * 24.)
                             : n * width * 8. + groups * batch * 600;
  report(std::string(what) + (tokens == 1 ? (closes ? ", a group closes" : ", no group closes") : "") + ", " +
             std::to_string(batch) + " x " + std::to_string(tokens) + " tokens",
         us, bytes, 0);
  for (float* p : {kv, score, ape, norm, inv}) cudaFree(p);
}

void measure_copy() {
  int64_t bytes = int64_t{2} << 30;
  auto *from = device_array<std::byte>(bytes), *to = device_array<std::byte>(bytes);
  fill_bytes<<<4096, 256>>>(reinterpret_cast<uint4*>(from), bytes / 16);
  double us = time_us(4, [&](int) {
    copy_bytes<<<static_cast<unsigned>(bytes >> 14), 256, 0, stream>>>(reinterpret_cast<uint4*>(to),
                                                                       reinterpret_cast<uint4*>(from));
  });
  copy_rate = 2. * bytes / us * 1e6;
  cudaFree(from);
  cudaFree(to);
}

void run(const std::string& which) {
  auto on = [&](const char* name) { return which.empty() || which.find(name) != std::string::npos; };
  measure_copy();
  if (on("select")) {
    select_case(1, 2048, 1, 512, 21, false);
    select_case(1, 32768, 1, 512, 21, false);
    select_case(1, 262144, 1, 512, 21, false);
    select_case(1, 262144, 1, 1024, 21, false);
    select_case(1, 262144, 4, 512, 21, false);
    select_case(8, 32768, 1, 512, 21, false);
    select_case(64, 2048, 1, 512, 21, false);
    select_case(64, 32768, 1, 512, 21, false);
    select_case(8, 262144, 1, 512, 6, true);
    select_case(64, 262144, 1, 512, 2, true);
  }
  if (on("stream")) {
    select_case(1, 2048, 4096, 512, 21, false);
    select_case(1, 32768, 512, 512, 3, false);
    select_case(1, 32768, 4096, 512, 3, false);
    select_case(1, 32768, 16384, 512, 3, false);
    select_case(1, 262144, 16384, 512, 2, true);
    select_case(1, 262144, 2048, 1024, 2, true);
  }
  if (on("query"))
    for (int64_t tokens : {1, 8, 64, 4096}) query_case(tokens);
  if (on("compress")) {
    for (int64_t b : {1, 8, 64}) {
      compress_case("CSA entry", CompressKind::kEntry, 4, b, 1, true);
      compress_case("index key", CompressKind::kIndexKey, 4, b, 1, true);
      compress_case("HCA entry", CompressKind::kEntry, 128, b, 1, true);
    }
    compress_case("CSA entry", CompressKind::kEntry, 4, 64, 1, false);
    compress_case("HCA entry", CompressKind::kEntry, 128, 64, 1, false);
    for (int64_t t : {4096, 16384}) {
      compress_case("CSA entry", CompressKind::kEntry, 4, 1, t, true);
      compress_case("index key", CompressKind::kIndexKey, 4, 1, t, true);
      compress_case("HCA entry", CompressKind::kEntry, 128, 1, t, true);
    }
  }
}

void print() {
  std::printf("copy %.0f GB/s\n%-52s %10s %8s %8s %9s %6s\n", copy_rate / 1e9, "case", "us", "GB/s",
              "TFLOP/s", "floor us", "ratio");
  for (const Row& r : rows)
    std::printf("%-52s %10.2f %8.0f %8.1f %9.2f %6.2f\n", r.name.c_str(), r.us, r.bytes / r.us / 1e3,
                r.flop / r.us / 1e6, r.floor_us, r.floor_us / r.us);
  const char* out = std::getenv("OUT");
  std::string path = std::string(out != nullptr ? out : ".") + "/indexer_bench.json";
  FILE* f = std::fopen(path.c_str(), "w");
  if (f == nullptr) return;
  std::fprintf(f, "{\"copy_gb_s\": %.1f, \"rows\": [", copy_rate / 1e9);
  for (size_t i = 0; i < rows.size(); ++i)
    std::fprintf(
        f, "%s\n  {\"case\": \"%s\", \"us\": %.3f, \"bytes\": %.0f, \"flop\": %.0f, \"floor_us\": %.3f}",
        i ? "," : "", rows[i].name.c_str(), rows[i].us, rows[i].bytes, rows[i].flop, rows[i].floor_us);
  std::fprintf(f, "\n]}\n");
  std::fclose(f);
}

}  // namespace
}  // namespace kvasir::cuda

int main(int argc, char** argv) {
  using namespace kvasir::cuda;
  ok(cudaStreamCreate(&stream), "cudaStreamCreate");
  memory = *CudaMemory::make(stream);
  scratch = std::make_unique<Scratch>(*memory);
  int sms = 0;
  cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0);
  context.reset(new CudaContext{stream, kvasir::Numerics::kFast, sms, false, *scratch});
  std::string which;
  for (int i = 1; i < argc; ++i) which += std::string(argv[i]) + " ";
  run(which);
  print();
  std::fflush(stdout);
  std::_Exit(0);
}
