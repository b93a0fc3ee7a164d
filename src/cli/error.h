// From an Error to what a shell sees: one line on standard error and an exit code.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace kvasir {

constexpr int kExitOk = 0;
constexpr int kExitFailure = 1;        // the machine is at fault: no memory, a read error
constexpr int kExitBadInput = 2;       // an argument or a file is wrong, missing or not supported
constexpr int kExitInterrupted = 130;  // Ctrl-C: 128 + SIGINT, as shells count

int exit_code(ErrorCode code);

// The line without its line end. Control characters, which an untrusted file name or tensor name may hold,
// are replaced so that the line stays one line and cannot steer the terminal.
std::string error_line(std::string_view message);

// Prints the line on standard error and returns the exit code.
int report_error(const Error& error);

// Empties standard output's buffer. `code`, or kExitFailure with its line when something that was printed did
// not arrive (a full disk, a closed descriptor).
int finish_output(int code);

}  // namespace kvasir
