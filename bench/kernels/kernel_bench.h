// What the benches of kernels share: memory filled on the device, graphs replayed, medians, one table and one JSON file.
//
// A case is captured as a chain of calls over different weights, more of them than L2 holds, replayed a few dozen times;
// its time is the median of a replay over the calls in it.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

namespace kvasir::bench {

#define BENCH_CUDA(call)                                                                                            \
  do {                                                                                                              \
    if (cudaError_t bench_error = (call); bench_error != cudaSuccess) {                                             \
      std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(bench_error));          \
      std::exit(1);                                                                                                 \
    }                                                                                                               \
  } while (0)

// Microseconds of one of the `calls` that `enqueue` puts on the stream, by graph replay.
inline double replay_us(cudaStream_t stream, int calls, const std::function<void()>& enqueue, int replays = 15) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  enqueue();  // attributes and modules are set outside the capture
  BENCH_CUDA(cudaStreamSynchronize(stream));
  BENCH_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  enqueue();
  BENCH_CUDA(cudaStreamEndCapture(stream, &graph));
  BENCH_CUDA(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t begin, end;
  BENCH_CUDA(cudaEventCreate(&begin));
  BENCH_CUDA(cudaEventCreate(&end));
  std::vector<float> ms;
  for (int i = 0; i < replays + 2; ++i) {
    BENCH_CUDA(cudaEventRecord(begin, stream));
    BENCH_CUDA(cudaGraphLaunch(exec, stream));
    BENCH_CUDA(cudaEventRecord(end, stream));
    BENCH_CUDA(cudaStreamSynchronize(stream));
    float t = 0;
    BENCH_CUDA(cudaEventElapsedTime(&t, begin, end));
    if (i >= 2) ms.push_back(t);
  }
  BENCH_CUDA(cudaGetLastError());
  cudaEventDestroy(begin), cudaEventDestroy(end);
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
  std::nth_element(ms.begin(), ms.begin() + ms.size() / 2, ms.end());
  return 1e3 * ms[ms.size() / 2] / calls;
}

// One thread a 16 bytes; a copy node of a graph reached 2741 GB/s on a card where this reaches the full rate.
static __global__ void copy_kernel(const uint4* from, uint4* to, int64_t count) {
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i < count) to[i] = from[i];
}

// The rate of a large copy on the device, bytes read plus bytes written, GB/s.
inline double copy_rate(cudaStream_t stream, void* memory, int64_t bytes) {
  auto* p = static_cast<uint4*>(memory);
  const int64_t count = bytes / 32;
  double us = replay_us(stream, 1, [&] { copy_kernel<<<static_cast<unsigned>((count + 511) / 512), 512, 0, stream>>>(p + count, p, count); });
  return 1e-3 * static_cast<double>(bytes) / us;
}

// Lines of a table and of a JSON array, written where $OUT says (else nowhere).
class Report {
 public:
  explicit Report(std::string name) : name_(std::move(name)) {}
  void add(const std::string& line, const std::string& json) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
    json_ += (json_.empty() ? "" : ",\n") + json;
  }
  ~Report() {
    const char* folder = std::getenv("OUT");
    if (folder == nullptr) return;
    if (FILE* f = std::fopen((std::string(folder) + "/" + name_ + ".json").c_str(), "w")) {
      std::fprintf(f, "[\n%s\n]\n", json_.c_str());
      std::fclose(f);
    }
  }

 private:
  std::string name_, json_;
};

}  // namespace kvasir::bench
