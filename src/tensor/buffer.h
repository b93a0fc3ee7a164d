// Buffer: owns bytes, on the host or in a device's memory (tensor/memory.h).
//
// On the host they are anonymous pages straight from the kernel, so they are zero, cost nothing until touched, and
// go back when the buffer dies; large ones ask for huge pages.
// A failed allocation is the world's fault (out of memory): make() returns an error that says how
// much was asked for.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/result.h"
#include "tensor/view.h"

namespace kvasir {

class Buffer {
 public:
  Buffer() = default;
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  // `what` names the purpose in the error text.
  static Result<Buffer> make(int64_t bytes, const char* what);

  // Takes over bytes of another kind of memory; `release` gives them back.
  using Release = void (*)(std::byte* data, int64_t size);
  static Buffer adopt(std::byte* data, int64_t size, Release release);

  std::byte* data() const { return data_; }
  int64_t size() const { return size_; }

  // A dense view of the buffer from byte `offset`; the buffer must be large enough.
  template <class T, int Rank>
  View<T, Rank> view(std::array<int64_t, Rank> shape, int64_t offset = 0) const {
    View<T, Rank> v(reinterpret_cast<T*>(data_ + offset), shape);
    KVASIR_CHECK(offset + v.count() * static_cast<int64_t>(sizeof(T)) <= size_, "view of {} elements at {} in {} bytes", v.count(),
                 offset, size_);
    return v;
  }

 private:
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
  Release release_ = nullptr;
};

}  // namespace kvasir
