// make_ops: the only place that knows which backends exist.
#pragma once

#include <memory>
#include <optional>

#include "backend/cpu/isa.h"
#include "ops/ops.h"

namespace kvasir {

enum class BackendKind : uint8_t { kReference, kCpu, kCuda };

struct BackendOptions {
  BackendKind kind = BackendKind::kCpu;
  Numerics numerics = Numerics::kFast;
  std::optional<cpu::Isa> cpu_isa;  // unset: the best this machine can run
  int threads = 0;                  // CPU workers; 0: one per core this process may use
  int cuda_device = 0;
  bool deterministic = false;       // a row's bits do not depend on how many rows a step has
};

// Errors: numerics that the backend does not have, an instruction set this machine cannot run, a build without CUDA, a
// machine without a GPU that it serves.
Result<std::unique_ptr<Ops>> make_ops(const BackendOptions& options);

}  // namespace kvasir
