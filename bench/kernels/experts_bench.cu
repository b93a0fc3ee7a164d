// experts_bench: Ops::experts and Ops::gate on one device at the shapes of Flash and Pro.
//
// Weights are random codes in the real formats; every token's experts are drawn uniformly without repetition.
// A graph of several calls is replayed, each with its own tokens, choice and shared expert, so that weights
// come from memory and not from L2. Floor: bytes of the distinct experts and of the shared one over the copy
// rate measured in the same run, or the products over the given rate of the tensor cores, whichever is
// longer.
//
//   experts_bench [--only flash|pro] [--max-tokens N]     JSON goes to $OUT/experts_bench.json
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/cuda/experts.h"
#include "backend/cuda/gate.h"
#include "backend/cuda/memory.h"

namespace {

using namespace kvasir;

#define CHECK(call)                                                                        \
  do {                                                                                     \
    cudaError_t e = (call);                                                                \
    if (e != cudaSuccess) {                                                                \
      fprintf(stderr, "%s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(e)); \
      exit(1);                                                                             \
    }                                                                                      \
  } while (0)

constexpr double kFp8Rate = 1398e12;  // measured, design/gpu-kernels.md section 1

__device__ uint32_t mix(uint64_t i) {
  i = (i ^ (i >> 30)) * 0xbf58476d1ce4e5b9ull;
  i = (i ^ (i >> 27)) * 0x94d049bb133111ebull;
  return static_cast<uint32_t>(i >> 32);
}
// Random bytes; `fp8`: none of them NaN. Scales: `low`..`low`+3.
__global__ void fill_codes(uint8_t* p, int64_t n, uint64_t seed, bool fp8) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * blockDim.x) {
    uint8_t c = static_cast<uint8_t>(mix(seed + static_cast<uint64_t>(i)));
    p[i] = fp8 && (c & 0x7f) == 0x7f ? c ^ 1 : c;
  }
}
__global__ void fill_scales(uint8_t* p, int64_t n, uint64_t seed, int low) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * blockDim.x)
    p[i] = static_cast<uint8_t>(low + (mix(seed + static_cast<uint64_t>(i)) & 3));
}

template <class T>
T* device_copy(const std::vector<T>& host) {
  T* p;
  CHECK(cudaMalloc(&p, host.size() * sizeof(T)));
  CHECK(cudaMemcpy(p, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  return p;
}

struct Model {
  const char* name;
  int64_t experts, dim, inner, k;
};

WeightMatrix make_weight(WeightFormat format, int64_t rows, int64_t cols) {
  static uint64_t seed = 1;
  WeightMatrix w{format, rows, cols, nullptr, nullptr};
  const bool fp8 = format == WeightFormat::kFp8Block128;
  const int64_t scales = (fp8 ? rows / 128 : rows) * w.scale_row_bytes(), bytes = rows * w.data_row_bytes();
  uint8_t *data, *scale;
  CHECK(cudaMalloc(&data, static_cast<size_t>(bytes)));
  CHECK(cudaMalloc(&scale, static_cast<size_t>(scales)));
  fill_codes<<<2048, 256>>>(data, bytes, seed += 0x1234567, fp8);
  fill_scales<<<256, 256>>>(scale, scales, seed += 0x1234567, fp8 ? 112 : 118);
  w.data = data, w.scale = scale;
  return w;
}
ExpertWeights make_expert(WeightFormat format, const Model& m) {
  return {make_weight(format, m.inner, m.dim), make_weight(format, m.inner, m.dim),
          make_weight(format, m.dim, m.inner)};
}
void free_expert(const ExpertWeights& e) {
  for (const WeightMatrix& w : {e.w1, e.w2, e.w3}) {
    CHECK(cudaFree(const_cast<void*>(w.data)));
    CHECK(cudaFree(const_cast<uint8_t*>(w.scale)));
  }
}

double copy_rate(cudaStream_t stream) {
  const size_t bytes = size_t{1} << 30;
  void *a, *b;
  CHECK(cudaMalloc(&a, bytes));
  CHECK(cudaMalloc(&b, bytes));
  CHECK(cudaMemset(a, 1, bytes));
  cudaEvent_t begin, end;
  CHECK(cudaEventCreate(&begin));
  CHECK(cudaEventCreate(&end));
  std::vector<float> ms;
  for (int i = 0; i < 12; ++i) {
    CHECK(cudaEventRecord(begin, stream));
    CHECK(cudaMemcpyAsync(b, a, bytes, cudaMemcpyDeviceToDevice, stream));
    CHECK(cudaEventRecord(end, stream));
    CHECK(cudaEventSynchronize(end));
    ms.push_back(0);
    CHECK(cudaEventElapsedTime(&ms.back(), begin, end));
  }
  CHECK(cudaFree(a));
  CHECK(cudaFree(b));
  std::sort(ms.begin(), ms.end());
  return 2.0 * static_cast<double>(bytes) / (ms[ms.size() / 2] * 1e-3);
}

// Median time of one replay, in us.
template <class Enqueue>
double time_graph(cudaStream_t stream, int replays, Enqueue&& enqueue) {
  enqueue();  // scratch grows outside of the capture
  CHECK(cudaStreamSynchronize(stream));
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  enqueue();
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t begin, end;
  CHECK(cudaEventCreate(&begin));
  CHECK(cudaEventCreate(&end));
  std::vector<float> ms;
  for (int i = 0; i < replays + 2; ++i) {
    CHECK(cudaEventRecord(begin, stream));
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaEventRecord(end, stream));
    CHECK(cudaEventSynchronize(end));
    float t;
    CHECK(cudaEventElapsedTime(&t, begin, end));
    if (i >= 2) ms.push_back(t);
  }
  CHECK(cudaGetLastError());
  CHECK(cudaGraphExecDestroy(exec));
  CHECK(cudaGraphDestroy(graph));
  std::sort(ms.begin(), ms.end());
  return ms[ms.size() / 2] * 1e3;
}

struct Row {
  std::string name;
  double us, bytes, flop, floor_us;
};

struct Call {
  GateArgs gate;
  ExpertsArgs experts;
  int64_t distinct;
};

}  // namespace

