// StepGraphs: steps recorded as CUDA graphs, so that a step of a shape seen before costs the host one launch.
//
// A shape is recorded when it comes the second time: the first time it runs as it is, which loads kernels and lets scratch
// grow, neither of which may happen while recording. Large steps are not recorded, their launches cost next to nothing.
// Nodes hold addresses and sizes; what changes between steps of one shape is read from memory (ops/kv_page.h, CacheBatch).
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "base/result.h"
#include "ops/ops.h"

namespace kvasir::cuda {

class StepGraphs {
 public:
  explicit StepGraphs(cudaStream_t stream) : stream_(stream) {}
  ~StepGraphs();
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;

  Status run(const StepShape& shape, const std::function<void()>& enqueue);

 private:
  static constexpr int64_t kMaxRows = 512;    // of a step that is recorded
  static constexpr int64_t kMaxGraphs = 256;  // the least recently used one goes

  struct Entry {
    cudaGraphExec_t graph = nullptr;  // null: seen, not recorded yet
    uint64_t used = 0;                // when, counted in steps
  };

  Status record(const std::function<void()>& enqueue, Entry& entry);
  void drop_oldest();

  cudaStream_t stream_;
  std::map<StepShape, Entry> entries_;
  uint64_t steps_ = 0;
};

}  // namespace kvasir::cuda
