// kvasir cache: what a prefix cache's folder holds, whether it is whole, and taking prefixes out and in.
//
// No model is loaded: segments say whose they are and what shape their pages have. stat, ls, verify and
// export only read and may run beside a server; prune and import take the folder for themselves.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace kvasir {

struct CacheOptions {
  std::string action;  // stat, ls, verify, prune, export, import
  std::string file;    // of export and import
  std::string folder;  // --cache-dir; empty: ~/.cache/kvasir
  std::string prefix;  // --prefix: an id from ls
  std::string model;   // --model: first digits of a weights hash
  int64_t max_bytes = 0;
  bool json = false;
};

// What is printed: a table or JSON, ending with a line end.
Result<std::string> cache_report(const CacheOptions& options);

// Returns the process's exit code (cli/error.h). verify fails when something is lost.
int run_cache(const CacheOptions& options);

}  // namespace kvasir
