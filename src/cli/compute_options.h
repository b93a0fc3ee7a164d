// ComputeOptions: how a subcommand that runs the model is to compute. The flags are the same everywhere.
#pragma once

#include <cstdint>
#include <optional>

#include "backend/cpu/isa.h"
#include "ops/numerics.h"

namespace kvasir {

enum class BackendChoice : uint8_t { kReference, kCpu };

struct ComputeOptions {
  int threads = 0;                              // --threads; 0: one per core this process may use
  std::optional<Numerics> numerics;             // --numerics; unset: the backend's own default
  BackendChoice backend = BackendChoice::kCpu;  // --backend
  std::optional<cpu::Isa> cpu_isa;              // --cpu-isa; unset: the best this machine can run

  // fast on the CPU backend; exact on the reference, which exists to be compared with.
  Numerics chosen_numerics() const {
    return numerics.value_or(backend == BackendChoice::kCpu ? Numerics::kFast : Numerics::kExact);
  }
};

}  // namespace kvasir
