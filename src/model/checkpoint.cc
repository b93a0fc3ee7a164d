// Index, shards, and which kind of V4 checkpoint this is.
#include "model/checkpoint.h"

#include <fmt/core.h>
#include <unistd.h>

#include <filesystem>

#include "base/check.h"
#include "io/file.h"
#include "io/json.h"

namespace kvasir {
namespace {

constexpr JsonLimits kIndexLimits{64 << 20, 8};  // V4-Pro's index has 12 MB
constexpr int64_t kConfigMaxBytes = 1 << 20;
constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr const char* kSingleName = "model.safetensors";

bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

std::string join(const std::string& dir, std::string_view name) {
  return dir.ends_with('/') ? dir + std::string(name) : dir + "/" + std::string(name);
}

// A shard is a file in the folder itself: a name with a separator could leave it (a symbolic link may
// point elsewhere; model caches are laid out so).
bool plain_file_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

struct IndexedTensor {
  std::string_view name;  // points into the JSON document
  std::string_view shard;
};

Result<std::vector<IndexedTensor>> read_weight_map(const JsonDocument& json, const std::string& path) {
  auto bad = [&](std::string message) {
    return Error{ErrorCode::kInvalid, fmt::format("{}: {}", path, message)};
  };
  simdjson::dom::object root, map;
  simdjson::dom::element value;
  if (json.root().get(root)) return bad(fmt::format("{}, expected an object", json_kind(json.root())));
  if (root.at_key("weight_map").get(value)) return bad("missing key weight_map");
  if (value.get(map)) return bad(fmt::format("weight_map is {}, expected an object", json_kind(value)));
  std::vector<IndexedTensor> out;
  for (auto field : map) {
    std::string_view shard;
    if (field.value.get(shard)) {
      return bad(fmt::format("tensor {}: its shard is {}, expected a file name", printable(field.key),
                             json_kind(field.value)));
    }
    if (!plain_file_name(shard)) {
      return bad(fmt::format("tensor {}: shard \"{}\" is not a plain file name inside the folder",
                             printable(field.key), printable(shard)));
    }
    out.push_back({field.key, shard});
  }
  return out;
}

}  // namespace

std::string StoredTensor::where() const {
  return fmt::format("{}: tensor {}", file->file().path(), printable(info->name));
}

void Checkpoint::add(const std::shared_ptr<SafetensorsFile>& file, const TensorInfo& info) {
  by_name_.emplace(info.name, tensors_.size());
  tensors_.push_back({file.get(), &info});
}

int64_t Checkpoint::bytes() const {
  int64_t sum = 0;
  for (const Tensor& t : tensors_) sum += t.info->bytes;
  return sum;
}

Status Checkpoint::open_shards(const std::string& dir, const std::string& index_path,
                               std::vector<std::string>& notes) {
  KVASIR_TRY(std::string text, read_text_file(index_path, kIndexLimits.bytes));
  KVASIR_TRY(JsonDocument json, JsonDocument::parse(text, index_path, kIndexLimits));
  KVASIR_TRY(std::vector<IndexedTensor> indexed, read_weight_map(json, index_path));
  std::unordered_map<std::string_view, std::shared_ptr<SafetensorsFile>> shards;
  for (const IndexedTensor& t : indexed) {
    std::shared_ptr<SafetensorsFile>& shard = shards[t.shard];
    if (!shard) {
      std::string path = join(dir, t.shard);
      if (!exists(path)) {
        return Error{ErrorCode::kInvalid,
                     fmt::format("{}: shard {}, which should hold tensor {}, is not in the folder",
                                 index_path, printable(t.shard), printable(t.name))};
      }
      KVASIR_TRY(SafetensorsFile opened, SafetensorsFile::open(path));
      shard = std::make_shared<SafetensorsFile>(std::move(opened));
      files_.push_back(shard);
    }
    const TensorInfo* info = shard->find(t.name);
    if (!info) {
      return Error{ErrorCode::kInvalid, fmt::format("{}: tensor {}: not in this file, which {} names for it",
                                                    shard->file().path(), printable(t.name), kIndexName)};
    }
    if (has(t.name))
      return Error{ErrorCode::kInvalid,
                   fmt::format("{}: tensor {} appears twice", index_path, printable(t.name))};
    add(shard, *info);
  }
  size_t held = 0;
  for (const auto& file : files_) held += file->tensors().size();
  if (held > tensors_.size())
    notes.push_back(fmt::format("{}: {} tensors of the shards are not listed and not used", index_path,
                                held - tensors_.size()));
  int64_t total = 0;
  if (!json.root().at_key("metadata").at_key("total_size").get(total) && total != bytes()) {
    notes.push_back(
        fmt::format("{}: total_size is {}, and the tensors have {} bytes", index_path, total, bytes()));
  }
  return {};
}

Result<Checkpoint> Checkpoint::open(const std::string& dir, std::vector<std::string>& notes) {
  Checkpoint out;
  std::string index = join(dir, kIndexName), single = join(dir, kSingleName);
  if (exists(index)) {
    out.listing_ = index;
    KVASIR_TRY_STATUS(out.open_shards(dir, index, notes));
  } else if (exists(single)) {
    out.listing_ = single;
    KVASIR_TRY(SafetensorsFile opened, SafetensorsFile::open(single));
    out.files_.push_back(std::make_shared<SafetensorsFile>(std::move(opened)));
    for (const TensorInfo& info : out.files_[0]->tensors()) out.add(out.files_[0], info);
  } else {
    return Error{ErrorCode::kNotFound,
                 fmt::format("{}: no weights: neither {} nor {} is there", dir, kIndexName, kSingleName)};
  }
  for (const auto& file : out.files_) {
    if (file->header().unused_bytes > 0) {
      notes.push_back(
          fmt::format("{}: {} bytes belong to no tensor", file->file().path(), file->header().unused_bytes));
    }
  }
  return out;
}

std::optional<StoredTensor> Checkpoint::find(std::string_view official_name) const {
  auto stored = [&](size_t id) {
    const Tensor& t = tensors_[id];
    return StoredTensor{t.file,       t.info, id, t.info->dtype, t.info->shape, t.file->data(*t.info),
                        t.info->bytes};
  };
  if (auto it = by_name_.find(official_name); it != by_name_.end()) return stored(it->second);
  for (const StoredName& candidate : transformers_names(official_name)) {
    auto it = by_name_.find(candidate.name);
    if (it == by_name_.end()) continue;
    StoredTensor part = stored(it->second);
    if (candidate.part == StoredPart::kWhole) return part;
    // A fused tensor of the wrong rank or with too few experts is given whole: its shape then says so.
    if (part.shape.size() != 3 || candidate.expert >= part.shape[0]) return part;
    const bool half = candidate.part != StoredPart::kExpert;
    if (half && part.shape[1] % 2 != 0) return part;
    part.bytes /= part.shape[0];
    part.data += candidate.expert * part.bytes;
    part.shape.erase(part.shape.begin());
    if (half) {
      part.shape[0] /= 2;
      part.bytes /= 2;
      if (candidate.part == StoredPart::kExpertLastHalf) part.data += part.bytes;
    }
    return part;
  }
  return std::nullopt;
}

namespace {

// Looks at tensor names for what the config may not say. dspark.md 2: stages are recognised by
// mtp.0.main_proj; num_nextn_predict_layers still says 1 there.
Status classify(OpenedCheckpoint& opened, const std::string& dir) {
  const Checkpoint& checkpoint = opened.checkpoint;
  bool any_mtp = false;
  for (const Checkpoint::Tensor& t : checkpoint.tensors()) {
    const std::string& name = t.info->name;
    if (name.find("engram") != std::string::npos || name.find("markov_head.embed") != std::string::npos) {
      return Error{ErrorCode::kUnsupported,
                   fmt::format("{}: tensor {} belongs to DeepSeek-V4.1, which is not supported (another "
                               "architecture than V4)",
                               t.file->file().path(), printable(name))};
    }
    any_mtp = any_mtp || name.starts_with("mtp.");
  }
  ModelConfig& config = opened.config;
  const int asked = config.num_mtp;
  if (checkpoint.has("mtp.0.main_proj.weight")) {
    opened.draft = DraftKind::kDspark;
    opened.revision = ChatRevision::kB;
    config.num_mtp = 0;
    opened.notes.push_back(fmt::format(
        "{}: its DSpark draft blocks (mtp.*) are not used yet; the trunk is complete without them", dir));
  } else if (any_mtp && asked > 0) {
    opened.draft = DraftKind::kMtp;
    config.num_mtp = 1;
    if (asked > 1)
      opened.notes.push_back(fmt::format("{}: {} MTP blocks, of which the first is used", dir, asked));
  } else if (asked > 0) {
    config.num_mtp = 0;
    opened.notes.push_back(fmt::format("{}: no MTP tensors, so there is no MTP to draft with", dir));
  }
  std::string folder = std::filesystem::path(dir).lexically_normal().string();
  while (folder.ends_with('/')) folder.pop_back();
  folder = folder.substr(folder.rfind('/') + 1);
  if (folder.find("0731") != std::string::npos || folder.find("0813") != std::string::npos)
    opened.revision = ChatRevision::kB;
  return {};
}

}  // namespace

Result<OpenedCheckpoint> open_checkpoint(const std::string& dir) {
  OpenedCheckpoint opened;
  std::string config_path = join(dir, "config.json");
  KVASIR_TRY(std::string text, read_text_file(config_path, kConfigMaxBytes));
  KVASIR_TRY(opened.config, parse_config(text, config_path, opened.notes));
  KVASIR_TRY(opened.checkpoint, Checkpoint::open(dir, opened.notes));
  KVASIR_TRY_STATUS(classify(opened, dir));
  return opened;
}

}  // namespace kvasir
