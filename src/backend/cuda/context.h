// CudaContext: what every op of the CUDA backend is given besides its arguments.
//
// Ops only enqueue on `stream`: they neither wait, nor allocate, nor read device memory on the host, so that a step can be
// recorded into a graph and replayed. Scratch lasts for one op; the same op with the same shapes gets the same addresses.
#pragma once

#include <vector>

#include "backend/cuda/device.h"
#include "ops/numerics.h"
#include "tensor/memory.h"

namespace kvasir::cuda {

class Scratch {
 public:
  // Gives back, when it dies, all that was taken since it was made. Each op opens one.
  class Scope {
   public:
    explicit Scope(Scratch& scratch) : scratch_(scratch), chunk_(scratch.chunk_), used_(scratch.used_) {}
    ~Scope() { scratch_.chunk_ = chunk_, scratch_.used_ = used_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Scratch& scratch_;
    size_t chunk_;
    int64_t used_;
  };

  explicit Scratch(Memory& memory) : memory_(memory) {}
  // `count` elements of device memory, 256-byte aligned, contents unspecified. Aborts when the device has none left.
  template <class T>
  T* take(int64_t count) {
    return reinterpret_cast<T*>(take_bytes(count * static_cast<int64_t>(sizeof(T))));
  }

 private:
  std::byte* take_bytes(int64_t bytes);

  Memory& memory_;
  std::vector<Buffer> chunks_;  // never given back while the backend lives: recorded steps point into them
  size_t chunk_ = 0;            // the chunk being taken from
  int64_t used_ = 0;            // bytes taken from it
};

struct CudaContext {
  cudaStream_t stream = nullptr;
  Numerics numerics = Numerics::kFast;
  int sm_count = 0;
  bool deterministic = false;  // one kernel for every size, where sizes have kernels of their own
  Scratch& scratch;
};

}  // namespace kvasir::cuda
