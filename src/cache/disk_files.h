// DiskFiles: the few things that the disk tier asks of a file system, behind an interface so that tests can
// make each of them fail, tear or fill up.
//
// Threading: any number of reads beside one writer per file.
#pragma once

#include <sys/uio.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace kvasir {

class DiskFile {
 public:
  virtual ~DiskFile() = default;
  virtual Result<int64_t> size() = 0;
  // Fills all of `parts` from `offset` on. kInvalid: the file ends before that.
  virtual Status read(int64_t offset, std::span<const iovec> parts) = 0;
  // Writes all of `parts` at `offset`. After an error any of the bytes may be there.
  virtual Status write(int64_t offset, std::span<const iovec> parts) = 0;
  virtual Status sync() = 0;
  virtual Status truncate(int64_t size) = 0;
  // Tells the system that the cached bytes of this file are not needed (benches, tests).
  virtual void drop_cached() = 0;
};

class DiskFiles {
 public:
  struct Entry {
    std::string name;
    int64_t bytes = 0;
    int64_t modified = 0;  // unix seconds
  };

  virtual ~DiskFiles() = default;
  // With all parents, mode 0700.
  virtual Status make_folder(const std::string& path) = 0;
  virtual Result<std::vector<Entry>> list(const std::string& folder) = 0;
  // A new file for reading and writing, mode 0600. kInvalid: it is there already.
  virtual Result<std::unique_ptr<DiskFile>> create(const std::string& path) = 0;
  virtual Result<std::unique_ptr<DiskFile>> open(const std::string& path, bool writable) = 0;
  virtual Status remove(const std::string& path) = 0;
  // Makes creations and removals in it durable.
  virtual Status sync_folder(const std::string& path) = 0;
};

// The system's own.
DiskFiles& system_files();

// Holds a folder for this process. Gives it back when it dies.
class FolderLock {
 public:
  // kBusy: another process has it; the message names its id.
  static Result<FolderLock> take(const std::string& folder);
  ~FolderLock();
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&& other) noexcept;

 private:
  explicit FolderLock(int fd) : fd_(fd) {}
  int fd_ = -1;
};

}  // namespace kvasir
