// Rotation of heads; contracts in ops/rope.h.
#pragma once

#include "backend/cpu/context.h"
#include "ops/rope.h"

namespace kvasir::cpu {

void rope_table(CpuContext& context, const RopeTableArgs& args);
void rope(CpuContext& context, const RopeArgs& args);
void head_norm_rope(CpuContext& context, const HeadNormRopeArgs& args);

// cos and sin of one position, [inv_freq.shape(0)][2]. The angle is an f32 product; its cos and sin are
// rounded from double precision, which reduces even the angles of position 1,048,575 exactly (trap 30).
void rope_row(View<const float, 1> inv_freq, int64_t position, float* out);

}  // namespace kvasir::cpu
