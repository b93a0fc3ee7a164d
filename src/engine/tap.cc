// Recording and replacing rows between modules; see tap.h.
#include "engine/tap.h"

#include <fmt/core.h>

#include <algorithm>

namespace kvasir {
namespace {

constexpr int64_t kFloat = sizeof(float);

// Appends the rows of a view to `out`.
template <class T, class Out>
void fetch(Memory& memory, View<T, 2> rows, std::vector<Out>& out) {
  for (int64_t i = 0; i < rows.shape(0); ++i) {
    size_t at = out.size();
    out.resize(at + static_cast<size_t>(rows.shape(1)));
    memory.read(&out[at], rows.row(i), rows.shape(1) * static_cast<int64_t>(sizeof(Out)));
  }
}

}  // namespace

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
      memory_->write(rows.row(i), &injection.data.f32[row->second * injection.data.columns], kFloat * rows.shape(1));
    }
  }
  if (!recording_) return;
  TapTensor& out = tensors_[name];
  out.columns = rows.shape(1);
  fetch(*memory_, rows, out.f32);
}

void Tap::indices(const std::string& name, View<const int32_t, 2> rows) {
  if (!recording_) return;
  TapTensor& out = tensors_[name];
  out.columns = rows.shape(1);
  fetch(*memory_, rows, out.i32);
}

void tap_cache(Runner& runner, const Sequence& sequence, Tap& tap) {
  const ModelConfig& config = runner.model().config;
  const KvLayout& layout = runner.layout();
  int64_t length = sequence.length();
  auto host = [&](std::byte* there, int64_t bytes) { return HostBytes(sequence.memory(), there, bytes, HostBytes::Content::kFetch); };
  HostBytes state = host(sequence.state(), layout.state_bytes);
  std::vector<HostBytes> pages;
  for (int64_t i = 0; i < KvLayout::pages_for(length); ++i) pages.push_back(host(sequence.page(i), layout.page_bytes));
  for (int l = 0; l < config.num_layers; ++l) {
    std::string name = "layers." + std::to_string(l) + ".";
    LayerCache cache = layout.layers[l].cache(state.data(), nullptr);
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
      add("kv.compressed", layout.entry_format, cache.entries.in_page(pages[page].data()), slot);
      if (ratio == 4) add("indexer.keys", layout.key_format, cache.keys.in_page(pages[page].data()), slot);
    }
  }
}

}  // namespace kvasir
