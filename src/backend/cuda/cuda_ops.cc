// One class over the files of this folder; see cuda_ops.h.
#include "backend/cuda/cuda_ops.h"

#include "backend/cuda/attention.h"
#include "backend/cuda/compressor.h"
#include "backend/cuda/context.h"
#include "backend/cuda/embedding.h"
#include "backend/cuda/experts.h"
#include "backend/cuda/gate.h"
#include "backend/cuda/hyper_connection.h"
#include "backend/cuda/indexer.h"
#include "backend/cuda/linear.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/norm.h"
#include "backend/cuda/rope.h"
#include "backend/cuda/small_rows.h"
#include "backend/cuda/step_graphs.h"

namespace kvasir::cuda {
namespace {

// The stream lives longest: buffers, graphs and scratch are given back on it.
struct Stream {
  Stream() = default;
  ~Stream() {
    if (handle) cudaStreamDestroy(handle);
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t handle = nullptr;
};

class CudaOps final : public Ops {
 public:
  CudaOps(const CudaOptions& options, const DeviceInfo& device, std::unique_ptr<Stream> stream, std::unique_ptr<CudaMemory> memory)
      : device_(device.index),
        stream_(std::move(stream)),
        memory_(std::move(memory)),
        scratch_(*memory_),
        graphs_(stream_->handle),
        context_{.stream = stream_->handle,
                 .numerics = options.numerics,
                 .sm_count = device.sm_count,
                 .deterministic = options.deterministic,
                 .scratch = scratch_} {}

  Numerics numerics() const override { return context_.numerics; }
  Memory& memory() override { return *memory_; }
  int64_t attention_rows() const override { return 4096; }
  Status run_step(const StepShape& shape, const std::function<void()>& enqueue) override {
    use_device(device_);
    return graphs_.run(shape, enqueue);
  }

  void embed(const EmbedArgs& args) override { run([&] { cuda::embed(context_, args); }); }
  void gather_embedding(const GatherEmbeddingArgs& args) override { run([&] { cuda::gather_embedding(context_, args); }); }
  void hc_pre(const HcPreArgs& args) override { run([&] { cuda::hc_pre(context_, args); }); }
  void hc_post(const HcPostArgs& args) override { run([&] { cuda::hc_post(context_, args); }); }
  void hc_head(const HcHeadArgs& args) override { run([&] { cuda::hc_head(context_, args); }); }
  void mtp_join(const MtpJoinArgs& args) override { run([&] { cuda::mtp_join(context_, args); }); }
  void rms_norm(const RmsNormArgs& args) override { run([&] { cuda::rms_norm(context_, args); }); }
  void linear(const LinearArgs& args) override { run([&] { cuda::linear(context_, args); }); }
  void grouped_linear(const GroupedLinearArgs& args) override { run([&] { cuda::grouped_linear(context_, args); }); }
  void rope_table(const RopeTableArgs& args) override { run([&] { cuda::rope_table(context_, args); }); }
  void rope(const RopeArgs& args) override { run([&] { cuda::rope(context_, args); }); }
  void head_norm_rope(const HeadNormRopeArgs& args) override { run([&] { cuda::head_norm_rope(context_, args); }); }
  void compress(const CompressArgs& args) override { run([&] { cuda::compress(context_, args); }); }
  void index_query(const IndexQueryArgs& args) override { run([&] { cuda::index_query(context_, args); }); }
  void index_select(const IndexSelectArgs& args) override { run([&] { cuda::index_select(context_, args); }); }
  void store_window(const StoreWindowArgs& args) override { run([&] { cuda::store_window(context_, args); }); }
  void attend(const AttendArgs& args) override { run([&] { cuda::attend(context_, args); }); }
  void commit_window(const CommitWindowArgs& args) override { run([&] { cuda::commit_window(context_, args); }); }
  void gate(const GateArgs& args) override { run([&] { cuda::gate(context_, args); }); }
  void experts(const ExpertsArgs& args) override { run([&] { cuda::experts(context_, args); }); }

  void hc_boundary(const HcBoundaryArgs& args) override { run([&] { cuda::hc_boundary(context_, args); }); }
  void linear_many(std::span<const LinearArgs> args) override { run([&] { cuda::linear_many(context_, args); }); }
  void small_rows(const SmallRowsArgs& args) override { run([&] { cuda::small_rows(context_, args); }); }
  void compress_pair(const CompressArgs& entry, const CompressArgs& key) override {
    run([&] { cuda::compress_pair(context_, entry, key); });
  }
  void index_query_select(const IndexQueryArgs& query, const IndexSelectArgs& select) override {
    run([&] { cuda::index_query_select(context_, query, select); });
  }
  void attend_heads(const AttendHeadsArgs& args) override {
    if (!can_attend_heads(context_, args.attend)) return Ops::attend_heads(args);
    run([&] { cuda::attend_heads(context_, args); });
  }

  Status synchronize() override {
    use_device(device_);
    // A fault of the device stays: every later call reports it again.
    if (auto fault = memory_->take_fault()) return *fault;
    KVASIR_CUDA_TRY(cudaStreamSynchronize(stream_->handle));
    KVASIR_CUDA_TRY(cudaGetLastError());
    return {};
  }

 private:
  template <class Op>
  void run(Op&& op) {
    use_device(device_);
    Scratch::Scope scope(scratch_);
    op();
  }

  int device_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<CudaMemory> memory_;
  Scratch scratch_;
  StepGraphs graphs_;
  CudaContext context_;
};

}  // namespace

Result<std::unique_ptr<Ops>> make_cuda_ops(const CudaOptions& options) {
  KVASIR_TRY(DeviceInfo device, open_device(options.device));
  auto stream = std::make_unique<Stream>();
  KVASIR_CUDA_TRY(cudaStreamCreateWithFlags(&stream->handle, cudaStreamNonBlocking));
  KVASIR_TRY(auto memory, CudaMemory::make(stream->handle, device.index));
  return std::unique_ptr<Ops>(std::make_unique<CudaOps>(options, device, std::move(stream), std::move(memory)));
}

}  // namespace kvasir::cuda
