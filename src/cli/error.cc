// Error texts and exit codes; see error.h.
#include "cli/error.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace kvasir {

int exit_code(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalid:
    case ErrorCode::kNotFound:
    case ErrorCode::kUnsupported:
      return kExitBadInput;
    case ErrorCode::kCancelled:
      return kExitInterrupted;
    case ErrorCode::kBusy:
    case ErrorCode::kIo:
      return kExitFailure;
  }
  return kExitFailure;
}

std::string error_line(std::string_view message) {
  std::string line = "kvasir: ";
  for (char c : message) {
    auto byte = static_cast<unsigned char>(c);
    if (c == '\n' || c == '\t') {
      line += ' ';
    } else {
      line += byte < 0x20 || byte == 0x7F ? '?' : c;
    }
  }
  return line;
}

int report_error(const Error& error) {
  std::fprintf(stderr, "%s\n", error_line(error.message).c_str());
  return exit_code(error.code);
}

int finish_output(int code) {
  errno = 0;
  if (std::fflush(stdout) == 0 && !std::ferror(stdout)) return code;
  // A write that failed earlier left its mark on the stream and its errno long ago.
  report_error({ErrorCode::kIo, std::string("standard output: cannot write") + (errno ? ": " : "") +
                                    (errno ? std::strerror(errno) : "")});
  return kExitFailure;
}

}  // namespace kvasir
