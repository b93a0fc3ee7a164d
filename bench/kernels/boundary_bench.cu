// Times of the row kernels on one GPU: the hyper-connection boundary, head norms, small rows, sampling.
//
//   boundary_bench [--boundary]   (of the boundary only) prints a table, writes boundary_bench.json into $OUT
//   (or the working directory)
//
// Each case is a graph of launches over buffers that rotate past the L2 cache; the figure is the median over
// replays divided by the launches. "chained" lets a launch begin while the one before it ends (dependent
// launch), as in a step; "alone" does not. Floors: bytes read once and written once, over the copy rate
// measured in the same run.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "backend/cuda/hyper_connection.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/rope.h"
#include "backend/cuda/sampling.h"
#include "backend/cuda/sm90/boundary_cluster.h"
#include "backend/cuda/small_rows.h"

using namespace kvasir;
using namespace kvasir::cuda;

namespace {

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}
#define CHECK(call) check((call), #call)

__global__ void fill_kernel(float* to, int64_t n, uint32_t seed, float scale) {
  for (int64_t i = blockIdx.x * int64_t{256} + threadIdx.x; i < n; i += gridDim.x * int64_t{256}) {
    uint32_t x = static_cast<uint32_t>(i) * 2654435761u + seed;
    x ^= x >> 16, x *= 0x85ebca6bu, x ^= x >> 13, x *= 0xc2b2ae35u, x ^= x >> 16;
    to[i] = scale * (static_cast<float>(x) * 0x1p-31f - 1.f);
  }
}

__global__ void copy_kernel(const float4* from, float4* to, int64_t n) {
  for (int64_t i = blockIdx.x * int64_t{512} + threadIdx.x; i < n; i += gridDim.x * int64_t{512})
    to[i] = from[i];
}

struct Pool {
  float* take(int64_t n, float scale) {
    float* p = nullptr;
    CHECK(cudaMalloc(reinterpret_cast<void**>(&p), std::max<int64_t>(n, 4) * 4));
    fill_kernel<<<1024, 256>>>(p, n, ++seed, scale);
    held.push_back(p);
    return p;
  }
  ~Pool() {
    for (float* p : held) cudaFree(p);
  }
  std::vector<float*> held;
  uint32_t seed = 1;
};

struct Row {
  std::string name;
  double us, bytes, extra;
};
std::vector<Row> rows;
double copy_rate = 4248e9;

// Median time of one of `launches` calls in a graph, in us.
double time_graph(cudaStream_t stream, int launches, const std::function<void(int)>& call) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  call(0);
  CHECK(cudaStreamSynchronize(stream));
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < launches; ++i) call(i);
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t start, stop;
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&stop));
  std::vector<float> times;
  for (int i = 0; i < 23; ++i) {
    CHECK(cudaEventRecord(start, stream));
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaEventRecord(stop, stream));
    CHECK(cudaEventSynchronize(stop));
    float ms = 0;
    CHECK(cudaEventElapsedTime(&ms, start, stop));
    if (i >= 3) times.push_back(ms);
  }
  CHECK(cudaGetLastError());
  std::sort(times.begin(), times.end());
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaEventDestroy(start), cudaEventDestroy(stop);
  return 1e3 * times[times.size() / 2] / launches;
}

void report(const std::string& name, double us, double bytes, double extra = 0) {
  rows.push_back({name, us, bytes, extra});
}

struct BoundarySet {
  HcBoundaryArgs args;
};

void bench_boundary(CudaContext& context, int64_t dim, int64_t tokens) {
  Pool pool;
  double bytes_of_set = 24.0 * 4 * dim * 4 + double(tokens) * dim * 4 * 10;
  int sets = std::clamp(static_cast<int>(200e6 / bytes_of_set) + 1, 2, 96);
  std::vector<HcBoundaryArgs> args(sets);
  for (HcBoundaryArgs& a : args) {
    a.y = {pool.take(tokens * dim, 1), {tokens, dim}};
    a.w = {{pool.take(24 * 4 * dim, 0.02f), {24, 4 * dim}}, {pool.take(24, 1), {24}}, {pool.take(3, 1), {3}}};
    a.norm = {pool.take(dim, 1), {dim}};
    a.streams = {pool.take(tokens * 4 * dim, 1), {tokens, 4, dim}};
    a.x = {pool.take(tokens * dim, 1), {tokens, dim}};
    a.post = {pool.take(tokens * 4, 1), {tokens, 4}};
    a.comb = {pool.take(tokens * 16, 0.3f), {tokens, 4, 4}};
  }
  int launches = tokens > 256 ? 8 : 96;
  std::string name =
      std::string("boundary d=") + std::to_string(dim) + std::string(" T=") + std::to_string(tokens);
  // The document counts bf16 streams: 20 bytes a value of a token; here they are f32: 40.
  double bytes = 24.0 * 4 * dim * 4 + double(tokens) * dim * 40,
         bf16 = 24.0 * 4 * dim * 4 + double(tokens) * dim * 20;
  for (bool chained : {false, true}) {
    double us = time_graph(context.stream, launches,
                           [&](int i) { boundary_cluster(context, args[i % sets], chained); });
    report(name + (chained ? " chained" : " alone"), us, bytes, bf16);
  }
  if (tokens == 1 || tokens == 4096) {
    double us = time_graph(context.stream, launches, [&](int i) {
      HcBoundaryArgs& a = args[i % sets];
      a.y = {};
      boundary_cluster(context, a, false);
    });
    report(name + " first", us, 24.0 * 4 * dim * 4 + double(tokens) * dim * 20);
  }
}