int main(int argc, char** argv) {
  std::string only;
  int64_t max_tokens = 16384;
  for (int i = 1; i + 1 < argc; ++i) {
    if (!strcmp(argv[i], "--only")) only = argv[i + 1];
    if (!strcmp(argv[i], "--max-tokens")) max_tokens = atoll(argv[i + 1]);
  }
  auto device = cuda::open_device(0);
  if (!device) {
    fprintf(stderr, "%s\n", device.error().message.c_str());
    return 1;
  }
  cudaStream_t stream;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  auto memory = cuda::CudaMemory::make(stream);
  cuda::Scratch scratch(**memory);
  cuda::CudaContext context{stream, Numerics::kFast, device->sm_count, false, scratch};
  const double copy = copy_rate(stream);
  printf("%s, copy %.0f GB/s\n", device->name.c_str(), copy / 1e9);

  std::mt19937_64 rng(3);
  std::normal_distribution<float> normal(0.f, 1.f);
  std::vector<Row> rows;
  for (const Model& m : {Model{"flash", 256, 4096, 2048, 6}, Model{"pro", 384, 7168, 3072, 6}}) {
    if (!only.empty() && only.find(m.name) == std::string::npos) continue;
    constexpr int kShared = 6;
    std::vector<ExpertWeights> routed, shared;
    for (int64_t e = 0; e < m.experts; ++e) routed.push_back(make_expert(WeightFormat::kFp4Group32, m));
    for (int s = 0; s < kShared; ++s) shared.push_back(make_expert(WeightFormat::kFp8Block128, m));
    ExpertWeights* list = device_copy(routed);
    CHECK(cudaDeviceSynchronize());
    const double expert_bytes =
        static_cast<double>(routed[0].w1.bytes() + routed[0].w2.bytes() + routed[0].w3.bytes());
    const double shared_bytes =
        static_cast<double>(shared[0].w1.bytes() + shared[0].w2.bytes() + shared[0].w3.bytes());

    for (int64_t tokens : {1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096, 16384}) {
      if (tokens > max_tokens || (m.dim > 4096 && tokens > 4096)) continue;
      const int calls = tokens <= 4 ? 24 : tokens <= 64 ? 6 : 2;
      std::vector<Call> list_of_calls;
      std::vector<void*> owned;
      auto keep = [&](auto* p) { return owned.push_back(p), p; };
      double bytes = 0;
      for (int c = 0; c < calls; ++c) {
        std::vector<float> logits, x;
        std::vector<char> hit(static_cast<size_t>(m.experts));
        for (int64_t i = 0; i < tokens * m.experts; ++i) logits.push_back(normal(rng));
        for (int64_t i = 0; i < std::min<int64_t>(tokens, 512) * m.dim; ++i) x.push_back(normal(rng));
        while (static_cast<int64_t>(x.size()) < tokens * m.dim)
          x.insert(x.end(), x.begin(), x.begin() + 512 * m.dim);
        Call call;
        call.gate.logits = View<const float, 2>(keep(device_copy(logits)), {tokens, m.experts});
        call.gate.bias = View<const float, 1>(
            keep(device_copy(std::vector<float>(static_cast<size_t>(m.experts), 0.f))), {m.experts});
        auto* ids = keep(device_copy(std::vector<int32_t>(static_cast<size_t>(tokens * m.k))));
        auto* weights = keep(device_copy(std::vector<float>(static_cast<size_t>(tokens * m.k))));
        call.gate.experts = View<int32_t, 2>(ids, {tokens, m.k});
        call.gate.weights = View<float, 2>(weights, {tokens, m.k});
        cuda::gate(context, call.gate);
        CHECK(cudaStreamSynchronize(stream));
        std::vector<int32_t> chosen(static_cast<size_t>(tokens * m.k));
        CHECK(cudaMemcpy(chosen.data(), ids, chosen.size() * 4, cudaMemcpyDeviceToHost));
        for (int32_t e : chosen) hit[static_cast<size_t>(e)] = 1;
        call.distinct = std::count(hit.begin(), hit.end(), 1);
        bytes += static_cast<double>(call.distinct) * expert_bytes + shared_bytes;
        call.experts.x = View<const float, 2>(keep(device_copy(x)), {tokens, m.dim});
        call.experts.routed = View<const ExpertWeights, 1>(list, {m.experts});
        call.experts.routed_like = routed[0];
        call.experts.shared = shared[static_cast<size_t>(c % kShared)];
        call.experts.experts = call.gate.experts;
        call.experts.weights = call.gate.weights;
        call.experts.limit = 10.f;
        call.experts.out = View<float, 2>(keep(device_copy(std::vector<float>(x.size()))), {tokens, m.dim});
        list_of_calls.push_back(call);
      }
      bytes /= calls;
      const double flop =
          6.0 * static_cast<double>(tokens * (m.k + 1)) * static_cast<double>(m.dim * m.inner);
      const double floor = std::max(bytes / copy, flop / kFp8Rate) * 1e6;
      const int replays = tokens <= 64 ? 15 : 5;
      auto add = [&](const char* what, auto&& op) {
        const double us = time_graph(stream, replays,
                                     [&] {
                                       for (const Call& call : list_of_calls) {
                                         cuda::Scratch::Scope scope(scratch);
                                         op(call);
                                       }
                                     }) /
                          calls;
        rows.push_back(
            {std::string(m.name) + " T=" + std::to_string(tokens) + " " + what, us, bytes, flop, floor});
        fprintf(stderr, "%s %.1f us\n", rows.back().name.c_str(), us);
      };
      add("experts", [&](const Call& c) { cuda::experts(context, c.experts); });
      if (tokens <= 64) {
        add("gate+experts", [&](const Call& c) {
          cuda::gate(context, c.gate);
          cuda::experts(context, c.experts);
        });
      }
      for (void* p : owned) CHECK(cudaFree(p));
    }
    for (const ExpertWeights& e : routed) free_expert(e);
    for (const ExpertWeights& e : shared) free_expert(e);
    CHECK(cudaFree(list));
  }

  printf("%-32s %10s %9s %9s %10s %6s\n", "case", "us", "GB/s", "TFLOP/s", "floor us", "ratio");
  std::string json =
      "{\"device\":\"" + device->name + "\",\"copy_gbs\":" + std::to_string(copy / 1e9) + ",\"cases\":[";
  for (const Row& r : rows) {
    printf("%-32s %10.1f %9.0f %9.1f %10.1f %6.2f\n", r.name.c_str(), r.us, r.bytes / r.us * 1e-3,
           r.flop / r.us * 1e-6, r.floor_us, r.floor_us / r.us);
    if (json.back() == '}') json += ',';
    json += "{\"case\":\"" + r.name + "\",\"us\":" + std::to_string(r.us) +
            ",\"bytes\":" + std::to_string(r.bytes) + ",\"flop\":" + std::to_string(r.flop) +
            ",\"floor_us\":" + std::to_string(r.floor_us) + "}";
  }
  json += "]}\n";
  if (const char* out = getenv("OUT")) {
    if (FILE* f = fopen((std::string(out) + "/experts_bench.json").c_str(), "w")) {
      fputs(json.c_str(), f);
      fclose(f);
    }
  }
  return 0;
}
