// Launching a small kernel so that it may begin while the one before it in the stream still runs. Such a
// kernel calls ptx::wait_for_previous before it touches anything that a kernel writes, and in every block.
#pragma once

#include <utility>

#include "backend/cuda/device.h"
#include "backend/cuda/sm90/boundary_ptx.cuh"
#include "base/check.h"

namespace kvasir::cuda {

template <class... Params, class... Args>
void launch_dependent(cudaStream_t stream, void (*kernel)(Params...), unsigned blocks, unsigned threads,
                      Args&&... args) {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = 1;
  cudaError_t error = cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
  check_launch(error, "a row kernel");
}

}  // namespace kvasir::cuda
