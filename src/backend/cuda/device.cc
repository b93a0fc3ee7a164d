// Errors with their next step, and the check of the device; see device.h.
#include "backend/cuda/device.h"

#include <fmt/core.h>

#include "base/check.h"

namespace kvasir::cuda {
namespace {

constexpr int kMajor = 9, kMinor = 0;  // kernels are built for sm_90a

const char* next_step(cudaError_t error) {
  switch (error) {
    case cudaErrorNoDevice:
      return "no NVIDIA GPU is visible: check nvidia-smi and CUDA_VISIBLE_DEVICES, or use --backend cpu";
    case cudaErrorInsufficientDriver:
      return "the NVIDIA driver is absent or older than CUDA 13.0 (580): install one, or use --backend cpu";
    case cudaErrorMemoryAllocation:
      return "the GPU's memory is full: lower the cache or the batch, or end other programs on it (nvidia-smi)";
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorLaunchFailure:
    case cudaErrorAssert:
      return "a kernel failed and the device context is lost: restart kvasir, and report what it was computing";
    case cudaErrorECCUncorrectable:
    case cudaErrorHardwareStackError:
      return "the GPU itself failed: see nvidia-smi -q and dmesg";
    default:
      return "see nvidia-smi and dmesg; restart kvasir";
  }
}

}  // namespace

Error device_error(cudaError_t error, const char* what) {
  ErrorCode code = error == cudaErrorMemoryAllocation ? ErrorCode::kBusy : ErrorCode::kIo;
  if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver) code = ErrorCode::kUnsupported;
  return {code, fmt::format("CUDA: {} ({}) in {}: {}", cudaGetErrorString(error), cudaGetErrorName(error), what, next_step(error))};
}

void check_launch(cudaError_t error, const char* what) {
  bool ours = error == cudaErrorInvalidValue || error == cudaErrorInvalidConfiguration || error == cudaErrorLaunchOutOfResources ||
              error == cudaErrorInvalidDeviceFunction || error == cudaErrorInvalidClusterSize;
  KVASIR_CHECK(!ours, "{}: {}", what, cudaGetErrorString(error));
}

Result<DeviceInfo> open_device(int index) {
  int count = 0;
  KVASIR_CUDA_TRY(cudaGetDeviceCount(&count));
  if (index < 0 || index >= count)
    return Error{ErrorCode::kUnsupported, fmt::format("CUDA device {} is asked for, this machine has {}", index, count)};
  KVASIR_CUDA_TRY(cudaSetDevice(index));
  cudaDeviceProp p{};
  KVASIR_CUDA_TRY(cudaGetDeviceProperties(&p, index));
  if (p.major != kMajor || p.minor != kMinor) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("CUDA device {} is a {} of compute capability {}.{}; kvasir's kernels are built for {}.{} (H100, H200): use "
                             "--backend cpu",
                             index, p.name, p.major, p.minor, kMajor, kMinor)};
  }
  return DeviceInfo{index, p.name, p.multiProcessorCount};
}

void use_device(int index) {
  thread_local int current = 0;
  // A failure shows in the call that follows.
  if (current != index && cudaSetDevice(index) == cudaSuccess) current = index;
}

}  // namespace kvasir::cuda
