// Anonymous mappings behind buffer.h.
#include "tensor/buffer.h"

#include <fmt/core.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace kvasir {

Result<Buffer> Buffer::make(int64_t bytes, const char* what) {
  KVASIR_CHECK(bytes >= 0, "{} bytes for {}", bytes, what);
  Buffer b;
  if (bytes == 0) return b;
  void* p = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    return Error{ErrorCode::kBusy, fmt::format("cannot allocate {} bytes for {}: {}", bytes, what, std::strerror(errno))};
  }
  if (bytes >= (4 << 20)) madvise(p, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // a wish; refusal costs only speed
  b.data_ = static_cast<std::byte*>(p);
  b.size_ = bytes;
  b.release_ = [](std::byte* data, int64_t size) { munmap(data, static_cast<size_t>(size)); };
  return b;
}

Buffer Buffer::adopt(std::byte* data, int64_t size, Release release) {
  Buffer b;
  b.data_ = data;
  b.size_ = size;
  b.release_ = release;
  return b;
}

Buffer::~Buffer() {
  if (data_) release_(data_, size_);
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      release_(std::exchange(other.release_, nullptr)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(release_, other.release_);
  return *this;
}

}  // namespace kvasir
