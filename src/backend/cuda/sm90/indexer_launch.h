// Launches that may begin while the kernel before them in the stream ends.
//
// In such a kernel every block calls wait_for_previous_kernels, before it touches what earlier kernels write:
// then a kernel that has ended implies that all before it have, also those that it did not need. Only the
// arrays of a CacheBatch (spans, pages, rows) may be read before; they are written before a step begins,
// never by the kernel just before one of these.
#pragma once

#include <cuda_runtime_api.h>

namespace kvasir::cuda {

template <class Kernel, class... Args>
void launch_early(cudaStream_t stream, Kernel kernel, dim3 grid, int threads, int shared,
                  const Args&... args) {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared);
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, kernel, args...);
}

}  // namespace kvasir::cuda
