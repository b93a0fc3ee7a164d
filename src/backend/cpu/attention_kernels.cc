// Attention of one block of rows, over tiles of decoded keys: S = Q K^T, online softmax, O += P V.
//
// A tile's keys are decoded once and laid out twice: transposed for S (lanes are keys) and as rows (pairs of
// rows for bf16) for O (lanes are dims), so both products are the same loop and need no horizontal sums.
// Masked keys get p = 0 and contribute exactly nothing, which lets queries share a tile whose edges they do
// not share. Threading: none; scratch belongs to the caller's worker.
#include "backend/cpu/attention_kernels.h"

#include "backend/cpu/attention_gemm.h"
#include "backend/cpu/simd_codec.h"

namespace kvasir::cpu::KVASIR_ISA {
namespace {

// Of the summed dimension: 128 x 256 B of keys stay in the first cache. AMX keeps sums where they are.
constexpr int64_t kScoreSteps = KVASIR_ISA_IS_AMX ? 1 << 20 : 128;
constexpr float kMinusInfinity = -__builtin_inff();

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

int64_t padded(int64_t dim) { return round_up(dim, 32); }

struct Workspace {
  int64_t padded_dim;
  uint32_t* q;       // [rows][units]
  float* scores;     // [rows][kKeyTile]
  uint32_t* p;       // [rows][kKeyTile] or pairs
  float* rescale;    // [rows]
  float* row_keys;   // [kKeyTile][row_stride()] f32, or bf16 in half of it
  uint32_t* keys;    // [units][kKeyTile]
  uint32_t* values;  // bf16 only: [kKeyTile / 2][row_stride()] pairs
  AttendPartial main, segment;
  AttendPartial top;  // kNative: stats[0] is the row's maximum over all its keys; no sums

  int64_t row_stride() const { return padded_dim + 16; }  // 16: rows do not fall on the same cache sets
};

struct Carver {
  std::byte* at;
  template <class T>
  T* take(int64_t count) {
    T* p = reinterpret_cast<T*>(at);
    at += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return p;
  }
};

Workspace carve(std::byte* scratch, int64_t rows, int64_t dim, int64_t* bytes) {
  Workspace w{};
  w.padded_dim = padded(dim);
  Carver c{scratch};
  w.q = c.take<uint32_t>(rows * w.padded_dim);
  w.scores = c.take<float>(rows * kKeyTile);
  w.p = c.take<uint32_t>(rows * kKeyTile);
  w.rescale = c.take<float>(rows);
  w.row_keys = c.take<float>(kKeyTile * w.row_stride());
  w.keys = c.take<uint32_t>(kKeyTile * w.padded_dim);
  w.values = c.take<uint32_t>(kKeyTile / 2 * w.row_stride());
  w.main = {c.take<float>(2 * rows), c.take<float>(rows * w.padded_dim)};
  w.segment = {c.take<float>(2 * rows), c.take<float>(rows * w.padded_dim)};
  w.top = {c.take<float>(2 * rows), nullptr};
  if (bytes != nullptr) *bytes = c.at - scratch;
  return w;
}

struct Row {
  const uint8_t* data = nullptr;
  const uint8_t* scale = nullptr;
};

Row row_of(const AttendCall& call, const KvRows& rows, int64_t r) {
  return {reinterpret_cast<const uint8_t*>(rows.data) + r * call.data_bytes,
          reinterpret_cast<const uint8_t*>(rows.scale) + r * call.scale_bytes};
}

Row window_row(const AttendCall& call, int64_t token) {
  return token < call.start ? row_of(call, call.ring, token % call.ring_capacity)
                            : row_of(call, call.rows, token - call.start);
}

Row entry_row(const AttendCall& call, int64_t entry) {
  std::byte* page = call.pages[entry / call.entries.rows_per_page];
  KvRows rows{page + call.entries.data_offset, page + call.entries.scale_offset};
  return row_of(call, rows, entry % call.entries.rows_per_page);
}

// Which list a tile's keys are numbers of.
enum class Keys { kWindow, kEntries, kSelected };

Row key_row(const AttendCall& call, Keys keys, int64_t query, int64_t number) {
  switch (keys) {
    case Keys::kWindow:
      return window_row(call, number);
    case Keys::kEntries:
      return entry_row(call, number);
    case Keys::kSelected:
      return entry_row(call, call.selected[query * call.selected_row + number]);
  }
  return {};
}

// Key numbers [begin, end) that a query sees in the list; for kSelected numbers count its own list.
struct Range {
  int64_t begin, end;
};

Range visible(const AttendCall& call, Keys keys, int64_t query) {
  int64_t position = call.start + query;
  if (keys == Keys::kWindow) return {larger(0, position - call.window + 1), position + 1};
  return {0, call.counts[query]};
}

// kNative rounds p = e^(s - m) to bf16, so m must be the maximum over all keys before the first p is made:
// one pass finds it, the next one sums. Otherwise m is the maximum so far, and one pass does.
enum class Pass { kMaximum, kSums };

template <class Unit>
struct Attend {
  static constexpr bool kPairs = Unit::kValues == 2;
  const AttendCall& call;
  Workspace w;
  Pass pass = Pass::kSums;

