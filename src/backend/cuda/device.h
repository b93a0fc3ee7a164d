// The CUDA runtime as kvasir uses it: what a failed call means, and the device that a backend runs on.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "base/result.h"

namespace kvasir::cuda {

// What the runtime says went wrong, where, and what to do about it.
Error device_error(cudaError_t error, const char* what);

#define KVASIR_CUDA_TRY(call)                                                        \
  do {                                                                               \
    if (cudaError_t cuda_error = (call); cuda_error != cudaSuccess)                  \
      return ::kvasir::cuda::device_error(cuda_error, #call);                        \
  } while (0)

// For calls inside an op, which hands no error up. A launch that is configured wrongly is our mistake and aborts; a fault of
// the device stays with the runtime and is reported by Ops::synchronize.
void check_launch(cudaError_t error, const char* what);

struct DeviceInfo {
  int index = 0;
  std::string name;
  int sm_count = 0;
};

// Makes device `index` the one that this thread uses. kUnsupported: there is no driver, no such device, or its
// architecture is none that the kernels are built for.
Result<DeviceInfo> open_device(int index);

// Makes `index` the calling thread's device, if it is not: a thread starts on device 0.
void use_device(int index);

}  // namespace kvasir::cuda
