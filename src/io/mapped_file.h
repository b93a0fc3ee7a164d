// MappedFile: a file's bytes as read-only memory. Nothing is read until it is touched, the page cache
// keeps what was, and the kernel may drop it again, so a checkpoint larger than memory still works.
//
// Move-only; data() stays where it is for the object's life. Any thread may read.
// A file that somebody truncates while it is mapped kills the process with SIGBUS: don't.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/result.h"

namespace kvasir {

class MappedFile {
 public:
  // Errors: as io_error (file.h); not a regular file (kInvalid). An empty file maps to null.
  static Result<MappedFile> open(const std::string& path);
  MappedFile() = default;
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const std::byte* data() const { return data_; }
  int64_t size() const { return size_; }
  const std::string& path() const { return path_; }

  // Brings bytes [begin, begin + count) into the page cache and returns when they are there.
  void populate(int64_t begin, int64_t count) const;

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace kvasir
