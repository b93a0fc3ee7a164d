// Binds a checkpoint's tensors to a Model. One pass over the tensor table; big matrices stay in the
// mapping, small vectors become f32 once, and nothing big is touched unless prefetch asks for it.
#include "model/load.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "io/file.h"
#include "model/checkpoint.h"
#include "model/tensor_match.h"
#include "model/tensor_table.h"

namespace kvasir {
namespace {

constexpr int64_t kOwnedChunk = 1 << 20;     // small tensors share buffers of this size
constexpr int64_t kPrefetchStep = 16 << 20;  // bytes between two ticks of the progress bar

// Hands out pieces of buffers that the model owns.
class OwnedMemory {
 public:
  explicit OwnedMemory(Model& model) : model_(model) {}

  Result<std::byte*> allocate(int64_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    if (bytes > left_) {
      KVASIR_TRY(Buffer buffer, Buffer::make(std::max(bytes, kOwnedChunk), "converted weights"));
      next_ = buffer.data();
      left_ = buffer.size();
      model_.owned.push_back(std::move(buffer));
    }
    left_ -= bytes;
    return std::exchange(next_, next_ + bytes);
  }

 private:
  Model& model_;
  std::byte* next_ = nullptr;
  int64_t left_ = 0;
};

bool aligned(const void* p, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(bytes) == 0;
}

class Binder {
 public:
  Binder(const Checkpoint& checkpoint, Model& model)
      : checkpoint_(checkpoint), memory_(model), used_(checkpoint.tensors().size(), false) {}

  Status bind(const TensorEntry& entry, int64_t num_experts) {
    KVASIR_TRY(MatchedTensor found, match_tensor(entry, checkpoint_));
    used_[found.weight.id] = true;
    if (found.scale) used_[found.scale->id] = true;
    if (auto* slot = std::get_if<WeightMatrix*>(&entry.slot)) return bind_matrix(entry, found, **slot);
    if (auto* slot = std::get_if<View<const int32_t, 2>*>(&entry.slot))
      return bind_table(entry, found.weight, num_experts, **slot);
    KVASIR_TRY(const float* values, read_floats(found.weight, entry.parameters()));
    if (auto* slot = std::get_if<View<const float, 1>*>(&entry.slot)) {
      **slot = View<const float, 1>(values, {entry.rows});
    } else {
      **std::get_if<View<const float, 2>*>(&entry.slot) =
          View<const float, 2>(values, {entry.rows, entry.cols});
    }
    return {};
  }

  const std::vector<bool>& used() const { return used_; }

  void note_copies(std::vector<std::string>& notes) const {
    if (copied_ == 0) return;
    notes.push_back(
        fmt::format("{}: not aligned in its file; {} such matrices, {} bytes, were copied to memory",
                    first_copied_, copied_, copied_bytes_));
  }

  Result<View<const float, 1>> own(const std::vector<float>& values) {
    int64_t bytes = static_cast<int64_t>(values.size()) * 4;
    KVASIR_TRY(std::byte * p, memory_.allocate(bytes));
    std::memcpy(p, values.data(), static_cast<size_t>(bytes));
    return View<const float, 1>(reinterpret_cast<const float*>(p), {static_cast<int64_t>(values.size())});
  }

 private:
  Status bind_matrix(const TensorEntry& entry, const MatchedTensor& found, WeightMatrix& slot) {
    slot.format = found.format;
    slot.rows = entry.rows;
    slot.cols = entry.cols;
    slot.data = found.weight.data;
    if (found.scale) slot.scale = reinterpret_cast<const uint8_t*>(found.scale->data);
    int64_t element = found.format == WeightFormat::kF32 ? 4 : found.format == WeightFormat::kBf16 ? 2 : 1;
    if (aligned(slot.data, element)) return {};
    // Writers that sort tensors by element size never get here; others may follow an odd-sized tensor.
    KVASIR_TRY(std::byte * copy, memory_.allocate(found.weight.bytes));
    std::memcpy(copy, found.weight.data, static_cast<size_t>(found.weight.bytes));
    slot.data = copy;
    if (copied_++ == 0) first_copied_ = found.weight.where();
    copied_bytes_ += found.weight.bytes;
    return {};
  }

