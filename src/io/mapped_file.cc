// mmap behind mapped_file.h. Advice to the kernel is a wish: refusals are ignored.
#include "io/mapped_file.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "io/file.h"

namespace kvasir {
namespace {

constexpr int64_t kPage = 4096;
#ifndef MADV_POPULATE_READ  // Linux 5.14; Debian 12's libc headers predate it
#define MADV_POPULATE_READ 22
#endif

}  // namespace

Result<MappedFile> MappedFile::open(const std::string& path) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return io_error(path, "open");
  struct stat st{};
  Status regular = fstat(fd, &st) != 0 ? Status(io_error(path, "stat")) : check_regular(path, st.st_mode);
  if (!regular) {
    ::close(fd);
    return regular.error();
  }
  MappedFile file;
  file.path_ = path;
  file.size_ = st.st_size;
  if (file.size_ > 0) {
    void* p = mmap(nullptr, static_cast<size_t>(file.size_), PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
      Error error{ErrorCode::kIo,
                  fmt::format("{}: cannot map {} bytes: {}", path, file.size_, std::strerror(errno))};
      ::close(fd);
      return error;
    }
    file.data_ = static_cast<const std::byte*>(p);
  }
  ::close(fd);  // the mapping keeps the file
  return file;
}

MappedFile::~MappedFile() {
  if (data_) munmap(const_cast<std::byte*>(data_), static_cast<size_t>(size_));
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void MappedFile::populate(int64_t begin, int64_t count) const {
  KVASIR_CHECK(begin >= 0 && count >= 0 && begin + count <= size_, "bytes {}+{} of {}", begin, count, size_);
  if (count == 0) return;
  int64_t first = begin / kPage * kPage;
  auto* p = const_cast<std::byte*>(data_) + first;
  if (madvise(p, static_cast<size_t>(begin + count - first), MADV_POPULATE_READ) == 0) return;
  for (int64_t at = first; at < begin + count; at += kPage) {  // an older kernel: touch every page
    (void)*reinterpret_cast<const volatile std::byte*>(data_ + at);
  }
}

}  // namespace kvasir
