// Sums over the tensor table and over what the files hold.
#include "model/inspection.h"

#include <fmt/core.h>
#include <unistd.h>

#include <cctype>
#include <unordered_map>

#include "io/file.h"
#include "model/tensor_match.h"

namespace kvasir {
namespace {

void count_entry(const TensorEntry& e, const Amount& amount, const ModelConfig& c, Inventory& out) {
  if (e.layer == c.num_layers) {
    out.mtp += amount;
    return;
  }
  out.trunk += amount;
  out.parts[static_cast<size_t>(e.part)] += amount;
  switch (e.part) {
    case Part::kEmbedding:
      out.active_embed += e.parameters();
      break;
    case Part::kHead:
      out.active_head += e.parameters();
      out.read_per_token += amount.bytes;
      break;
    case Part::kExperts:
      break;  // a share of all of them, below
    default:
      if (e.kind == TensorKind::kTokenTable) break;  // a lookup
      out.active_blocks += e.parameters();
      out.read_per_token += amount.bytes;
  }
}

void finish(const ModelConfig& c, Inventory& out) {
  const Amount& experts = out.parts[static_cast<size_t>(Part::kExperts)];
  out.active_blocks += experts.parameters / c.num_experts * c.experts_per_token;
  out.read_per_token += experts.bytes / c.num_experts * c.experts_per_token;
}

// "layers.12.ffn.experts.3.w1.weight" -> "layers.*.ffn.experts.*.w1.weight"; w1 and mtp.0 lose nothing:
// only whole dotted parts are numbers.
std::string pattern_of(std::string_view name) {
  std::string out;
  while (!name.empty()) {
    size_t end = std::min(name.find('.'), name.size());
    std::string_view part = name.substr(0, end);
    bool number = !part.empty();
    for (char ch : part) number = number && std::isdigit(static_cast<unsigned char>(ch));
    out += number ? "*" : printable(part);
    if (end < name.size()) out += '.';
    name.remove_prefix(std::min(end + 1, name.size()));
  }
  return out;
}

void group_tensors(const Checkpoint& checkpoint, std::vector<TensorGroup>& groups) {
  std::unordered_map<std::string, size_t> index;
  for (const Checkpoint::Tensor& t : checkpoint.tensors()) {
    std::string pattern = pattern_of(t.info->name);
    std::string key = fmt::format("{}|{}|{}", pattern, dtype_name(t.info->dtype), shape_text(t.info->shape));
    auto [it, added] = index.emplace(std::move(key), groups.size());
    if (added) groups.push_back({std::move(pattern), t.info->dtype, t.info->shape, 0, 0});
    TensorGroup& group = groups[it->second];
    group.count += 1;
    group.bytes += t.info->bytes;
  }
}

// Matches every entry; tells what does not match instead of stopping there.
void match_all(const OpenedCheckpoint& opened, Inspection& out) {
  Model model;
  model.config = opened.config;
  shape_model(model);
  std::vector<bool> used(opened.checkpoint.tensors().size(), false);
  for (const TensorEntry& e : list_tensors(model)) {
    auto found = match_tensor(e, opened.checkpoint);
    if (!found) {
      out.problems.push_back(found.error().message);
      if (auto seen = opened.checkpoint.find(e.name)) used[seen->id] = true;  // V4 has it, if not like this
      continue;
    }
    Amount amount{1, found->weight.bytes, e.parameters()};
    used[found->weight.id] = true;
    out.inventory.by_dtype[found->weight.dtype] += {1, found->weight.bytes, 0};
    if (found->scale) {
      amount += {1, found->scale->bytes, 0};
      used[found->scale->id] = true;
      out.inventory.by_dtype[found->scale->dtype] += {1, found->scale->bytes, 0};
    }
    if (e.kind == TensorKind::kExpertMatrix) out.expert_formats[found->format] += 1;
    count_entry(e, amount, opened.config, out.inventory);
  }
  finish(opened.config, out.inventory);
  for (size_t i = 0; i < used.size(); ++i) {
    const TensorInfo& info = *opened.checkpoint.tensors()[i].info;
    bool draft = info.name.starts_with("mtp.");
    if (draft) out.draft_blocks += {1, info.bytes, 0};
    if (!used[i] && !(draft && opened.draft == DraftKind::kDspark)) out.unknown += {1, info.bytes, 0};
  }
}

}  // namespace

Inventory official_inventory(const ModelConfig& config) {
  Model model;
  model.config = config;
  shape_model(model);
  Inventory out;
  for (const TensorEntry& e : list_tensors(model)) {
    StoredShape weight = official_weight(e);
    Amount amount{1, weight.bytes(), e.parameters()};
    out.by_dtype[weight.dtype] += {1, weight.bytes(), 0};
    if (e.kind == TensorKind::kFp8Matrix || e.kind == TensorKind::kExpertMatrix) {
      StoredShape scale = e.kind == TensorKind::kFp8Matrix ? tile_scale(e) : group_scale(e);
      amount += {1, scale.bytes(), 0};
      out.by_dtype[scale.dtype] += {1, scale.bytes(), 0};
    }
    count_entry(e, amount, config, out);
  }
  finish(config, out);
  return out;
}

Inspection inspect_checkpoint(const OpenedCheckpoint& opened, const std::string& dir) {
  Inspection out;
  out.dir = dir;
  out.config = opened.config;
  out.draft = opened.draft;
  out.revision = opened.revision;
  out.notes = opened.notes;
  out.has_tokenizer = access((dir + "/tokenizer.json").c_str(), R_OK) == 0;
  out.files = static_cast<int64_t>(opened.checkpoint.files().size());
  for (const Checkpoint::Tensor& t : opened.checkpoint.tensors()) {
    Amount amount{1, t.info->bytes, 0};
    out.stored += amount;
    out.by_dtype[t.info->dtype] += amount;
  }
  group_tensors(opened.checkpoint, out.groups);
  match_all(opened, out);
  return out;
}

}  // namespace kvasir
