// RMS norm; contract in ops/norm.h.
#pragma once

#include "backend/cpu/context.h"
#include "ops/norm.h"

namespace kvasir::cpu {

void rms_norm(CpuContext& context, const RmsNormArgs& args);

}  // namespace kvasir::cpu
