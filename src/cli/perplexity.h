// kvasir perplexity: how well a model predicts a text file, token by token.
#pragma once

#include <string>

#include "cli/compute_options.h"

namespace kvasir {

struct PerplexityOptions {
  std::string model_dir;  // -m; empty: the bundled model
  std::string file;       // -f
  ComputeOptions compute;
  bool json = false;
};

// Returns the process's exit code (cli/error.h).
int run_perplexity(const PerplexityOptions& options);

}  // namespace kvasir
