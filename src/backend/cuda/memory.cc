// Pinned staging around the copies; see memory.h.
#include "backend/cuda/memory.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace kvasir::cuda {
namespace {

constexpr int64_t kParallelBytes = int64_t{1} << 20;  // below this one thread copies to the ring
constexpr int64_t kPieceBytes = int64_t{256} << 10;   // of one thread

}  // namespace

Result<std::unique_ptr<CudaMemory>> CudaMemory::make(cudaStream_t stream, int device) {
  use_device(device);
  std::unique_ptr<CudaMemory> m(new CudaMemory(stream, device));
  void* ring = nullptr;
  KVASIR_CUDA_TRY(cudaHostAlloc(&ring, kSlots * kSlotBytes, cudaHostAllocDefault));
  m->ring_ = static_cast<std::byte*>(ring);
  for (cudaEvent_t& event : m->done_) KVASIR_CUDA_TRY(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return m;
}

CudaMemory::~CudaMemory() {
  for (cudaEvent_t event : done_)
    if (event) cudaEventDestroy(event);
  if (ring_) cudaFreeHost(ring_);
}

void CudaMemory::keep(cudaError_t error, const char* what) {
  if (error != cudaSuccess && !fault_) fault_ = device_error(error, what);
}

std::optional<Error> CudaMemory::take_fault() { return std::exchange(fault_, std::nullopt); }

Result<Buffer> CudaMemory::allocate(int64_t bytes, const char* what) {
  use_device(device_);
  KVASIR_CHECK(bytes >= 0, "{} bytes for {}", bytes, what);
  if (bytes == 0) return Buffer();
  void* p = nullptr;
  if (cudaError_t error = cudaMalloc(&p, static_cast<size_t>(bytes)); error != cudaSuccess) {
    (void)cudaGetLastError();
    size_t free = 0, total = 0;
    (void)cudaMemGetInfo(&free, &total);
    Error e = device_error(error, "cudaMalloc");
    e.message = fmt::format("cannot allocate {} bytes of GPU memory for {}, {} of {} are free. {}", bytes, what, free, total, e.message);
    return e;
  }
  Buffer buffer = Buffer::adopt(static_cast<std::byte*>(p), bytes, [](std::byte* data, int64_t) { cudaFree(data); });
  KVASIR_CUDA_TRY(cudaMemsetAsync(p, 0, static_cast<size_t>(bytes), stream_));
  return buffer;
}

std::byte* CudaMemory::take_staging(int64_t bytes) {
  if (used_ + bytes > kSlotBytes) {
    keep(cudaEventRecord(done_[slot_], stream_), "cudaEventRecord");
    slot_ = (slot_ + 1) % kSlots;
    used_ = 0;
    keep(cudaEventSynchronize(done_[slot_]), "cudaEventSynchronize");
  }
  std::byte* at = ring_ + slot_ * kSlotBytes + used_;
  used_ += (bytes + 63) / 64 * 64;
  return at;
}

void CudaMemory::stage(std::byte* to, const std::byte* from, int64_t bytes) {
  if (bytes < kParallelBytes) {
    std::memcpy(to, from, static_cast<size_t>(bytes));
    return;
  }
  if (!copiers_) copiers_ = std::make_unique<ThreadPool>(0);
  copiers_->run((bytes + kPieceBytes - 1) / kPieceBytes, [&](int64_t piece, int) {
    int64_t at = piece * kPieceBytes;
    std::memcpy(to + at, from + at, static_cast<size_t>(std::min(kPieceBytes, bytes - at)));
  });
}

void CudaMemory::write(void* to, const void* from, int64_t bytes) {
  use_device(device_);
  for (int64_t done = 0; done < bytes;) {
    int64_t n = std::min(bytes - done, kSlotBytes);
    std::byte* staging = take_staging(n);
    stage(staging, static_cast<const std::byte*>(from) + done, n);
    keep(cudaMemcpyAsync(static_cast<std::byte*>(to) + done, staging, static_cast<size_t>(n), cudaMemcpyHostToDevice, stream_),
         "cudaMemcpyAsync to the device");
    done += n;
  }
}

void CudaMemory::read(void* to, const void* from, int64_t bytes) {
  use_device(device_);
  for (int64_t done = 0; done < bytes;) {
    int64_t n = std::min(bytes - done, kSlotBytes);
    std::byte* staging = take_staging(n);
    cudaError_t error = cudaMemcpyAsync(staging, static_cast<const std::byte*>(from) + done, static_cast<size_t>(n), cudaMemcpyDeviceToHost,
                                        stream_);
    if (error == cudaSuccess) error = cudaStreamSynchronize(stream_);
    keep(error, "cudaMemcpyAsync from the device");
    // After a failure the caller gets zeros, and the error at synchronize().
    if (error == cudaSuccess)
      stage(static_cast<std::byte*>(to) + done, staging, n);
    else
      std::memset(static_cast<std::byte*>(to) + done, 0, static_cast<size_t>(n));
    done += n;
  }
}

void CudaMemory::copy(void* to, const void* from, int64_t bytes) {
  use_device(device_);
  auto* target = static_cast<std::byte*>(to);
  auto* source = static_cast<const std::byte*>(from);
  int64_t distance = target > source ? target - source : source - target;
  // A device copy must not overlap: pieces of at most the distance, in the order that overwrites nothing unread.
  int64_t piece = distance == 0 ? 0 : std::min(distance, bytes);
  if (piece == 0) return;
  int64_t pieces = (bytes + piece - 1) / piece;
  for (int64_t i = 0; i < pieces; ++i) {
    int64_t at = (target > source ? pieces - 1 - i : i) * piece;
    keep(cudaMemcpyAsync(target + at, source + at, static_cast<size_t>(std::min(piece, bytes - at)), cudaMemcpyDeviceToDevice, stream_),
         "cudaMemcpyAsync within the device");
  }
}

Result<int64_t> CudaMemory::available() {
  use_device(device_);
  size_t free = 0, total = 0;
  KVASIR_CUDA_TRY(cudaMemGetInfo(&free, &total));
  return static_cast<int64_t>(free);
}

}  // namespace kvasir::cuda
