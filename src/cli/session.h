// Session: what a subcommand that runs a model sets up: checkpoint, backend and runner.
#pragma once

#include <memory>
#include <string>

#include "base/progress.h"
#include "cli/compute_options.h"
#include "engine/runner.h"
#include "model/load.h"

namespace kvasir {

// The folder of the model that comes with kvasir, next to the binary's source tree or installed beside it.
Result<std::string> bundled_model_dir();

struct Session {
  LoadedModel loaded;
  std::string dir;
  Numerics numerics = Numerics::kFast;
  std::unique_ptr<Runner> runner;  // borrows loaded.model

  const ModelConfig& config() const { return loaded.model.config; }
};

// `dir` empty: the bundled model. Prints the checkpoint's notes on stderr. The Session does not move in
// memory (the runner points into it), hence the pointer.
Result<std::unique_ptr<Session>> open_session(const std::string& dir, const ComputeOptions& compute,
                                              const RunnerOptions& options, ProgressSink* progress);

// Tokens of a prefill step: large enough that every expert of a large model sees many rows.
inline constexpr int64_t kPrefillChunk = 2048;

// Ops for `compute`.
Result<std::unique_ptr<Ops>> make_ops(const ComputeOptions& compute);

}  // namespace kvasir
