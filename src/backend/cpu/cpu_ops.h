// CpuOps: the CPU backend. Kernels for the best instruction set this machine has, on a pool of threads.
#pragma once

#include <memory>

#include "backend/cpu/isa.h"
#include "ops/ops.h"

namespace kvasir::cpu {

struct CpuOptions {
  Numerics numerics = Numerics::kFast;
  Isa isa = detect_isa();  // must be available
  int threads = 0;         // 0: one per core this process may use
};

std::unique_ptr<Ops> make_cpu_ops(const CpuOptions& options);

}  // namespace kvasir::cpu