void bench_generic(CudaContext& context, int64_t dim, int64_t tokens) {
  Pool pool;
  HcPreArgs pre;
  pre.w = {{pool.take(24 * 4 * dim, 0.02f), {24, 4 * dim}}, {pool.take(24, 1), {24}}, {pool.take(3, 1), {3}}};
  View<float, 3> streams(pool.take(tokens * 4 * dim, 1), {tokens, 4, dim});
  pre.streams = streams;
  pre.x = {pool.take(tokens * dim, 1), {tokens, dim}};
  pre.post = {pool.take(tokens * 4, 1), {tokens, 4}};
  pre.comb = {pool.take(tokens * 16, 0.3f), {tokens, 4, 4}};
  std::string name =
      std::string(" generic d=") + std::to_string(dim) + std::string(" T=") + std::to_string(tokens);
  report("hc_pre" + name, time_graph(context.stream, 16, [&](int) { hc_pre(context, pre); }),
         96.0 * 4 * dim + double(tokens) * dim * 20);
  report("hc_post" + name,
         time_graph(context.stream, 16, [&](int) { hc_post(context, {pre.x, pre.post, pre.comb, streams}); }),
         double(tokens) * dim * 36);
  View<int32_t, 1> rows(reinterpret_cast<int32_t*>(pool.take(tokens, 0)), {tokens});
  if (tokens <= 64) {
    HyperConnectionWeights head{
        {pre.w.fn.data(), {4, 4 * dim}}, {pre.w.base.data(), {4}}, {pre.w.scale.data(), {1}}};
    report("hc_head" + name,
           time_graph(context.stream, 16,
                      [&](int) { hc_head(context, {head, streams, rows, 1e-6f, 1e-6f, pre.x}); }),
           16.0 * 4 * dim + double(tokens) * dim * 20);
  }
}

void bench_heads(CudaContext& context, int64_t heads, int64_t tokens) {
  Pool pool;
  View<float, 3> q(pool.take(tokens * heads * 512, 1), {tokens, heads, 512});
  View<float, 3> table(pool.take(tokens * 64, 1), {tokens, 32, 2});
  std::string name =
      std::string(" ") + std::to_string(heads) + std::string(" heads T=") + std::to_string(tokens);
  report("head_norm_rope" + name,
         time_graph(context.stream, 16, [&](int) { head_norm_rope(context, {q, table, 1e-6f}); }),
         double(tokens) * heads * 512 * 8);
  report("rope inverse" + name, time_graph(context.stream, 16, [&](int) { rope(context, {q, table, true}); }),
         double(tokens) * heads * 64 * 8);
}

void bench_small_rows(CudaContext& context, int64_t q_rank, int64_t tokens) {
  Pool pool;
  SmallRowsArgs a;
  a.qa = {pool.take(tokens * q_rank, 1), {tokens, q_rank}};
  a.kv = View<float, 2>(pool.take(tokens * 512, 1), {tokens, 512});
  a.q_norm = View<float, 1>(pool.take(q_rank, 1), {q_rank});
  a.kv_norm = View<float, 1>(pool.take(512, 1), {512});
  a.table = View<float, 3>(pool.take(tokens * 64, 1), {tokens, 32, 2});
  a.format = KvRowFormat::entry(Numerics::kFast, 512, 64);
  a.rows = {reinterpret_cast<std::byte*>(pool.take(tokens * 144, 1)),
            reinterpret_cast<std::byte*>(pool.take(tokens * 2, 1))};
  report(
      std::string("small rows ") + std::to_string(q_rank) + std::string("+512 T=") + std::to_string(tokens),
      time_graph(context.stream, 64, [&](int) { small_rows(context, a); }),
      double(tokens) * (q_rank * 8 + 512 * 4 + 64 * 4 + 584));
}