  int64_t units() const { return w.padded_dim / Unit::kValues; }

  void load_query(const AttendBlock& block) const {
    int64_t row = 0;
    for (int64_t t = block.q0; t < block.q1; ++t) {
      for (int h = block.h0; h < block.h1; ++h, ++row) {
        const float* x = call.q + t * call.q_token + h * call.q_head;
        uint32_t* out = w.q + row * units();
        if constexpr (kPairs) {
          store_query_pairs(x, reinterpret_cast<uint16_t*>(out));
        } else {
          __builtin_memcpy(out, x, 4 * call.dim);
          __builtin_memset(out + call.dim, 0, 4 * (w.padded_dim - call.dim));
        }
      }
    }
  }

  void store_query_pairs(const float* x, uint16_t* out) const {
#if defined(__AVX512BF16__)
    for (int64_t i = 0; i < w.padded_dim; i += kLanes) {
      float tail[kLanes] = {};
      for (int64_t j = i; i + kLanes > call.dim && j < call.dim; ++j) tail[j - i] = x[j];
      store_bf16_factor(out + i, load(i + kLanes <= call.dim ? x + i : tail));
    }
#else
    (void)x;
    (void)out;
#endif
  }

  void decode(const Row& row, int64_t column) const {
    if constexpr (kPairs) {
      auto* out = reinterpret_cast<uint16_t*>(w.row_keys) + column * w.row_stride();
      if (row.data == nullptr) {
        __builtin_memset(out, 0, 2 * w.padded_dim);
        return;
      }
#if defined(__AVX512BF16__)
      decode_entry_bf16(row.data, row.scale, call.nope, call.rope, out);
#endif
      __builtin_memset(out + call.dim, 0, 2 * (w.padded_dim - call.dim));
    } else {
      float* out = w.row_keys + column * w.row_stride();
      if (row.data == nullptr) {
        __builtin_memset(out, 0, 4 * w.padded_dim);
        return;
      }
      if (call.quantised) {
        decode_entry(row.data, row.scale, call.nope, call.rope, out);
      } else {
        __builtin_memcpy(out, row.data, 4 * call.dim);
      }
      __builtin_memset(out + call.dim, 0, 4 * (w.padded_dim - call.dim));
    }
  }

  // Reads a byte of every cache line of a tile's rows: selected entries lie anywhere in the pages, and loads
  // that wait for nothing but each other's memory fetch them several times as fast as decoding row after row
  // does. (Prefetches, a tile ahead or just before, did not.)
  void touch(Keys keys, int64_t query, int64_t begin, int64_t end) const {
    uint32_t sum = 0;
    for (int64_t number = begin; number < end; ++number) {
      Row row = key_row(call, keys, query, number);
      for (int64_t i = 0; i < call.data_bytes; i += 64) sum += row.data[i];
      if (call.scale_bytes > 0) sum += row.scale[0];
    }
    __asm__ volatile("" : : "r"(sum));
  }