  // BF16 or F32 as f32. Aligned F32 matrices stay where they are; the rest is small.
  Result<const float*> read_floats(const StoredTensor& t, int64_t count) {
    if (t.dtype == DType::kF32 && t.shape.size() > 1 && aligned(t.data, 4))
      return reinterpret_cast<const float*>(t.data);
    KVASIR_TRY(std::byte * p, memory_.allocate(count * 4));
    auto* out = reinterpret_cast<float*>(p);
    if (t.dtype == DType::kF32) {
      std::memcpy(out, t.data, static_cast<size_t>(count) * 4);
    } else {
      KVASIR_CHECK(t.dtype == DType::kBF16, "{} is {}", t.info->name, dtype_name(t.dtype));
      for (int64_t i = 0; i < count; ++i) {
        bf16 b;
        std::memcpy(&b, t.data + 2 * i, 2);
        out[i] = to_float(b);
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      if (!std::isfinite(out[i]))
        return Error{ErrorCode::kInvalid,
                     fmt::format("{}: element {} is {}, expected a finite number", t.where(), i, out[i])};
    }
    return out;
  }

  // Hash layers (trap 26): I64 in the file, i32 here, every id an expert. Duplicates in a row are allowed.
  Status bind_table(const TensorEntry& entry, const StoredTensor& t, int64_t num_experts,
                    View<const int32_t, 2>& slot) {
    KVASIR_TRY(std::byte * p, memory_.allocate(entry.parameters() * 4));
    auto* out = reinterpret_cast<int32_t*>(p);
    for (int64_t i = 0; i < entry.parameters(); ++i) {
      int64_t id = 0;
      std::memcpy(&id, t.data + 8 * i, 8);
      if (id < 0 || id >= num_experts) {
        return Error{ErrorCode::kInvalid, fmt::format("{}: token {} goes to expert {}, expected 0 to {}",
                                                      t.where(), i / entry.cols, id, num_experts - 1)};
      }
      out[i] = static_cast<int32_t>(id);
    }
    slot = View<const int32_t, 2>(out, {entry.rows, entry.cols});
    return {};
  }

  const Checkpoint& checkpoint_;
  OwnedMemory memory_;
  std::vector<bool> used_;  // by Checkpoint::tensors()
  int64_t copied_ = 0;      // matrices that the file misaligns
  int64_t copied_bytes_ = 0;
  std::string first_copied_;
};

Status bind_inv_freq(Binder& binder, Model& model) {
  const ModelConfig& c = model.config;
  KVASIR_TRY(auto window, binder.own(c.inv_freq(0)));
  KVASIR_TRY(auto compressed, binder.own(c.inv_freq(4)));  // ratio 4 and 128 share the YaRN table
  for (LayerWeights& layer : model.layers) layer.inv_freq = layer.ratio == 0 ? window : compressed;
  if (model.mtp) model.mtp->block.inv_freq = window;
  return {};
}

// Tensors that are there and that no entry asked for. DSpark's own were mentioned when it was recognised.
void note_unknown(const OpenedCheckpoint& opened, const std::vector<bool>& used,
                  std::vector<std::string>& notes) {
  std::string first;
  int64_t count = 0;
  for (size_t i = 0; i < used.size(); ++i) {
    const std::string& name = opened.checkpoint.tensors()[i].info->name;
    if (used[i] || (opened.draft == DraftKind::kDspark && name.starts_with("mtp."))) continue;
    if (count++ == 0) first = printable(name);
  }
  if (count > 0)
    notes.push_back(fmt::format("{}: {} tensors that V4 does not have are not used, {} for one",
                                opened.checkpoint.listing(), count, first));
}

// Brings what the model uses into the page cache, in file order, once. More than memory would only push out
// what was read first, so that is left to the page cache.
void prefetch(const Checkpoint& checkpoint, const std::vector<bool>& used, ProgressSink* progress,
              std::vector<std::string>& notes) {
  std::vector<Checkpoint::Tensor> wanted;
  int64_t total = 0;
  for (size_t i = 0; i < used.size(); ++i) {
    if (!used[i]) continue;
    wanted.push_back(checkpoint.tensors()[i]);
    total += wanted.back().info->bytes;
  }
  int64_t memory = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  if (total > memory) {
    notes.push_back(
        fmt::format("{}: {} bytes of weights in {} bytes of memory: read from disk as they are used",
                    checkpoint.listing(), total, memory));
    return;
  }
  std::sort(wanted.begin(), wanted.end(), [](const auto& a, const auto& b) {
    return a.file != b.file ? a.file->file().path() < b.file->file().path() : a.info->begin < b.info->begin;
  });
  if (progress) progress->begin("reading weights", ProgressUnit::kBytes, total);
  int64_t done = 0;
  for (const Checkpoint::Tensor& t : wanted) {
    for (int64_t at = 0; at < t.info->bytes; at += kPrefetchStep) {
      int64_t count = std::min(kPrefetchStep, t.info->bytes - at);
      t.file->file().populate(t.info->begin + at, count);
      done += count;
      if (progress) progress->tick(done);
    }
  }
  if (progress) progress->end();
}

}  // namespace

Result<View<float, 1>> Model::own_f32(int64_t count) {
  KVASIR_TRY(Buffer buffer, Buffer::make(count * 4, "model data"));
  owned.push_back(std::move(buffer));
  return owned.back().view<float, 1>({count});
}

Result<LoadedModel> load_checkpoint(const std::string& dir, const LoadOptions& options) {
  KVASIR_TRY(OpenedCheckpoint opened, open_checkpoint(dir));
  LoadedModel out;
  out.revision = opened.revision;
  out.notes = opened.notes;
  out.model.config = opened.config;
  shape_model(out.model);
  Binder binder(opened.checkpoint, out.model);
  for (const TensorEntry& entry : list_tensors(out.model))
    KVASIR_TRY_STATUS(binder.bind(entry, opened.config.num_experts));
  KVASIR_TRY_STATUS(bind_inv_freq(binder, out.model));
  binder.note_copies(out.notes);
  note_unknown(opened, binder.used(), out.notes);
  if (options.prefetch) prefetch(opened.checkpoint, binder.used(), options.progress, out.notes);
  for (const auto& file : opened.checkpoint.files()) out.model.storage.push_back(file);
  return out;
}

}  // namespace kvasir