void bench_sampling(CudaContext& context, int64_t n) {
  constexpr int64_t kVocab = 129280;
  Pool pool;
  View<float, 2> logits(pool.take(n * kVocab, 8), {n, kVocab});
  auto* requests = reinterpret_cast<SampleRequest*>(pool.take(n * int64_t{sizeof(SampleRequest)} / 4, 1));
  View<int32_t, 1> ids(reinterpret_cast<int32_t*>(pool.take(n, 1)), {n}),
      stopped(reinterpret_cast<int32_t*>(pool.take(n, 1)), {n});
  struct Setting {
    const char* name;
    float temperature, top_p, min_p;
    int top_k;
  };
  for (Setting s : {Setting{"greedy", 0, 1, 0, 0},
                    {"temperature", 1, 1, 0, 0},
                    {"top_p", 1, 0.95f, 0, 0},
                    {"top_k+top_p", 1, 0.95f, 0, 50}}) {
    std::vector<SampleRequest> host(n);
    for (int64_t i = 0; i < n; ++i)
      host[i].temperature = s.temperature, host[i].top_p = s.top_p, host[i].top_k = s.top_k,
      host[i].position = i;
    CHECK(cudaMemcpy(requests, host.data(), n * sizeof(SampleRequest), cudaMemcpyHostToDevice));
    report(std::string("sample ") + s.name + std::string(" n=") + std::to_string(n),
           time_graph(context.stream, 16,
                      [&](int) { sample(context, {logits, {requests, {n}}, ids, stopped}); }),
           double(n) * kVocab * 4);
  }
}

void print_all() {
  const char* out = std::getenv("OUT");
  FILE* json =
      std::fopen(((out ? std::string(out) + "/" : std::string()) + "boundary_bench.json").c_str(), "w");
  if (json) std::fprintf(json, "{\"copy_gbs\": %.1f, \"cases\": [", copy_rate / 1e9);
  std::printf("copy %.0f GB/s\n%-40s %9s %8s %8s %6s %6s\n", copy_rate / 1e9, "case", "us", "GB/s", "floor",
              "ratio", "bf16");
  for (size_t i = 0; i < rows.size(); ++i) {
    const Row& r = rows[i];
    double floor = r.bytes / copy_rate * 1e6;
    std::printf("%-40s %9.2f %8.0f %8.2f %6.2f", r.name.c_str(), r.us, r.bytes / r.us / 1e3, floor,
                floor / r.us);
    if (r.extra > 0) std::printf(" %6.2f", r.extra / copy_rate * 1e6 / r.us);
    std::printf("\n");
    if (json)
      std::fprintf(json, "%s\n{\"case\": \"%s\", \"us\": %.3f, \"bytes\": %.0f, \"floor_us\": %.3f}",
                   i ? "," : "", r.name.c_str(), r.us, r.bytes, floor);
  }
  if (json) std::fprintf(json, "]}\n"), std::fclose(json);
}

}  // namespace

int main(int argc, char**) {
  bool only_boundary = argc > 1;
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  auto memory = CudaMemory::make(stream);
  if (!memory.has_value()) return std::fprintf(stderr, "%s\n", memory.error().message.c_str()), 1;
  Scratch scratch(**memory);
  CudaContext context{stream, Numerics::kFast, 132, false, scratch};
  {
    Pool pool;
    int64_t n = int64_t{1} << 27;
    float *a = pool.take(n, 1), *b = pool.take(n, 1);
    double us = time_graph(
        stream, 4, [&](int) { copy_kernel<<<132 * 8, 512, 0, stream>>>((float4*)a, (float4*)b, n / 4); });
    double us2 =
        time_graph(stream, 4, [&](int) { cudaMemcpyAsync(b, a, n * 4, cudaMemcpyDeviceToDevice, stream); });
    copy_rate = 8.0 * n / std::min(us, us2) * 1e6;
  }
  for (int64_t dim : {4096, 7168}) {
    for (int64_t tokens : {1, 2, 8, 16, 64, 256, 4096}) bench_boundary(context, dim, tokens);
    for (int64_t tokens : {1, 4096})
      if (!only_boundary) bench_generic(context, dim, tokens);
  }
  if (!only_boundary) {
    for (int64_t tokens : {1, 64, 4096}) bench_heads(context, 64, tokens);
    for (int64_t q_rank : {1024, 1536})
      for (int64_t tokens : {1, 64, 4096}) bench_small_rows(context, q_rank, tokens);
    for (int64_t n : {1, 8, 64}) bench_sampling(context, n);
  }
  print_all();
}
