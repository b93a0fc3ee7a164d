// CpuOps only forwards: each op is a function of its own file, given the context.
#include "backend/cpu/cpu_ops.h"

#include "backend/cpu/attention.h"
#include "backend/cpu/compressor.h"
#include "backend/cpu/context.h"
#include "backend/cpu/embedding.h"
#include "backend/cpu/experts.h"
#include "backend/cpu/gate.h"
#include "backend/cpu/hyper_connection.h"
#include "backend/cpu/indexer.h"
#include "backend/cpu/linear.h"
#include "backend/cpu/norm.h"
#include "backend/cpu/rope.h"
#include "base/check.h"

namespace kvasir::cpu {
namespace {

class CpuOps final : public Ops {
 public:
  explicit CpuOps(const CpuOptions& options)
      : pool_(options.threads), context_{.pool = pool_, .numerics = options.numerics, .isa = options.isa} {}

  Numerics numerics() const override { return context_.numerics; }

  void embed(const EmbedArgs& args) override { cpu::embed(context_, args); }
  void gather_embedding(const GatherEmbeddingArgs& args) override { cpu::gather_embedding(context_, args); }
  void hc_pre(const HcPreArgs& args) override { cpu::hc_pre(context_, args); }
  void hc_post(const HcPostArgs& args) override { cpu::hc_post(context_, args); }
  void hc_head(const HcHeadArgs& args) override { cpu::hc_head(context_, args); }
  void mtp_join(const MtpJoinArgs& args) override { cpu::mtp_join(context_, args); }
  void rms_norm(const RmsNormArgs& args) override { cpu::rms_norm(context_, args); }
  void linear(const LinearArgs& args) override { cpu::linear(context_, args); }
  void grouped_linear(const GroupedLinearArgs& args) override { cpu::grouped_linear(context_, args); }
  void rope_table(const RopeTableArgs& args) override { cpu::rope_table(context_, args); }
  void rope(const RopeArgs& args) override { cpu::rope(context_, args); }
  void head_norm_rope(const HeadNormRopeArgs& args) override { cpu::head_norm_rope(context_, args); }
  void compress(const CompressArgs& args) override {
    for (int64_t i = 0; i < args.batch.sequences.shape(0); ++i) cpu::compress(context_, args.sequence(i));
  }
  void index_query(const IndexQueryArgs& args) override { cpu::index_query(context_, args); }
  void index_select(const IndexSelectArgs& args) override {
    for (int64_t i = 0; i < args.batch.sequences.shape(0); ++i) cpu::index_select(context_, args.sequence(i));
  }
  void store_window(const StoreWindowArgs& args) override { cpu::store_window(context_, args); }
  void attend(const AttendArgs& args) override {
    for (int64_t i = 0; i < args.batch.sequences.shape(0); ++i) cpu::attend(context_, args.sequence(i));
  }
  void commit_window(const CommitWindowArgs& args) override {
    for (int64_t i = 0; i < args.batch.sequences.shape(0); ++i) cpu::commit_window(context_, args.sequence(i));
  }
  void gate(const GateArgs& args) override { cpu::gate(context_, args); }
  void experts(const ExpertsArgs& args) override { cpu::experts(context_, args); }
  Status synchronize() override { return {}; }

 private:
  ThreadPool pool_;
  CpuContext context_;
};

}  // namespace

std::unique_ptr<Ops> make_cpu_ops(const CpuOptions& options) {
  KVASIR_CHECK(isa_available(options.isa), "this machine cannot run {} kernels", isa_name(options.isa));
  return std::make_unique<CpuOps>(options);
}

}  // namespace kvasir::cpu
