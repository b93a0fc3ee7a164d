// kvasir chat: an interactive conversation. Ctrl-C stops the answer and not the program.
#pragma once

#include <cstdint>
#include <string>

#include "cli/compute_options.h"
#include "cli/sampling_options.h"

namespace kvasir {

struct ChatOptions {
  std::string model_dir;                  // -m; empty: the bundled model
  ThinkChoice think = ThinkChoice::kOff;  // at the start; /think changes it
  int64_t max_tokens = 4096;              // of one answer
  SamplingOptions sampling;
  ComputeOptions compute;
};

// Returns the process's exit code (cli/error.h).
int run_chat(const ChatOptions& options);

}  // namespace kvasir
