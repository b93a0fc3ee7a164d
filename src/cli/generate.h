// kvasir generate: one prompt in, text out as it comes, one line of statistics at the end.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/compute_options.h"
#include "cli/sampling_options.h"

namespace kvasir {

struct GenerateOptions {
  std::string model_dir;           // -m; empty: the bundled model
  std::string prompt;              // -p; may be empty when there are files
  std::vector<std::string> files;  // -f, repeatable: put in the prompt with their names
  bool raw = false;                // --raw: no chat template
  ThinkChoice think = ThinkChoice::kOff;
  int64_t max_tokens = 512;
  int logprobs = 0;  // --logprobs N: the N best tokens beside each one chosen; with --json
  SamplingOptions sampling;
  ComputeOptions compute;
  bool json = false;  // one JSON object at the end in place of text and statistics
};

// Returns the process's exit code (cli/error.h).
int run_generate(const GenerateOptions& options);

}  // namespace kvasir
