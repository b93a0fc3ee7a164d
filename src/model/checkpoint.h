// Checkpoint: the tensors of a folder, whichever shard they lie in and whatever they are called.
//
//   DIR/config.json                      not read here (config.h)
//   DIR/model.safetensors.index.json     which shard holds which tensor; or else
//   DIR/model.safetensors                everything in one file
//
// Opening maps the shards and reads their headers, nothing else. The mappings live as long as any
// shared_ptr from files() does. Immutable once open. Source: spec 9.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "io/safetensors.h"
#include "model/checkpoint_names.h"
#include "model/config.h"

namespace kvasir {

// A tensor of the checkpoint, or the part of a fused one that an official name means.
struct StoredTensor {
  const SafetensorsFile* file = nullptr;
  const TensorInfo* info = nullptr;  // the whole stored tensor
  size_t id = 0;                     // its place in Checkpoint::tensors()
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;       // of the part
  const std::byte* data = nullptr;  // of the part
  int64_t bytes = 0;                // of the part

  // "DIR/model-00001-of-00046.safetensors: tensor layers.0.attn.wq_a.weight", for messages.
  std::string where() const;
};

class Checkpoint {
 public:
  struct Tensor {
    const SafetensorsFile* file;
    const TensorInfo* info;
  };

  // Errors of one line: no index and no model.safetensors, an index that is not JSON or names a shard
  // that is absent or outside the folder, a tensor that its shard does not hold, and every complaint of
  // parse_safetensors_header. `notes` receives what is odd and harmless.
  static Result<Checkpoint> open(const std::string& dir, std::vector<std::string>& notes);

  // By official name; nullopt: the checkpoint has it under no name.
  std::optional<StoredTensor> find(std::string_view official_name) const;
  // Under exactly this name.
  bool has(std::string_view stored_name) const { return by_name_.count(stored_name) > 0; }

  const std::vector<Tensor>& tensors() const { return tensors_; }  // in index order; shards in file order
  const std::vector<std::shared_ptr<SafetensorsFile>>& files() const { return files_; }
  const std::string& listing() const {
    return listing_;
  }  // the index, or the one file: where a tensor is missed
  int64_t bytes() const;  // of all tensors

 private:
  Status open_shards(const std::string& dir, const std::string& index_path, std::vector<std::string>& notes);
  void add(const std::shared_ptr<SafetensorsFile>& file, const TensorInfo& info);

  std::string listing_;
  std::vector<std::shared_ptr<SafetensorsFile>> files_;
  std::vector<Tensor> tensors_;
  std::unordered_map<std::string_view, size_t> by_name_;  // keys point into the files' headers
};

// What predicts tokens ahead of the trunk in this checkpoint.
enum class DraftKind : uint8_t { kNone, kMtp, kDspark };

// A checkpoint with its config, read as far as headers go. config.num_mtp is 1 only for kMtp.
struct OpenedCheckpoint {
  ModelConfig config;
  Checkpoint checkpoint;
  DraftKind draft = DraftKind::kNone;
  ChatRevision revision = ChatRevision::kA;
  std::vector<std::string> notes;
};

// Reads DIR/config.json and the headers. Errors: those of parse_config and Checkpoint::open, and
// kUnsupported for a V4.1 checkpoint, recognised by its config or its tensors.
Result<OpenedCheckpoint> open_checkpoint(const std::string& dir);

}  // namespace kvasir
