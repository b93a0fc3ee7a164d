// kvasir bench: prefill and decode rates at a list of contexts, each beside the machine's own ceilings
// (read bandwidth, bf16 matrix rate) measured in the same run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/compute_options.h"

namespace kvasir {

enum class SyntheticModel : uint8_t { kNone, kFlash, kPro };

struct BenchOptions {
  std::string model_dir;  // -m; empty without --synthetic: the bundled model
  SyntheticModel synthetic =
      SyntheticModel::kNone;  // --synthetic: random weights of these shapes and formats
  int layers = 0;             // --layers: only the first N; 0: all
  std::vector<int> ratios;    // --ratios: compress_ratios of the synthetic model's layers; empty: its own
  int64_t vocab = 0;          // --vocab: of the synthetic model; 0: its own
  std::vector<int64_t> contexts = {512, 4096, 8192};  // --context
  std::vector<int64_t> batches = {1};                 // --batch: sequences decoded together
  std::string out_file;                               // --out: the results as JSON, beside the table
  bool json = false;                                  // JSON on standard output in place of the table
  ComputeOptions compute;
};

// Returns the process's exit code (cli/error.h).
int run_bench(const BenchOptions& options);

}  // namespace kvasir
