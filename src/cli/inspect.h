// kvasir inspect: what a checkpoint folder holds and whether kvasir can run it.
#pragma once

#include <string>

namespace kvasir {

struct InspectOptions {
  std::string dir;
  bool verify = false;  // --verify: read every tensor; find NaN and E8M0 255
  bool json = false;
};

// Returns the process's exit code (cli/error.h).
int run_inspect(const InspectOptions& options);

}  // namespace kvasir
