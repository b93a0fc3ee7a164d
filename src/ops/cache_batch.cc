// A batched call seen one sequence at a time: how backends that compute on the host walk it.
#include "ops/attention.h"
#include "ops/compressor.h"
#include "ops/indexer.h"

namespace kvasir {

LayerCache LayerPlace::cache(std::byte* state, std::byte* const* pages) const {
  LayerCache c;
  c.window = {state + window_data, state + window_scale};
  c.window_capacity = window_capacity;
  if (ratio != 0) c.tail = reinterpret_cast<float*>(state + tail);
  if (ratio == 4) c.index_tail = reinterpret_cast<float*>(state + index_tail);
  c.tail_capacity = tail_capacity;
  c.pages = pages;
  c.entries = entries;
  c.keys = keys;
  return c;
}

CommitWindowSequence CommitWindowArgs::sequence(int64_t i) const {
  const CacheSequence& s = batch.sequences(i);
  LayerCache cache = place.cache(s.state, s.pages);
  KvRows own = {rows.row_data(format, s.span.first_row), rows.row_scale(format, s.span.first_row)};
  return {format, own, s.span.tokens, s.span.start, cache.window, cache.window_capacity};
}

AttendSequence AttendArgs::sequence(int64_t i) const {
  const CacheSequence& s = batch.sequences(i);
  LayerCache cache = place.cache(s.state, s.pages);
  AttendSequence a;
  a.q = q.rows(s.span.first_row, s.span.tokens);
  a.sink = sink;
  a.start = s.span.start;
  a.window = window;
  a.format = format;
  a.ring = cache.window;
  a.ring_capacity = cache.window_capacity;
  a.rows = {rows.row_data(format, s.span.first_row), rows.row_scale(format, s.span.first_row)};
  a.choice = choice;
  a.ratio = place.ratio;
  if (choice == EntryChoice::kSelected) a.selected = selected.rows(s.span.first_row, s.span.tokens);
  a.pages = cache.pages;
  a.entries = cache.entries;
  a.out = out.rows(s.span.first_row, s.span.tokens);
  return a;
}

CompressSequence CompressArgs::sequence(int64_t i) const {
  const CacheSequence& s = batch.sequences(i);
  LayerCache cache = place.cache(s.state, s.written_pages);
  bool entry = kind == CompressKind::kEntry;
  CompressSequence c;
  c.kind = kind;
  c.ratio = place.ratio;
  c.lanes = lanes;
  c.kv = kv.rows(s.span.first_row, s.span.tokens);
  c.score = score.rows(s.span.first_row, s.span.tokens);
  c.ape = ape;
  c.norm = norm;
  c.norm_eps = norm_eps;
  c.inv_freq = inv_freq;
  c.start = s.span.start;
  c.tail = entry ? cache.tail : cache.index_tail;
  c.tail_capacity = cache.tail_capacity;
  c.format = format;
  c.pages = cache.pages;
  c.section = entry ? cache.entries : cache.keys;
  return c;
}

IndexSelectSequence IndexSelectArgs::sequence(int64_t i) const {
  const CacheSequence& s = batch.sequences(i);
  return {q.rows(s.span.first_row, s.span.tokens),
          weight.rows(s.span.first_row, s.span.tokens),
          s.span.start,
          place.ratio,
          format,
          s.pages,
          place.keys,
          selected.rows(s.span.first_row, s.span.tokens)};
}

}  // namespace kvasir
