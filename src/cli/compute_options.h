// ComputeOptions: how a subcommand that runs the model is to compute. The flags are the same everywhere.
#pragma once

#include <cstdint>
#include <optional>

#include "backend/backend.h"

namespace kvasir {

struct ComputeOptions {
  int threads = 0;                              // --threads; 0: one per core this process may use
  std::optional<Numerics> numerics;             // --numerics; unset: the backend's own default
  BackendKind backend = BackendKind::kCpu;      // --backend
  std::optional<cpu::Isa> cpu_isa;              // --cpu-isa; unset: the best this machine can run
  int device = 0;                               // --device: of the CUDA backend

  // fast, but exact on the reference, which exists to be compared with.
  Numerics chosen_numerics() const {
    return numerics.value_or(backend == BackendKind::kReference ? Numerics::kExact : Numerics::kFast);
  }
};

}  // namespace kvasir
