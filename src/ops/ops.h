// Ops: everything a backend must be able to do, one call per box of the forward pass.
//
// An op is the smallest box a backend would want to fuse; backends fuse inside an op, never by a
// second forward. Contracts stand in the header of each op; this is their list.
//
// Common rules. Activations are f32 in memory (under kNative they hold bf16 values where the official
// code has bf16). Outputs overlap no input unless the contract says so. T == 0 is a no-op. Wrong
// shapes are bugs and abort. Every op is deterministic: the same inputs give the same bits from run to
// run and for any number of threads. An op may return before its result is there (a device); faults
// surface at synchronize().
// Threading: one caller at a time; a backend uses its own threads inside an op.
#pragma once

#include <array>
#include <functional>
#include <span>
#include <vector>

#include "base/result.h"
#include "ops/attention.h"
#include "ops/compressor.h"
#include "ops/embedding.h"
#include "ops/experts.h"
#include "ops/gate.h"
#include "ops/hyper_connection.h"
#include "ops/indexer.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/rope.h"
#include "tensor/memory.h"

namespace kvasir {

// What two steps must have in common for one record to serve both: the same passes over the same numbers of rows.
struct StepShape {
  int pass = 0;            // 0: the trunk; 1: the draft block
  int64_t rows = 0;
  int64_t logit_rows = 0;
  std::vector<std::array<int64_t, 4>> blocks;  // rows, sequences, CacheBatch::max_tokens and max_length of each

  auto operator<=>(const StepShape&) const = default;
};

class Ops {
 public:
  virtual ~Ops() = default;

  virtual Numerics numerics() const = 0;
  // Where it computes: what every view of the Args points into.
  virtual Memory& memory() { return host_memory(); }
  // Rows that attention should work on at a time: its activations are the widest, and more rows than this gain nothing.
  virtual int64_t attention_rows() const { return 512; }
  // Calls `enqueue`, which calls ops. A backend may record what is enqueued and, when a step of the same shape comes
  // again, replay the record without the call: all that changes between such steps lies in its memory.
  virtual Status run_step(const StepShape& shape, const std::function<void()>& enqueue) {
    (void)shape;
    enqueue();
    return {};
  }

  virtual void embed(const EmbedArgs&) = 0;
  virtual void gather_embedding(const GatherEmbeddingArgs&) = 0;

  virtual void hc_pre(const HcPreArgs&) = 0;
  virtual void hc_post(const HcPostArgs&) = 0;
  virtual void hc_head(const HcHeadArgs&) = 0;
  virtual void mtp_join(const MtpJoinArgs&) = 0;

  virtual void rms_norm(const RmsNormArgs&) = 0;
  virtual void linear(const LinearArgs&) = 0;
  virtual void grouped_linear(const GroupedLinearArgs&) = 0;

  virtual void rope_table(const RopeTableArgs&) = 0;
  virtual void rope(const RopeArgs&) = 0;
  virtual void head_norm_rope(const HeadNormRopeArgs&) = 0;

  virtual void compress(const CompressArgs&) = 0;
  virtual void index_query(const IndexQueryArgs&) = 0;
  virtual void index_select(const IndexSelectArgs&) = 0;

  virtual void store_window(const StoreWindowArgs&) = 0;
  virtual void attend(const AttendArgs&) = 0;
  virtual void commit_window(const CommitWindowArgs&) = 0;

  virtual void gate(const GateArgs&) = 0;
  virtual void experts(const ExpertsArgs&) = 0;

  // Several of the above as one box, where they stand side by side in the forward pass. A backend that gains nothing by
  // fusing them leaves these as they are: one after the other.
  virtual void hc_boundary(const HcBoundaryArgs&);
  virtual void linear_many(std::span<const LinearArgs>);  // of one x
  virtual void small_rows(const SmallRowsArgs&);
  virtual void compress_pair(const CompressArgs& entry, const CompressArgs& key);  // of one batch
  virtual void index_query_select(const IndexQueryArgs& query, const IndexSelectArgs& select);  // of one q and weight
  virtual void attend_heads(const AttendHeadsArgs&);

  // Waits for everything enqueued and reports the first fault. On the CPU there is nothing to wait for.
  virtual Status synchronize() = 0;
};

}  // namespace kvasir
