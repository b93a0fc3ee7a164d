// The small rows of an attention block as one launch: everything between its first projections and wq_b.
//
//   qa <- rms_norm(qa, q_norm), in place
//   rows[t] <- encode( rope( rms_norm(kv[t], kv_norm) ) )            as rms_norm and store_window would
#pragma once

#include "backend/cuda/context.h"
#include "ops/kv_page.h"
#include "tensor/view.h"

namespace kvasir::cuda {

struct SmallRowsArgs {
  View<float, 2> qa;            // [T, q_rank]; rows may be further apart than q_rank
  View<const float, 1> q_norm;  // [q_rank]
  View<const float, 2> kv;      // [T, D]; rows may be further apart than D
  View<const float, 1> kv_norm; // [D]
  View<const float, 3> table;   // [T, R/2, 2]
  float eps = 1e-6f;
  KvRowFormat format;
  KvRows rows;                  // T rows
};
void small_rows(CudaContext& context, const SmallRowsArgs& args);

}  // namespace kvasir::cuda
