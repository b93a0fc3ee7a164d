// Calls an op for one sequence whose cache lies wherever a test or a bench has put it; host backends only.
#pragma once

#include <vector>

#include "ops/ops.h"

namespace kvasir {

// The batch of one sequence. Offsets count from the first piece of memory given, which serves as the state.
class OneSequence {
 public:
  OneSequence(int64_t tokens, int64_t start, std::byte* state, std::byte* const* pages) : rows_(static_cast<size_t>(tokens), 0) {
    sequence_ = {{0, tokens, start}, state, pages, pages};
  }
  CacheBatch batch() const {
    return {{&sequence_, {1}}, {rows_.data(), {sequence_.span.tokens}}, sequence_.span.tokens, sequence_.span.start + sequence_.span.tokens};
  }
  // `p` as an offset of the state.
  int64_t offset(const void* p) const {
    return p ? static_cast<int64_t>(reinterpret_cast<intptr_t>(p) - reinterpret_cast<intptr_t>(sequence_.state)) : 0;
  }

 private:
  CacheSequence sequence_;
  std::vector<int32_t> rows_;
};

inline void attend(Ops& ops, const AttendSequence& a) {
  OneSequence one(a.q.shape(0), a.start, a.ring.data, a.pages);
  AttendArgs args{a.q, a.sink, one.batch(), {}, a.window, a.format, a.rows, a.choice, a.selected, a.out};
  args.place.ratio = a.ratio;
  args.place.window_capacity = a.ring_capacity;
  args.place.window_scale = one.offset(a.ring.scale);
  args.place.entries = a.entries;
  ops.attend(args);
}

inline void compress(Ops& ops, const CompressSequence& a) {
  OneSequence one(a.kv.shape(0), a.start, reinterpret_cast<std::byte*>(a.tail), a.pages);
  CompressArgs args{a.kind, a.lanes, a.kv, a.score, a.ape, a.norm, a.norm_eps, a.inv_freq, one.batch(), {}, a.format};
  args.place.ratio = a.ratio;
  args.place.tail_capacity = a.tail_capacity;
  (a.kind == CompressKind::kEntry ? args.place.entries : args.place.keys) = a.section;
  ops.compress(args);
}

inline void index_select(Ops& ops, const IndexSelectSequence& a) {
  OneSequence one(a.q.shape(0), a.start, nullptr, a.pages);
  IndexSelectArgs args{a.q, a.weight, one.batch(), {}, a.format, a.selected};
  args.place.ratio = a.ratio;
  args.place.keys = a.keys;
  ops.index_select(args);
}

}  // namespace kvasir
