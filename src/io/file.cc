// POSIX reads and writes behind file.h: every call is retried after EINTR and every short write continued.
#include "io/file.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

namespace kvasir {
namespace {

constexpr size_t kPrintableMax = 160;            // names in V4 checkpoints stay under 80
constexpr size_t kWriteChunk = size_t{1} << 30;  // Linux moves at most 2 GiB a call

// Whose fault a failed call is: a path that leads to nothing usable is the caller's, the rest is the
// machine's.
ErrorCode code_of(int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return ErrorCode::kNotFound;
    case EACCES:
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
    case EROFS:
      return ErrorCode::kInvalid;
    default:
      return ErrorCode::kIo;
  }
}

}  // namespace

Error io_error(const std::string& path, const char* doing) {
  return {code_of(errno), fmt::format("{}: cannot {}: {}", path, doing, std::strerror(errno))};
}

Status check_regular(const std::string& path, mode_t mode) {
  if (S_ISREG(mode)) return {};
  return Error{ErrorCode::kInvalid, fmt::format("{}: {}, expected a regular file", path,
                                                S_ISDIR(mode) ? "a folder" : "a device, pipe or socket")};
}

std::string printable(std::string_view text) {
  std::string out;
  for (char c : text.substr(0, kPrintableMax)) {
    auto u = static_cast<unsigned char>(c);
    if (u < 0x20 || u == 0x7f) {
      out += fmt::format("\\x{:02x}", u);
    } else {
      out += c;
    }
  }
  if (text.size() > kPrintableMax) out += "...";
  return out;
}

Result<std::string> read_text_file(const std::string& path, int64_t max_bytes) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return io_error(path, "open");
  struct stat st{};
  Status regular = fstat(fd, &st) != 0 ? Status(io_error(path, "stat")) : check_regular(path, st.st_mode);
  if (!regular) {
    close(fd);
    return regular.error();
  }
  if (st.st_size > max_bytes) {
    close(fd);
    return Error{ErrorCode::kInvalid,
                 fmt::format("{}: {} bytes, expected at most {}", path, st.st_size, max_bytes)};
  }
  std::string text(static_cast<size_t>(st.st_size), '\0');
  size_t have = 0;
  while (have < text.size()) {
    ssize_t n = read(fd, text.data() + have, text.size() - have);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      Error error = io_error(path, "read");
      close(fd);
      return error;
    }
    if (n == 0) break;  // it shrank since fstat; what is there is what we parse
    have += static_cast<size_t>(n);
  }
  text.resize(have);
  close(fd);
  return text;
}

AtomicFile::AtomicFile(std::string path, std::string temporary, int fd)
    : path_(std::move(path)), temporary_(std::move(temporary)), fd_(fd) {}

Result<AtomicFile> AtomicFile::create(const std::string& path) {
  // The rename would put a regular file in the place of a device such as /dev/null.
  struct stat st{};
  if (stat(path.c_str(), &st) == 0) KVASIR_TRY_STATUS(check_regular(path, st.st_mode));
  // The temporary lies in the same folder, so that the rename stays inside one file system.
  std::string temporary = path + ".partial-XXXXXX";
  int fd = mkstemp(temporary.data());
  if (fd < 0) return io_error(path, "create");
  mode_t mask = umask(0);
  umask(mask);
  fchmod(fd, 0666 & ~mask);  // mkstemp gives 0600; a refusal leaves that
  return AtomicFile(path, std::move(temporary), fd);
}

AtomicFile::~AtomicFile() { discard(); }

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)),
      fd_(std::exchange(other.fd_, -1)) {}

AtomicFile& AtomicFile::operator=(AtomicFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(temporary_, other.temporary_);
  std::swap(fd_, other.fd_);
  return *this;
}

void AtomicFile::discard() {
  if (fd_ < 0) return;
  close(std::exchange(fd_, -1));
  unlink(temporary_.c_str());
}

Status AtomicFile::write(std::span<const std::byte> bytes) {
  if (fd_ < 0) return Error{ErrorCode::kIo, fmt::format("{}: written to after a failure", path_)};
  while (!bytes.empty()) {
    ssize_t n = ::write(fd_, bytes.data(), std::min(bytes.size(), kWriteChunk));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      Error error = io_error(path_, "write");
      discard();
      return error;
    }
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return {};
}

Status AtomicFile::commit() {
  if (fd_ < 0) return Error{ErrorCode::kIo, fmt::format("{}: committed after a failure", path_)};
  // close() may report what a delayed write met (a full network disk), so its result counts as well.
  bool synced = fsync(fd_) == 0 || errno == EINVAL;  // EINVAL: the file system has nothing to sync
  int failed = synced ? 0 : errno;
  if (close(std::exchange(fd_, -1)) != 0 && failed == 0) failed = errno;
  if (failed == 0 && rename(temporary_.c_str(), path_.c_str()) != 0) failed = errno;
  if (failed == 0) return {};
  unlink(temporary_.c_str());
  errno = failed;
  return io_error(path_, "write");
}

}  // namespace kvasir
