// The mixture of experts of the CPU backend: routed FP4 experts and the shared one. Contract: ops/experts.h.
#pragma once

#include "backend/cpu/context.h"
#include "ops/experts.h"

namespace kvasir::cpu {

void experts(CpuContext& context, const ExpertsArgs& args);

}  // namespace kvasir::cpu
