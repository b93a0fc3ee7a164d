// kvasir tokenize: the token ids of a text.
#pragma once

#include <string>

namespace kvasir {

struct TokenizeOptions {
  std::string model_dir;  // -m; empty: the bundled model
  std::string text;       // -p
  std::string file;       // -f; neither -p nor -f: standard input
  bool json = false;      // {"ids": [...], "count": N} in place of ids and pieces line by line
};

// Returns the process's exit code (cli/error.h).
int run_tokenize(const TokenizeOptions& options);

}  // namespace kvasir
