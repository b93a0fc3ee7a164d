// kvasir key: makes an API key for `kvasir serve`.
#pragma once

#include <cstdint>
#include <string>

namespace kvasir {

struct KeyOptions {
  std::string name;
  std::string file;         // --file
  int64_t max_streams = 0;  // --max-streams; 0: the server's limit
};

// Prints the key, once, and adds its hash to the file. Returns the process's exit code (cli/error.h).
int run_key(const KeyOptions& options);

}  // namespace kvasir
