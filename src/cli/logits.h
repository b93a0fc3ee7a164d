// kvasir logits: token ids in, logits (and intermediate tensors) out, so that anyone can check kvasir
// against another engine. Needs no tokenizer in the folder.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/compute_options.h"

namespace kvasir {

struct LogitsOptions {
  std::string model_dir;      // -m
  std::string ids_file;       // --ids: a JSON array of token ids
  std::string out_file;       // --out: safetensors with `logits` [rows, vocab] f32
  std::vector<int64_t> rows;  // --rows: token positions; empty: all
  int64_t chunk = 0;          // --chunk: tokens per prefill step; 0: kvasir's own choice
  int64_t greedy = 0;         // --greedy N: instead print N ids that continue the input, as one JSON array
  bool tap = false;           // --tap: also write the intermediate tensors (all rows)
  std::string inject_file;    // --inject: replace module inputs by this file's tensors
  ComputeOptions compute;
};

// Returns the process's exit code (cli/error.h).
int run_logits(const LogitsOptions& options);

}  // namespace kvasir
