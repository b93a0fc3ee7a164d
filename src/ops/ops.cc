// The boxes that are several ops, one op after the other.
#include "ops/ops.h"

namespace kvasir {

void Ops::hc_boundary(const HcBoundaryArgs& a) {
  if (!a.y.empty()) hc_post({a.y, a.post, a.comb, a.streams});
  hc_pre({a.w, a.streams, a.norm_eps, a.sinkhorn_eps, a.sinkhorn_iters, a.x, a.post, a.comb});
  rms_norm({a.x, a.norm, a.norm_eps, a.x});
}

void Ops::linear_many(std::span<const LinearArgs> args) {
  for (const LinearArgs& a : args) linear(a);
}

void Ops::small_rows(const SmallRowsArgs& a) {
  rms_norm({a.qa, a.q_norm, a.eps, a.qa});
  rms_norm({a.kv, a.kv_norm, a.eps, a.kv});
  store_window({a.kv, a.table, a.format, a.rows});
}

void Ops::compress_pair(const CompressArgs& entry, const CompressArgs& key) {
  compress(entry);
  compress(key);
}

void Ops::index_query_select(const IndexQueryArgs& query, const IndexSelectArgs& select) {
  index_query(query);
  index_select(select);
}

void Ops::attend_heads(const AttendHeadsArgs& a) {
  head_norm_rope({a.q, a.table, a.eps});
  attend(a.attend);
  rope({a.attend.out, a.table, /*inverse=*/true});
}

}  // namespace kvasir
