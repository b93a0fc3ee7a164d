// ReferenceOps: the slow, obvious backend. Scalar code, f64 sums, one thread; kept for ever as the
// oracle that every other backend is held against. Knows kExact and kNative; kFast means "however this
// backend is fastest", which the reference has no answer to.
//
// One .cc per header of ops/, in the same order as the formulas there.
#pragma once

#include <memory>

#include "ops/ops.h"

namespace kvasir {

class ReferenceOps final : public Ops {
 public:
  explicit ReferenceOps(Numerics numerics);

  Numerics numerics() const override { return numerics_; }

  void embed(const EmbedArgs&) override;
  void gather_embedding(const GatherEmbeddingArgs&) override;
  void hc_pre(const HcPreArgs&) override;
  void hc_post(const HcPostArgs&) override;
  void hc_head(const HcHeadArgs&) override;
  void mtp_join(const MtpJoinArgs&) override;
  void rms_norm(const RmsNormArgs&) override;
  void linear(const LinearArgs&) override;
  void grouped_linear(const GroupedLinearArgs&) override;
  void rope_table(const RopeTableArgs&) override;
  void rope(const RopeArgs&) override;
  void head_norm_rope(const HeadNormRopeArgs&) override;
  void compress(const CompressArgs&) override;
  void index_query(const IndexQueryArgs&) override;
  void index_select(const IndexSelectArgs&) override;
  void store_window(const StoreWindowArgs&) override;
  void attend(const AttendArgs&) override;
  void commit_window(const CommitWindowArgs&) override;
  void gate(const GateArgs&) override;
  void experts(const ExpertsArgs&) override;
  Status synchronize() override { return {}; }

 private:
  void compress_sequence(const CompressSequence&);
  void index_select_sequence(const IndexSelectSequence&);
  void attend_sequence(const AttendSequence&);
  void commit_window_sequence(const CommitWindowSequence&);

  bool native() const { return numerics_ == Numerics::kNative; }
  // A module boundary of the official code: bf16 under kNative, nothing under kExact.
  float round(double x) const;

  Numerics numerics_;
};

}  // namespace kvasir
