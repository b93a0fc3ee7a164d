// Recording and replacing rows between modules; see tap.h.
#include "engine/tap.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>

namespace kvasir {

void Tap::inject(const std::string& name, std::vector<int64_t> positions, TapTensor data) {
  Injection& injection = injections_[name];
  for (size_t i = 0; i < positions.size(); ++i) injection.row_of_position[positions[i]] = static_cast<int64_t>(i);
  injection.data = std::move(data);
}

std::vector<std::string> Tap::unused_injections() const {
  std::vector<std::string> names;
  for (const auto& [name, injection] : injections_)
    if (!injection.used) names.push_back(name);
  return names;
}

void Tap::tensor(const std::string& name, View<float, 2> rows) {
  if (auto it = injections_.find(name); it != injections_.end()) {
    Injection& injection = it->second;
    injection.used = true;
    if (injection.data.columns != rows.shape(1)) {
      error_ = fmt::format("{}: the injected rows have {} values, the module takes {}", name, injection.data.columns, rows.shape(1));
      return;
    }
    for (int64_t i = 0; i < rows.shape(0); ++i) {
      auto row = injection.row_of_position.find(position_ + i);
      if (row == injection.row_of_position.end()) continue;
      std::memcpy(rows.row(i), &injection.data.f32[row->second * injection.data.columns], sizeof(float) * rows.shape(1));
    }
  }
  if (!recording_) return;
  TapTensor& out = tensors_[name];
  out.columns = rows.shape(1);
  for (int64_t i = 0; i < rows.shape(0); ++i) out.f32.insert(out.f32.end(), rows.row(i), rows.row(i) + rows.shape(1));
}

void Tap::indices(const std::string& name, View<const int32_t, 2> rows) {
  if (!recording_) return;
  TapTensor& out = tensors_[name];
  out.columns = rows.shape(1);
  for (int64_t i = 0; i < rows.shape(0); ++i) out.i32.insert(out.i32.end(), rows.row(i), rows.row(i) + rows.shape(1));
}

void tap_cache(Runner& runner, const Sequence& sequence, Tap& tap) {
  const ModelConfig& config = runner.model().config;
  const KvLayout& layout = runner.layout();
  int64_t length = sequence.length();
  for (int l = 0; l < config.num_layers; ++l) {
    std::string name = "layers." + std::to_string(l) + ".";
    LayerCache cache = layout.layer_cache(l, sequence.state(), sequence.pages());
    auto add = [&](const char* what, const KvRowFormat& format, const KvRows& rows, int64_t row) {
      TapTensor& out = tap[name + what];
      out.columns = format.dim;
      out.f32.resize(out.f32.size() + format.dim);
      decode_row(format, rows.row_data(format, row), rows.row_scale(format, row), &out.f32[out.f32.size() - format.dim]);
    };
    for (int64_t p = std::max<int64_t>(0, length - config.window); p < length; ++p)
      add("kv.window", layout.entry_format, cache.window, p % cache.window_capacity);
    int ratio = layout.layers[l].ratio;
    if (ratio == 0) continue;
    for (int64_t b = 0; b < length / ratio; ++b) {
      int64_t page = b / cache.entries.rows_per_page, slot = b % cache.entries.rows_per_page;
      add("kv.compressed", layout.entry_format, cache.entries.in_page(cache.pages[page]), slot);
      if (ratio == 4) add("indexer.keys", layout.key_format, cache.keys.in_page(cache.pages[page]), slot);
    }
  }
}

}  // namespace kvasir
