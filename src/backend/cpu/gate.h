// The gate; contract in ops/gate.h.
#pragma once

#include "backend/cpu/context.h"
#include "ops/gate.h"

namespace kvasir::cpu {

void gate(CpuContext& context, const GateArgs& args);

}  // namespace kvasir::cpu
