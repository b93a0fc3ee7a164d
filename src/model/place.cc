// One visit of every tensor serves counting and copying; see place.h.
#include "model/place.h"

#include <fmt/core.h>

#include <algorithm>

namespace kvasir {
namespace {

constexpr int64_t kAlign = 256;  // of every tensor, so that wide loads and copies of a device start well

int64_t aligned(int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// Calls visit(pointer, bytes) for each tensor of a part of the model; visit may put another address in its place.
template <class Visit>
struct Tensors {
  Visit& visit;

  void operator()(WeightMatrix& w) const {
    if (w.empty()) return;
    int64_t scale_rows = w.format == WeightFormat::kFp8Block128 ? (w.rows + 127) / 128 : w.rows;
    visit(w.data, w.rows * w.data_row_bytes());
    if (w.scale_row_bytes() > 0) visit(w.scale, scale_rows * w.scale_row_bytes());
  }
  template <class T, int Rank>
  void operator()(View<const T, Rank>& v) const {
    if (v.empty()) return;
    KVASIR_CHECK(v.dense(), "a weight with gaps");
    const T* data = v.data();
    visit(data, v.count() * static_cast<int64_t>(sizeof(T)));
    v = View<const T, Rank>(data, v.shape());
  }
  void operator()(HyperConnectionWeights& w) const { all(w.fn, w.base, w.scale); }
  void operator()(CompressorWeights& w) const { all(w.wkv, w.wgate, w.ape, w.norm); }
  void operator()(ExpertWeights& w) const { all(w.w1, w.w3, w.w2); }
  void operator()(AttentionWeights& w) const {
    all(w.wq_a, w.q_norm, w.wq_b, w.wkv, w.kv_norm, w.wo_a, w.wo_b, w.sink, w.compressor);
    all(w.indexer.wq_b, w.indexer.weights_proj, w.indexer.compressor);
  }
  void operator()(MoeWeights& w) const {
    all(w.gate, w.bias, w.tid2eid, w.shared);
    for (ExpertWeights& expert : w.experts) (*this)(expert);
    // The table itself, filled by the caller once its experts have their addresses.
    w.table = {w.experts.data(), {static_cast<int64_t>(w.experts.size())}};
    (*this)(w.table);
  }
  void operator()(LayerWeights& w) const { all(w.inv_freq, w.attn_norm, w.ffn_norm, w.attn_hc, w.ffn_hc, w.attn, w.moe); }
  void operator()(MtpWeights& w) const { all(w.block, w.e_proj, w.h_proj, w.enorm, w.hnorm, w.norm, w.hc_head); }

  template <class... T>
  void all(T&... tensors) const {
    ((*this)(tensors), ...);
  }
};

template <class Part>
int64_t bytes_of(Part part) {  // by value: the visit writes to its views
  int64_t bytes = 0;
  auto count = [&](auto*&, int64_t n) { bytes += aligned(n); };
  Tensors<decltype(count)>{count}(part);
  return bytes;
}

Status check_formats(const LayerWeights& layer, const std::string& name) {
  const ExpertWeights& first = layer.moe.experts.front();
  for (size_t e = 0; e < layer.moe.experts.size(); ++e) {
    const ExpertWeights& w = layer.moe.experts[e];
    if (w.w1.format != first.w1.format || w.w3.format != first.w1.format || w.w2.format != first.w2.format)
      return Error{ErrorCode::kUnsupported, fmt::format("{}: expert {} is stored in another format than expert 0; this backend needs one", name, e)};
  }
  return {};
}

class Placer {
 public:
  Placer(Model& out, Memory& memory, ProgressSink* progress) : out_(out), memory_(memory), progress_(progress) {}

  // Everything of `part` into one allocation.
  template <class Part>
  Status place(Part& part, const char* what) {
    KVASIR_TRY(Buffer buffer, memory_.allocate(bytes_of(part), what));
    std::byte* at = buffer.data();
    auto move = [&](auto*& data, int64_t bytes) {
      memory_.write(at, data, bytes);
      data = reinterpret_cast<std::remove_reference_t<decltype(data)>>(at);
      at += aligned(bytes);
      done_ += bytes;
      if (progress_) progress_->tick(done_);
    };
    Tensors<decltype(move)>{move}(part);
    out_.owned.push_back(std::move(buffer));
    return {};
  }

 private:
  Model& out_;
  Memory& memory_;
  ProgressSink* progress_;
  int64_t done_ = 0;
};

// How many of the layers fit beside what is not in a layer.
Error does_not_fit(const Model& model, int64_t needed, int64_t available) {
  int64_t layers = 0, total = static_cast<int64_t>(model.layers.size());
  int64_t rest = needed;
  for (const LayerWeights& layer : model.layers) rest -= bytes_of(layer);
  int64_t bytes = rest;
  for (const LayerWeights& layer : model.layers) {
    bytes += bytes_of(layer);
    if (bytes <= available) ++layers;
  }
  return {ErrorCode::kBusy, fmt::format("the weights need {:.2f} GB, {:.2f} GB are free: {:.2f} GB are missing; {} of {} layers would fit", needed * 1e-9,
                                        available * 1e-9, (needed - available) * 1e-9, layers, total)};
}

}  // namespace

int64_t placed_bytes(const Model& model) {
  int64_t bytes = 0;
  auto add = [&](const auto& part) { bytes += bytes_of(part); };
  add(model.embed);
  add(model.head);
  add(model.norm);
  add(model.hc_head);
  for (const LayerWeights& layer : model.layers) add(layer);
  if (model.mtp) bytes += bytes_of(*model.mtp);
  return bytes;
}

Result<Model> place_model(const Model& model, Memory& memory, ProgressSink* progress) {
  for (size_t l = 0; l < model.layers.size(); ++l) KVASIR_TRY_STATUS(check_formats(model.layers[l], fmt::format("layer {}", l)));
  if (model.mtp) KVASIR_TRY_STATUS(check_formats(model.mtp->block, "the MTP block"));
  int64_t needed = placed_bytes(model);
  KVASIR_TRY(int64_t available, memory.available());
  if (needed > available) return does_not_fit(model, needed, available);

  Model out;
  out.config = model.config;
  out.embed = model.embed;
  out.head = model.head;
  out.norm = model.norm;
  out.hc_head = model.hc_head;
  out.layers = model.layers;
  if (model.mtp) out.mtp = std::make_unique<MtpWeights>(*model.mtp);
  if (progress) progress->begin("uploading weights", ProgressUnit::kBytes, needed);
  Placer placer(out, memory, progress);
  for (auto* matrix : {&out.embed, &out.head}) KVASIR_TRY_STATUS(placer.place(*matrix, "embedding and head"));
  KVASIR_TRY_STATUS(placer.place(out.norm, "the final norm"));
  KVASIR_TRY_STATUS(placer.place(out.hc_head, "the head's hyper-connection"));
  for (LayerWeights& layer : out.layers) KVASIR_TRY_STATUS(placer.place(layer, "a layer's weights"));
  if (out.mtp) KVASIR_TRY_STATUS(placer.place(*out.mtp, "the MTP block's weights"));
  if (progress) progress->end();
  return out;
}

}  // namespace kvasir