  // Decodes columns [lo, hi) of the tile at `base` and lays them out for both products; columns up to the
  // next multiple of kKeyEdge on either side become zero.
  void load_tile(Keys keys, int64_t query, int64_t base, int64_t lo, int64_t hi) const {
    int64_t first = lo / kKeyEdge * kKeyEdge, last = round_up(hi, kKeyEdge);
    if (keys == Keys::kSelected) touch(keys, query, base + lo, base + hi);
    for (int64_t c = first; c < last; ++c)
      decode(c >= lo && c < hi ? key_row(call, keys, query, base + c) : Row{}, c);
    auto* rows = reinterpret_cast<const uint32_t*>(w.row_keys);
    int64_t stride = w.row_stride() / Unit::kValues;
    for (int64_t c = first; c < last; c += kLanes) {
      for (int64_t u = 0; u < units(); u += kLanes) {
        I32 square[kLanes];
        for (int i = 0; i < kLanes; ++i) square[i] = load_as<I32>(rows + (c + i) * stride + u);
        transpose(square);
        for (int i = 0; i < kLanes; ++i)
          __builtin_memcpy(w.keys + (u + i) * kKeyTile + c, &square[i], sizeof(I32));
      }
    }
#if defined(__AVX512BF16__)
    if constexpr (kPairs) {
      auto* half = reinterpret_cast<const uint16_t*>(w.row_keys);
      for (int64_t c = first; c < last; c += 2)
        weave_rows(half + c * w.row_stride(), half + (c + 1) * w.row_stride(), w.padded_dim,
                   w.values + c / 2 * w.row_stride());
    }
#endif
  }

  // One row's tile: stats and p from its scores; columns outside [see.begin, see.end) get p = 0.
  void softmax_row(int64_t row, int64_t first, int64_t last, Range see, float scale, float* stats) const {
    constexpr int kVectors = kKeyTile / kLanes;
    const float* s = w.scores + row * kKeyTile;
    F32 v[kVectors];
    F32 top = splat(kMinusInfinity);
    I32 column = lane_numbers() + splat(static_cast<int32_t>(first));
    int n = static_cast<int>((last - first) / kLanes);
    for (int i = 0; i < n; ++i, column += kLanes) {
      v[i] = load(s + first + i * kLanes) * splat(scale);
      I32 seen = (column >= static_cast<int32_t>(see.begin)) & (column < static_cast<int32_t>(see.end));
      v[i] = select(seen, v[i], splat(kMinusInfinity));
      top = max(top, v[i]);
    }
    float before = stats[0], m = max_of(top);
    m = m > before ? m : before;
    if (pass == Pass::kMaximum) {
      stats[0] = m;
      return;
    }
    float rescale = 1.f;
    if (m != before && before != kMinusInfinity) {
      rescale = exp(splat(before - m))[0];
      stats[1] *= rescale;
    }
    F32 total = splat(0.f);
    for (int i = 0; i < n; ++i) {
      F32 p =
          exp(v[i] - splat(m));  // e^-infinity is 0; every tile that gets here has a visible key in this row
      total += store_weight(row, first + i * kLanes, p);
    }
    stats[0] = m;
    stats[1] += sum(total);
    w.rescale[row] = rescale;
  }

  // Stores p for the second product and returns what counts in the denominator: kNative sums the f32 weights
  // as the official kernel does; kFast sums the rounded ones, so that rounding cannot change the total
  // weight.
  F32 store_weight(int64_t row, int64_t column, F32 p) const {
#if defined(__AVX512BF16__)
    if constexpr (kPairs) {
      F32 stored = store_bf16_factor(reinterpret_cast<uint16_t*>(w.p) + row * kKeyTile + column, p);
      return call.numerics == Numerics::kNative ? p : stored;
    }
#endif
    F32 rounded = call.numerics == Numerics::kExact ? p : round_bf16(p);
    __builtin_memcpy(w.p + row * kKeyTile + column, &rounded, sizeof rounded);
    return call.numerics == Numerics::kNative ? p : rounded;
  }

  void skip_row(int64_t row, int64_t first, int64_t last) const {
    __builtin_memset(
        reinterpret_cast<std::byte*>(w.p + row * (kKeyTile / Unit::kValues)) + first * (4 / Unit::kValues), 0,
        (last - first) * (4 / Unit::kValues));
    w.rescale[row] = 1.f;
  }

