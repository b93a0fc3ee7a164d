// load_checkpoint: a folder of official (or transformers-named) safetensors files to a Model.
//
// Memory-maps the shards and binds views; nothing is read but headers, small vectors and, when asked,
// a warm-up pass. Every complaint is one line that names file, tensor, what was seen and what was
// expected. Source: spec 9.
#pragma once

#include <string>
#include <vector>

#include "base/progress.h"
#include "base/result.h"
#include "model/weights.h"
#include "tensor/memory.h"

namespace kvasir {

struct LoadOptions {
  bool prefetch = false;             // read all weights into the page cache now, with progress
  ProgressSink* progress = nullptr;  // may be null
};

struct LoadedModel {
  Model model;
  ChatRevision revision = ChatRevision::kA;  // kB for the 0731 / 0813 checkpoints
  std::vector<std::string> notes;            // warnings and facts worth a line on stderr
};

Result<LoadedModel> load_checkpoint(const std::string& dir, const LoadOptions& options);

// Draws a model with the given shapes and the official formats straight into memory (no files).
// Values: seeded normal weights of a scale that keeps activations finite; experts FP4 e2m1 with e8m0
// per 32, dense FP8 128x128, tid2eid distinct random experts. `threads` only changes the speed, `memory` only the place.
Result<Model> make_synthetic(const ModelConfig& config, uint64_t seed, int threads, ProgressSink* progress,
                             Memory& memory = host_memory());

}  // namespace kvasir
