// kvasir serve: settings from a file and flags, then the server until a signal.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace kvasir {

struct ServeOptions {
  std::string config;                                         // --config
  bool check_config = false;                                  // --check-config
  std::vector<std::pair<std::string, std::string>> settings;  // flags: key and text, each valid by itself
};

// Returns the process's exit code (cli/error.h).
int run_serve(const ServeOptions& options);

}  // namespace kvasir