  // Rows [row0, row0 + rows) against the keys of the tile at `base`, columns [lo, hi); queries [q0, q1).
  void tile(Keys keys, const AttendBlock& block, int64_t row0, int64_t base, int64_t lo, int64_t hi,
            bool fresh, const AttendPartial& out) const {
    int64_t first = lo / kKeyEdge * kKeyEdge, last = round_up(hi, kKeyEdge), rows = block.rows();
    for (int64_t k = 0; k < units(); k += kScoreSteps) {
      Product s{w.q + row0 * units() + k,
                units(),
                w.keys + k * kKeyTile + first,
                kKeyTile,
                w.scores + row0 * kKeyTile + first,
                kKeyTile,
                nullptr};
      product<Unit>(s, rows, last - first, smaller(kScoreSteps, units() - k),
                    k == 0 ? From::kZero : From::kC);
    }
    float scale = 1.f / __builtin_sqrtf(static_cast<float>(call.dim));
    int64_t row = row0;
    for (int64_t t = block.q0; t < block.q1; ++t) {
      Range see = visible(call, keys, t);
      see = {larger(see.begin - base, lo), smaller(see.end - base, hi)};
      for (int h = block.h0; h < block.h1; ++h, ++row) {
        if (see.begin < see.end) {
          softmax_row(row, first, last, see, scale, out.stats + 2 * row);
        } else if (pass == Pass::kSums) {
          skip_row(row, first, last);
        }
      }
    }
    if (pass == Pass::kMaximum) return;
    int64_t lda = kKeyTile / Unit::kValues, k0 = first / Unit::kValues;
    const uint32_t* v = kPairs ? w.values : reinterpret_cast<const uint32_t*>(w.row_keys);
    Product o{w.p + row0 * lda + k0,          lda,          v + k0 * w.row_stride(), w.row_stride(),
              out.sums + row0 * w.padded_dim, w.padded_dim, w.rescale + row0};
    product<Unit>(o, rows, w.padded_dim, (last - first) / Unit::kValues,
                  fresh ? From::kZero : From::kScaledC);
  }

  // All tiles of keys [begin, end) of the list for rows from row0 on, into `out` (fresh).
  void tiles(Keys keys, const AttendBlock& block, int64_t row0, int64_t begin, int64_t end,
             const AttendPartial& out) const {
    for (int64_t row = row0; row < row0 + block.rows() && pass == Pass::kSums; ++row) {
      bool known = call.numerics == Numerics::kNative && begin < end;
      out.stats[2 * row] = known ? w.top.stats[2 * row] : kMinusInfinity;
      out.stats[2 * row + 1] = 0.f;
    }
    bool fresh = true;
    for (int64_t base = begin / kKeyTile * kKeyTile; base < end; base += kKeyTile, fresh = false) {
      int64_t lo = larger(begin - base, 0), hi = smaller(end - base, kKeyTile);
      load_tile(keys, block.q0, base, lo, hi);
      tile(keys, block, row0, base, lo, hi, fresh, out);
    }
  }

  void segment(const AttendBlock& block, int64_t segment, const AttendPartial& out) const {
    if (segment == 0) {
      Range first = visible(call, Keys::kWindow, block.q0);
      tiles(Keys::kWindow, block, 0, first.begin, call.start + block.q1, out);
      return;
    }
    int64_t begin = (segment - 1) * kSegmentKeys;
    if (call.choice == EntryChoice::kAll) {
      tiles(Keys::kEntries, block, 0, begin, smaller(begin + kSegmentKeys, call.counts[block.q1 - 1]), out);
      return;
    }
    for (int64_t t = block.q0; t < block.q1; ++t) {
      AttendBlock one{t, t + 1, block.h0, block.h1};
      tiles(Keys::kSelected, one, (t - block.q0) * one.rows(), begin,
            smaller(begin + kSegmentKeys, call.counts[t]), out);
    }
  }

