// CpuContext: what every op of the CPU backend is given besides its arguments.
//
// One context serves one CpuOps, so one caller at a time. Scratch is memory that an op needs while it
// runs: it grows until the largest op has been seen and then nothing is allocated any more.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/cpu/isa.h"
#include "base/thread_pool.h"
#include "ops/numerics.h"
#include "tensor/buffer.h"

namespace kvasir::cpu {

// Memory for the time of one op. Only the calling thread takes; workers use what was taken for them.
class Scratch {
 public:
  // Gives back, when it dies, all that was taken since it was made. Scopes nest; each op opens one.
  class Scope {
   public:
    explicit Scope(Scratch& scratch) : scratch_(scratch), chunk_(scratch.chunk_), used_(scratch.used_) {}
    ~Scope() { scratch_.rewind(chunk_, used_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Scratch& scratch_;
    size_t chunk_;
    int64_t used_;
  };

  // `count` elements, 64-byte aligned, contents unspecified. Aborts when the system has no memory left.
  template <class T>
  T* take(int64_t count) {
    return reinterpret_cast<T*>(take_bytes(count * static_cast<int64_t>(sizeof(T))));
  }
  // Bytes held from the system.
  int64_t held() const;

 private:
  std::byte* take_bytes(int64_t bytes);
  void rewind(size_t chunk, int64_t used);

  std::vector<Buffer> chunks_;  // joined into one when nothing is taken
  size_t chunk_ = 0;            // index of the chunk being taken from
  int64_t used_ = 0;            // bytes taken from it
};

struct CpuContext {
  ThreadPool& pool;
  Numerics numerics;
  Isa isa;  // kernels to use; this machine can run them
  Scratch scratch{};
};

}  // namespace kvasir::cpu
