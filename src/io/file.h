// Whole small files in, whole files out: reading a text of bounded size, and writing a file that
// appears under its name only when it is complete.
//
// Large inputs are mapped instead (mapped_file.h). Errors name the path and what the system said.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace kvasir {

// Text from a file, for a one-line message: control bytes become \xNN, overlong text is cut with "...".
std::string printable(std::string_view text);

// What errno says of a call on `path`: kNotFound or kInvalid when the path is at fault (absent, forbidden, a
// folder), kIo when the machine is. `doing` is a verb: "open".
Error io_error(const std::string& path, const char* doing);

// kInvalid unless `mode`, from stat, is a regular file's.
Status check_regular(const std::string& path, mode_t mode);

// The whole file. Errors: as io_error; not a regular file, or larger than `max_bytes` (kInvalid).
Result<std::string> read_text_file(const std::string& path, int64_t max_bytes);

// A file being written: bytes go to a temporary name beside `path`, and commit() makes them durable
// and renames. Dropped without commit, it leaves nothing behind and `path` as it was. A `path` that is there
// and no regular file (a folder, /dev/null) is refused.
class AtomicFile {
 public:
  static Result<AtomicFile> create(const std::string& path);
  ~AtomicFile();
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) noexcept;

  // Appends all bytes. A full disk is an error here or in commit(), never a short file.
  Status write(std::span<const std::byte> bytes);
  Status commit();

  const std::string& path() const { return path_; }

 private:
  AtomicFile(std::string path, std::string temporary, int fd);
  void discard();

  std::string path_;
  std::string temporary_;
  int fd_ = -1;  // -1: committed, moved from or failed
};

}  // namespace kvasir
