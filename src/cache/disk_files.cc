// POSIX behind disk_files.h: calls are retried after EINTR, short reads and writes continued.
#include "cache/disk_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

#include "io/file.h"

namespace kvasir {
namespace {

// Moves all of `parts` with `call`, which is preadv or pwritev.
template <class Call>
Status move_all(const std::string& path, const char* doing, int64_t offset, std::span<const iovec> parts,
                Call call) {
  std::vector<iovec> rest(parts.begin(), parts.end());
  size_t at = 0;
  while (true) {
    while (at < rest.size() && rest[at].iov_len == 0) ++at;
    if (at == rest.size()) return {};
    ssize_t n = call(rest.data() + at, static_cast<int>(std::min<size_t>(rest.size() - at, IOV_MAX)), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_error(path, doing);
    if (n == 0)
      return Error{ErrorCode::kInvalid,
                   fmt::format("{}: ends at {}, bytes from there on are expected", path, offset)};
    offset += n;
    for (auto left = static_cast<size_t>(n); left > 0;) {
      size_t step = std::min(left, rest[at].iov_len);
      rest[at].iov_base = static_cast<char*>(rest[at].iov_base) + step;
      rest[at].iov_len -= step;
      left -= step;
      if (rest[at].iov_len == 0) ++at;
    }
  }
}

class SystemFile : public DiskFile {
 public:
  SystemFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  ~SystemFile() override { close(fd_); }

  Result<int64_t> size() override {
    struct stat st{};
    if (fstat(fd_, &st) != 0) return io_error(path_, "stat");
    KVASIR_TRY_STATUS(check_regular(path_, st.st_mode));
    return static_cast<int64_t>(st.st_size);
  }
  Status read(int64_t offset, std::span<const iovec> parts) override {
    return move_all(path_, "read", offset, parts,
                    [&](const iovec* v, int n, int64_t at) { return preadv(fd_, v, n, at); });
  }
  Status write(int64_t offset, std::span<const iovec> parts) override {
    return move_all(path_, "write", offset, parts,
                    [&](const iovec* v, int n, int64_t at) { return pwritev(fd_, v, n, at); });
  }
  Status sync() override {
    if (fdatasync(fd_) == 0) return {};
    return io_error(path_, "sync");
  }
  Status truncate(int64_t size) override {
    if (ftruncate(fd_, size) == 0) return {};
    return io_error(path_, "truncate");
  }
  void drop_cached() override { posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED); }

 private:
  std::string path_;
  int fd_;
};

class SystemFiles : public DiskFiles {
 public:
  Status make_folder(const std::string& path) override {
    for (size_t at = path.find('/', 1); at != std::string::npos; at = path.find('/', at + 1)) {
      std::string parent = path.substr(0, at);
      if (mkdir(parent.c_str(), 0700) != 0 && errno != EEXIST && errno != EROFS && errno != EACCES)
        return io_error(parent, "create");
    }
    if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return io_error(path, "create");
    struct stat st{};
    if (stat(path.c_str(), &st) != 0) return io_error(path, "stat");
    if (!S_ISDIR(st.st_mode)) return Error{ErrorCode::kInvalid, fmt::format("{}: not a folder", path)};
    return {};
  }
  Result<std::vector<Entry>> list(const std::string& folder) override {
    DIR* dir = opendir(folder.c_str());
    if (dir == nullptr) return io_error(folder, "list");
    std::vector<Entry> entries;
    while (dirent* entry = readdir(dir)) {
      struct stat st{};
      if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode)) continue;
      entries.push_back({entry->d_name, static_cast<int64_t>(st.st_size), static_cast<int64_t>(st.st_mtime)});
    }
    closedir(dir);
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.name < b.name; });
    return entries;
  }
  Result<std::unique_ptr<DiskFile>> create(const std::string& path) override {
    return opened(path, O_RDWR | O_CREAT | O_EXCL);
  }
  Result<std::unique_ptr<DiskFile>> open(const std::string& path, bool writable) override {
    return opened(path, writable ? O_RDWR : O_RDONLY);
  }
  Status remove(const std::string& path) override {
    if (unlink(path.c_str()) == 0) return {};
    return io_error(path, "remove");
  }
  Status sync_folder(const std::string& path) override {
    int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return io_error(path, "open");
    bool synced = fsync(fd) == 0 || errno == EINVAL;  // EINVAL: this file system has nothing to sync
    Status status = synced ? Status() : Status(io_error(path, "sync"));
    close(fd);
    return status;
  }

 private:
  static Result<std::unique_ptr<DiskFile>> opened(const std::string& path, int flags) {
    int fd = ::open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return io_error(path, (flags & O_CREAT) != 0 ? "create" : "open");
    return std::unique_ptr<DiskFile>(std::make_unique<SystemFile>(path, fd));
  }
};

}  // namespace

DiskFiles& system_files() {
  static SystemFiles files;  // no state
  return files;
}

Result<FolderLock> FolderLock::take(const std::string& folder) {
  std::string path = folder + "/lock";
  int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return io_error(path, "open");
  FolderLock lock(fd);
  char text[32] = {};
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return io_error(path, "lock");
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    std::string holder = n > 0 ? printable(std::string_view(text, strcspn(text, "\n"))) : "unknown";
    return Error{
        ErrorCode::kBusy,
        fmt::format("{}: in use by process {}; one process at a time may have this folder", folder, holder)};
  }
  std::string pid = fmt::format("{}\n", getpid());
  // The number is for the message above only: the lock itself holds without it (a full disk).
  if (ftruncate(fd, 0) != 0 || pwrite(fd, pid.data(), pid.size(), 0) < 0) errno = 0;
  return lock;
}

FolderLock::~FolderLock() {
  if (fd_ >= 0) close(fd_);
}
FolderLock::FolderLock(FolderLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
FolderLock& FolderLock::operator=(FolderLock&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

}  // namespace kvasir
