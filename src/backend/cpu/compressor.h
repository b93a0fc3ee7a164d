// The compressor; contract in ops/compressor.h.
#pragma once

#include "backend/cpu/context.h"
#include "ops/compressor.h"

namespace kvasir::cpu {

void compress(CpuContext& context, const CompressSequence& args);

}  // namespace kvasir::cpu
