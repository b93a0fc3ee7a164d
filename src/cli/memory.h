// kvasir memory: what a context length costs in cache bytes and FLOPs, beside V3.2, GQA8 and MHA.
//
// Figures come from formulas (model/accounting.h), each printed with its own; beside them stands what the
// allocator really holds for a sequence of that length. No model is loaded or run.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "model/accounting.h"

namespace kvasir {

struct MemoryOptions {
  std::string model;          // --model: flash, pro, or a folder with a config.json
  int64_t context = 1048576;  // --context
  bool json = false;
};

struct MemoryReport {
  std::string model;  // as asked for
  int64_t context = 0;
  Footprint v4, v3_2, gqa8, mha;
  // What kvasir's own allocator takes for such a sequence: pages in whole slabs, windows and tails with their
  // slack. 0: the system refused the address space.
  int64_t held_bytes = 0;
};

// `model` as in MemoryOptions. Errors: no such folder, a config.json that parse_config refuses.
Result<MemoryReport> memory_report(const std::string& model, int64_t context);
std::string memory_table(const MemoryReport& report);  // lines for a person, ending with a line end
std::string memory_json(const MemoryReport& report);

// Returns the process's exit code (cli/error.h).
int run_memory(const MemoryOptions& options);

}  // namespace kvasir
