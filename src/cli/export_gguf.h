// kvasir export-gguf: a checkpoint folder as one GGUF file that llama.cpp and its kin can run, to compare
// engines.
#pragma once

#include <string>

#include "base/result.h"
#include "io/gguf_writer.h"
#include "model/gguf_export.h"
#include "text/tokenizer_file.h"

namespace kvasir {

struct ExportGgufOptions {
  std::string model_dir;  // empty: the bundled model
  std::string out_file;
  GgufWeights weights = GgufWeights::kBf16;
  bool mtp = false;
  bool json = false;
};

// The keys of tokenizer.ggml.*. Errors: more ids than the model has, or a first or last token that the file
// does not have.
Status add_tokenizer(const TokenizerFile& file, const ModelConfig& config, GgufMetadata& metadata);

// Returns the process's exit code (cli/error.h).
int run_export_gguf(const ExportGgufOptions& options);

}  // namespace kvasir