  // into <- into + from, where from is a later segment's result of the same rows.
  void merge(int64_t rows, const AttendPartial& from, const AttendPartial& into) const {
    for (int64_t row = 0; row < rows; ++row) {
      float a = into.stats[2 * row], b = from.stats[2 * row];
      if (b == kMinusInfinity) continue;
      float m = a > b ? a : b;
      F32 x = exp(splat(a - m)), y = exp(splat(b - m));
      into.stats[2 * row] = m;
      into.stats[2 * row + 1] = into.stats[2 * row + 1] * x[0] + from.stats[2 * row + 1] * y[0];
      float* o = into.sums + row * w.padded_dim;
      const float* p = from.sums + row * w.padded_dim;
      for (int64_t i = 0; i < w.padded_dim; i += kLanes) store(o + i, fma(load(p + i), y, load(o + i) * x));
    }
  }

  // Adds the sink to the denominators, once, and writes the block's rows.
  void finish(const AttendBlock& block, const AttendPartial& done) const {
    int64_t row = 0;
    for (int64_t t = block.q0; t < block.q1; ++t) {
      for (int h = block.h0; h < block.h1; ++h, ++row) {
        float m = done.stats[2 * row], l = done.stats[2 * row + 1];
        F32 inverse = splat(1.f / (l + exp(splat(call.sink[h] - m))[0]));
        float* o = done.sums + row * w.padded_dim;
        float* out = call.out + t * call.out_token + h * call.out_head;
        int64_t i = 0;
        auto result = [&] {
          F32 v = load(o + i) * inverse;
          return call.numerics == Numerics::kNative ? round_bf16(v) : v;
        };
        for (; i + kLanes <= call.dim; i += kLanes) store(out + i, result());
        if (i == call.dim) continue;
        store(o + i, result());
        __builtin_memcpy(out + i, o + i, 4 * (call.dim - i));
      }
    }
  }
};

// Calls fn with the Attend that computes this call.
template <class Fn>
void with_unit(const AttendCall& call, const Workspace& w, Fn fn) {
#if defined(__AVX512BF16__)
  if (call.numerics != Numerics::kExact && call.quantised) {
    fn(Attend<UnitBf16>{call, w});
    return;
  }
#endif
  fn(Attend<UnitF32>{call, w});
}

int64_t segments_of(const AttendCall& call, const AttendBlock& block) {
  int64_t most = 0;
  for (int64_t t = block.q0; t < block.q1; ++t) most = larger(most, call.counts[t]);
  return 1 + (most + kSegmentKeys - 1) / kSegmentKeys;
}

void attend(const AttendCall& call, const AttendBlock& block, std::byte* scratch) {
  Workspace w = carve(scratch, block.rows(), call.dim, nullptr);
  with_unit(call, w, [&](const auto& a) {
    a.load_query(block);
    if (call.numerics == Numerics::kNative) {
      for (int64_t row = 0; row < block.rows(); ++row) w.top.stats[2 * row] = kMinusInfinity;
      auto maximum = a;
      maximum.pass = Pass::kMaximum;
      for (int64_t s = 0; s < segments_of(call, block); ++s) maximum.segment(block, s, w.top);
    }
    a.segment(block, 0, w.main);
    for (int64_t s = 1; s < segments_of(call, block); ++s) {
      a.segment(block, s, w.segment);
      a.merge(block.rows(), w.segment, w.main);
    }
    a.finish(block, w.main);
  });
}

void attend_segment(const AttendCall& call, const AttendBlock& block, int64_t segment,
                    const AttendPartial& partial, std::byte* scratch) {
  Workspace w = carve(scratch, block.rows(), call.dim, nullptr);
  with_unit(call, w, [&](const auto& a) {
    a.load_query(block);
    a.segment(block, segment, partial);
  });
}

void merge(const AttendCall& call, const AttendBlock& block, const AttendPartial* partials,
           int64_t segments) {
  Workspace w{};
  w.padded_dim = padded(call.dim);
  with_unit(call, w, [&](const auto& a) {
    for (int64_t s = 1; s < segments; ++s) a.merge(block.rows(), partials[s], partials[0]);
    a.finish(block, partials[0]);
  });
}

int64_t scratch_bytes(int64_t rows, int64_t dim) {
  int64_t bytes = 0;
  carve(nullptr, rows, dim, &bytes);
  return bytes;
}

}  // namespace

extern const AttentionKernels attention_kernels;
const AttentionKernels attention_kernels = {padded, scratch_bytes, attend, attend_segment, merge};

}  // namespace kvasir::cpu::KVASIR_ISA
