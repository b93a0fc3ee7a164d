// Offsets of every layer in the state and in a page; see kv_layout.h.
#include "model/kv_layout.h"

#include <xxhash.h>

#include "base/check.h"

namespace kvasir {
namespace {

int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// Takes `bytes` from a growing total, 64-byte aligned, and returns their offset.
int64_t take(int64_t& total, int64_t bytes) {
  int64_t at = total;
  total += aligned(bytes);
  return at;
}

// Floats of one compressor tail: kv and z of lanes*d channels for every ring row.
int64_t tail_bytes(int64_t capacity, int lanes, int d) {
  return capacity * 2 * lanes * d * static_cast<int64_t>(sizeof(float));
}

}  // namespace

KvLayout KvLayout::make(const ModelConfig& c, Numerics numerics) {
  KvLayout l;
  l.entry_format = KvRowFormat::entry(numerics, c.head_dim, c.rope_dim);
  l.key_format = KvRowFormat::index_key(numerics, c.index_dim);
  l.window_capacity = c.window + kRollbackSlack;
  l.layers.resize(c.num_layers + 1);
  int64_t hca_layers = 0;
  for (int i = 0; i < c.num_layers; ++i) hca_layers += c.compress_ratio(i) == kPageTokens;
  // First, since the first CSA layers to be computed have HCA layers between them: a page read front to back serves
  // every layer in time.
  int64_t hca_data = take(l.page_bytes, hca_layers * l.entry_format.data_bytes);
  int64_t hca_scale = take(l.page_bytes, hca_layers * l.entry_format.scale_bytes);
  for (int i = 0; i <= c.num_layers; ++i) {
    LayerPlace& y = l.layers[i];
    y.window_capacity = l.window_capacity;
    y.ratio = i < c.num_layers ? c.compress_ratio(i) : 0;
    y.window_data = take(l.state_bytes, l.window_capacity * l.entry_format.data_bytes);
    y.window_scale = take(l.state_bytes, l.window_capacity * l.entry_format.scale_bytes);
    int lanes = y.ratio == 4 ? 2 : 1;
    if (y.ratio == 0) continue;
    y.tail_capacity = lanes * y.ratio + kRollbackSlack;
    y.tail = take(l.state_bytes, tail_bytes(y.tail_capacity, lanes, c.head_dim));
    y.entries.rows_per_page = kPageTokens / y.ratio;
    if (y.ratio == 4) {
      y.index_tail = take(l.state_bytes, tail_bytes(y.tail_capacity, lanes, c.index_dim));
      y.keys.rows_per_page = kPageTokens / y.ratio;
      y.entries.data_offset = take(l.page_bytes, y.entries.rows_per_page * l.entry_format.data_bytes);
      y.entries.scale_offset = take(l.page_bytes, y.entries.rows_per_page * l.entry_format.scale_bytes);
      y.keys.data_offset = take(l.page_bytes, y.keys.rows_per_page * l.key_format.data_bytes);
      y.keys.scale_offset = take(l.page_bytes, y.keys.rows_per_page * l.key_format.scale_bytes);
    } else {
      KVASIR_CHECK(y.ratio == kPageTokens, "compress_ratio {} of layer {}", y.ratio, i);
      y.entries.data_offset = hca_data;
      y.entries.scale_offset = hca_scale;
      hca_data += l.entry_format.data_bytes;
      hca_scale += l.entry_format.scale_bytes;
    }
  }
  return l;
}

std::vector<int64_t> KvLayout::section_bytes() const {
  std::vector<int64_t> ends;
  for (const LayerPlace& y : layers)
    if (y.ratio == 4) ends.push_back(y.entries.data_offset);
  // Each section reaches to the start of the next; a model without HCA layers has no first one.
  if (ends.empty() || ends.front() != 0) ends.insert(ends.begin(), 0);
  ends.push_back(page_bytes);
  std::vector<int64_t> bytes;
  for (size_t i = 0; i + 1 < ends.size(); ++i)
    if (ends[i + 1] > ends[i]) bytes.push_back(ends[i + 1] - ends[i]);
  return bytes;
}

uint64_t KvLayout::fingerprint() const {
  std::vector<int64_t> all = {entry_format.data_bytes, entry_format.scale_bytes, key_format.data_bytes, key_format.scale_bytes,
                              window_capacity, page_bytes, state_bytes, kPageTokens};
  for (const LayerPlace& y : layers) {
    all.insert(all.end(), {y.ratio, y.window_data, y.window_scale, y.tail, y.index_tail, y.tail_capacity, y.entries.data_offset,
                           y.entries.scale_offset, y.keys.data_offset, y.keys.scale_offset});
  }
  return XXH3_64bits(all.data(), all.size() * sizeof(int64_t));
}

}  // namespace kvasir
