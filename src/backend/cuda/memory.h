// CudaMemory: the memory of one device, filled and read through pinned staging on the backend's stream.
//
// A write goes through a ring of pinned memory, so that the caller may reuse its bytes at once and nothing waits unless
// the ring has come round to a copy that is still under way; a large one is copied to the ring by several threads, since
// one thread alone is slower than the link. Failures are kept and surface at Ops::synchronize.
#pragma once

#include <array>
#include <memory>
#include <optional>

#include "backend/cuda/device.h"
#include "base/thread_pool.h"
#include "tensor/memory.h"

namespace kvasir::cuda {

class CudaMemory final : public Memory {
 public:
  static Result<std::unique_ptr<CudaMemory>> make(cudaStream_t stream, int device = 0);
  ~CudaMemory() override;

  Result<Buffer> allocate(int64_t bytes, const char* what) override;
  void write(void* to, const void* from, int64_t bytes) override;
  void read(void* to, const void* from, int64_t bytes) override;
  void copy(void* to, const void* from, int64_t bytes) override;
  void draw(const RandomDraw& draw) override;
  bool on_host() const override { return false; }
  Result<int64_t> available() override;

  // The first failure since the last call, if there was one.
  std::optional<Error> take_fault();

 private:
  static constexpr int64_t kSlotBytes = int64_t{8} << 20;
  static constexpr int kSlots = 4;

  CudaMemory(cudaStream_t stream, int device) : device_(device), stream_(stream) {}
  void keep(cudaError_t error, const char* what);
  // A slot whose last copy has ended, with at least `bytes` free; they start at the returned address.
  std::byte* take_staging(int64_t bytes);
  void stage(std::byte* to, const std::byte* from, int64_t bytes);

  int device_;
  cudaStream_t stream_;
  std::byte* ring_ = nullptr;  // pinned, kSlots * kSlotBytes
  std::array<cudaEvent_t, kSlots> done_{};
  int slot_ = 0;
  int64_t used_ = 0;  // of the slot
  std::unique_ptr<ThreadPool> copiers_;  // made with the first large write
  std::optional<Error> fault_;
};

}  // namespace kvasir::cuda
