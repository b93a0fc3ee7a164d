// Wide routes: products with many inputs. Weights are decoded into panels that stay in the nearest caches
// while all inputs pass by. Included by linear_kernels.cc; sets without the instructions have none.
#pragma once

#include "backend/cpu/linear_kernels.h"

namespace kvasir::cpu::KVASIR_ISA {

bool has_wide(Route route);
int64_t wide_tile_rows(Route route);
int64_t wide_layout(PackedRows& x);
void wide_pack(const PackedRows& x, int64_t row, int64_t count, const float* const* from, int64_t begin,
               int64_t end);
int64_t wide_scratch_bytes(Route route);
void wide_multiply(const MultiplyJob& job);

}  // namespace kvasir::cpu::KVASIR_ISA
