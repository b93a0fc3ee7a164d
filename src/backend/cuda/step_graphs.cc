// Recording, replaying and forgetting; see step_graphs.h.
#include "backend/cuda/step_graphs.h"

#include <algorithm>

#include "backend/cuda/device.h"

namespace kvasir::cuda {

StepGraphs::~StepGraphs() {
  for (auto& [shape, entry] : entries_)
    if (entry.graph) cudaGraphExecDestroy(entry.graph);
}

Status StepGraphs::run(const StepShape& shape, const std::function<void()>& enqueue) {
  ++steps_;
  if (shape.rows > kMaxRows) {
    enqueue();
    return {};
  }
  auto [at, first] = entries_.try_emplace(shape);
  Entry& entry = at->second;
  entry.used = steps_;
  if (first) {
    if (static_cast<int64_t>(entries_.size()) > kMaxGraphs) drop_oldest();
    enqueue();
    return {};
  }
  if (!entry.graph) KVASIR_TRY_STATUS(record(enqueue, entry));
  KVASIR_CUDA_TRY(cudaGraphLaunch(entry.graph, stream_));
  return {};
}

Status StepGraphs::record(const std::function<void()>& enqueue, Entry& entry) {
  cudaGraph_t graph = nullptr;
  KVASIR_CUDA_TRY(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  enqueue();
  KVASIR_CUDA_TRY(cudaStreamEndCapture(stream_, &graph));
  cudaError_t error = cudaGraphInstantiate(&entry.graph, graph, 0);
  cudaGraphDestroy(graph);
  KVASIR_CUDA_TRY(error);
  return {};
}

void StepGraphs::drop_oldest() {
  auto oldest = std::min_element(entries_.begin(), entries_.end(),
                                 [](const auto& a, const auto& b) { return a.second.used < b.second.used; });
  if (oldest->second.graph) cudaGraphExecDestroy(oldest->second.graph);
  entries_.erase(oldest);
}

}  // namespace kvasir::cuda
