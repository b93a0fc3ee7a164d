// The scan of index keys: 64 keys at a time are expanded so that lanes are keys, scored for every query of
// the task, and filtered against each query's running threshold; no row of scores is ever kept.
//
// FP4 values times two are integers of at most 12, so dots of 32 values are exact in int8 arithmetic. Keys
// become unsigned by an offset, which the sums take back through the query's own sum. kNative keeps the
// scale of every block of 32 and the official bf16 roundings; kFast brings a key's blocks to one scale (its
// largest, exact for blocks within two octaves of it) and a query's head to int8 with one scale, so a dot is
// one integer.
#include "backend/cpu/indexer_kernels.h"

#include "backend/cpu/attention_gemm.h"
#include "backend/cpu/simd_codec.h"

namespace kvasir::cpu::KVASIR_ISA {
namespace {

constexpr int kHeadTile = 4;
constexpr int kMaxBlocks = kMaxIndexDim / 32;
constexpr int kVectors = kKeyGroup / kLanes;
constexpr float kMinusInfinity = -__builtin_inff();

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Carver {
  std::byte* at;
  template <class T>
  T* take(int64_t count) {
    T* p = reinterpret_cast<T*>(at);
    at += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return p;
  }
};

struct Key {
  const uint8_t* data;
  const uint8_t* scale;
};

// The group of keys from `base` on; past the last key it repeats, so that every slot can be read.
void find_keys(const IndexCall& call, int64_t base, int64_t last, Key* keys) {
  int64_t per_page = call.keys.rows_per_page, page = base / per_page, row = base % per_page;
  for (int64_t c = 0; c < kKeyGroup; ++c) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(call.pages[page]);
    keys[c] = {bytes + call.keys.data_offset + row * call.data_bytes,
               bytes + call.keys.scale_offset + row * call.scale_bytes};
    if (base + c < last && ++row == per_page) {
      row = 0;
      ++page;
    }
  }
}

// Codes of e2m1 nibbles as unsigned bytes: 2 * value * 2^(shift - class) + offset, rounded to even, for
// classes (octaves below the key's largest scale) 0 to 7.
struct CodeTable {
  alignas(64) uint8_t code[128];
  constexpr CodeTable(int shift, int offset, bool classes) : code() {
    constexpr int kTwice[8] = {0, 1, 2, 3, 4, 6, 8, 12};
    for (int c = 0; c < 8; ++c) {
      for (int n = 0; n < 16; ++n) {
        int v = kTwice[n & 7] << shift, down = classes ? c : 0;
        int q = v >> down, rest = v & ((1 << down) - 1), half = down > 0 ? 1 << (down - 1) : 0;
        if (down > 0 && (rest > half || (rest == half && (q & 1)))) ++q;
        code[16 * c + n] = static_cast<uint8_t>(offset + (n & 8 ? -q : q));
      }
    }
  }
};

constexpr int kNativeOffset = 12, kFastShift = 2, kFastOffset = 48;
constexpr CodeTable kNativeCodes(0, kNativeOffset, false);
constexpr CodeTable kFastCodes(kFastShift, kFastOffset, true);

// A group of FP4 keys: panel[step][key][4] bytes, where steps 2u and 2u+1 hold the even and the odd of dims
// 8u..8u+7 (so that a byte's two nibbles need no shuffling). classes[block][key] is 0..7.
void expand_keys(const Key* keys, int64_t dim, const int32_t (*classes)[kKeyGroup], const uint8_t* table,
                 uint8_t* panel) {
  int64_t units = dim / 8;
#if defined(__AVX512VBMI__)
  for (int c = 0; c < kKeyGroup; c += kLanes) {
    for (int64_t u0 = 0; u0 < units; u0 += kLanes) {
      int n = units - u0 < kLanes ? static_cast<int>(units - u0) : kLanes;
      I32 square[kLanes];
      for (int i = 0; i < kLanes; ++i) square[i] = load_units(keys[c + i].data + 4 * u0, n);
      transpose(square);
      for (int u = 0; u < n; ++u) {
        I32 octave = load_as<I32>(classes[(u0 + u) / 4] + c) * 0x10101010;
        I32 even = (square[u] & 0x0f0f0f0f) | octave, odd = ((square[u] >> 4) & 0x0f0f0f0f) | octave;
        I32* out = reinterpret_cast<I32*>(panel + (2 * (u0 + u) * kKeyGroup + c) * 4);
        out[0] = look_up(table, even);
        out[kVectors] = look_up(table, odd);
      }
    }
  }
#else
  for (int c = 0; c < kKeyGroup; ++c) {
    for (int64_t u = 0; u < units; ++u) {
      const uint8_t* row = table + 16 * classes[u / 4][c];
      for (int i = 0; i < 4; ++i) {
        uint8_t byte = keys[c].data[4 * u + i];
        panel[(2 * u * kKeyGroup + c) * 4 + i] = row[byte & 15];
        panel[((2 * u + 1) * kKeyGroup + c) * 4 + i] = row[byte >> 4];
      }
    }
  }
#endif
}

// The order in which expand_keys leaves dims: position 8u + i holds dim 8u + order[i].
constexpr int kDimOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};

// Query rows as bytes in the panel's dim order; heads are padded to a multiple of kHeadTile with zeros.
struct QueryBytes {
  int8_t* values;   // [queries][heads][dim]
  int32_t* offset;  // [queries][heads][blocks]: what takes the keys' offset back
  float* scale;     // [queries][heads][blocks]
  float* weight;    // [queries][heads]
};

struct Int8Scan {
  const IndexCall& call;
  int64_t heads, blocks;  // padded heads; blocks of 32 (kNative) or 1 (kFast) with their own offset and scale
  QueryBytes q;
  uint8_t* panel;    // [dim/4][kKeyGroup][4]
  float* key_scale;  // [blocks][kKeyGroup]

  static Int8Scan carve(const IndexCall& call, int64_t queries, std::byte* scratch, int64_t* bytes) {
    int64_t heads = round_up(call.heads, kHeadTile),
            blocks = call.numerics == Numerics::kNative ? call.dim / 32 : 1;
    Carver c{scratch};
    QueryBytes q{c.take<int8_t>(queries * heads * call.dim), c.take<int32_t>(queries * heads * blocks),
                 c.take<float>(queries * heads * blocks), c.take<float>(queries * heads)};
    auto* panel = c.take<uint8_t>(int64_t{kKeyGroup} * call.dim);
    auto* key_scale = c.take<float>(blocks * kKeyGroup);
    if (bytes != nullptr) *bytes = c.at - scratch;
    return {call, heads, blocks, q, panel, key_scale};
  }

  bool native() const { return call.numerics == Numerics::kNative; }

  void load_query(int64_t slot, int64_t token) const {
    for (int64_t h = 0; h < heads; ++h) {
      int64_t row = slot * heads + h;
      int8_t* values = q.values + row * call.dim;
      if (h >= call.heads) {
        __builtin_memset(values, 0, call.dim);
        for (int64_t b = 0; b < blocks; ++b) {
          q.offset[row * blocks + b] = 0;
          q.scale[row * blocks + b] = 0.f;
        }
        q.weight[row] = 0.f;
        continue;
      }
      const float* x = call.q + token * call.q_token + h * call.q_head;
      int64_t width = call.dim / blocks;
      for (int64_t b = 0; b < blocks; ++b) {
        float unit = native() ? native_unit(x + b * width, width) : fast_unit(x + b * width, width);
        int32_t total = quantise(x + b * width, width, unit > 0.f ? 1.f / unit : 0.f, values + b * width);
        q.offset[row * blocks + b] = -total * (native() ? kNativeOffset : kFastOffset);
        q.scale[row * blocks + b] = unit;
      }
      float w = call.weight[token * call.weight_token + h];
      q.weight[row] = native() ? w : w * q.scale[row * blocks];
    }
  }

  // n values (at most kMaxIndexDim) to bytes in the panel's order; returns their sum.
  static int32_t quantise(const float* x, int64_t n, float inverse, int8_t* out) {
    int32_t codes[kMaxIndexDim];
    I32 total = splat(0);
    for (int64_t i = 0; i < n; i += kLanes) {
      I32 code = round_to_int(load(x + i) * splat(inverse));
      total += code;
      store(codes + i, code);
    }
    for (int64_t i = 0; i < n; i += 8)
      for (int64_t j = 0; j < 8; ++j) out[i + j] = static_cast<int8_t>(codes[i + kDimOrder[j]]);
    int32_t sum = 0;
    for (int i = 0; i < kLanes; ++i) sum += total[i];
    return sum;
  }

  // Half of the block's FP4 scale: values that FP4 has kept are whole multiples of it, at most 12.
  static float native_unit(const float* x, int64_t n) {
    return 0.5f * scale_value(scale_byte(amax_of(x, static_cast<int>(n), 6 * 0x1p-126f), 6.f));
  }
  static float fast_unit(const float* x, int64_t n) { return amax_of(x, static_cast<int>(n), 0.f) / 127.f; }

  void load_keys(const Key* keys) const {
    int32_t scales[kMaxBlocks][kKeyGroup], classes[kMaxBlocks][kKeyGroup];
    int64_t dim_blocks = call.dim / 32;
    gather_scales(keys, dim_blocks, scales);
    for (int c = 0; c < kKeyGroup; c += kLanes) {
      I32 top = splat(0);
      for (int64_t b = 0; b < dim_blocks; ++b) top = max(top, load_as<I32>(scales[b] + c));
      for (int64_t b = 0; b < dim_blocks; ++b) {
        I32 scale = load_as<I32>(scales[b] + c);
        if (blocks > 1) store(key_scale + b * kKeyGroup + c, as_float(scale << 23) * splat(0.5f));
        store(classes[b] + c, blocks > 1 ? splat(0) : min(top - scale, splat(7)));
      }
      if (blocks == 1) store(key_scale + c, as_float(top << 23) * splat(0.5f / (1 << kFastShift)));
    }
    expand_keys(keys, call.dim, classes, native() ? kNativeCodes.code : kFastCodes.code, panel);
  }

  // scales[block][key], four blocks of a key at a time.
  static void gather_scales(const Key* keys, int64_t dim_blocks, int32_t (*scales)[kKeyGroup]) {
    for (int64_t b0 = 0; b0 < dim_blocks; b0 += 4) {
      uint32_t four[kKeyGroup] = {};
      int64_t n = dim_blocks - b0 < 4 ? dim_blocks - b0 : 4;
      if (n == 4) {
        for (int c = 0; c < kKeyGroup; ++c) __builtin_memcpy(&four[c], keys[c].scale + b0, 4);
      } else if (n == 2) {
        for (int c = 0; c < kKeyGroup; ++c) __builtin_memcpy(&four[c], keys[c].scale + b0, 2);
      } else {
        for (int c = 0; c < kKeyGroup; ++c)
          for (int64_t i = 0; i < n; ++i) four[c] |= static_cast<uint32_t>(keys[c].scale[b0 + i]) << (8 * i);
      }
      for (int64_t i = 0; i < n; ++i)
        for (int c = 0; c < kKeyGroup; c += kLanes)
          store(scales[b0 + i] + c, (load_as<I32>(four + c) >> static_cast<int>(8 * i)) & 0xff);
    }
  }

  // scores[key] of one query against the loaded keys.
  void score(int64_t slot, float* scores) const {
    if (native()) {
      constexpr int kWide = kVectors < 2 ? kVectors : 2;
      for (int v = 0; v < kVectors; v += kWide) score_native<kWide>(slot, v, scores);
    } else {
      constexpr int kWide = kLanes == 16 ? 4 : 2;
      for (int v = 0; v < kVectors; v += kWide) score_fast<kWide>(slot, v, scores);
    }
  }

  // Adds the products of steps [begin, end) of four heads from `row` on to acc.
  template <int kWide>
  void add_steps(int64_t row, int vector, int64_t begin, int64_t end, I32 (&acc)[kHeadTile][kWide]) const {
    const int8_t* values = q.values + row * call.dim;
    for (int64_t s = begin; s < end; ++s) {
      I32 key[kWide];
      for (int j = 0; j < kWide; ++j)
        key[j] = load_as<I32>(panel + (s * kKeyGroup + (vector + j) * kLanes) * 4);
      for (int h = 0; h < kHeadTile; ++h) {
        int32_t four;
        __builtin_memcpy(&four, values + h * call.dim + 4 * s, 4);
        for (int j = 0; j < kWide; ++j) acc[h][j] = dot_bytes(acc[h][j], key[j], four);
      }
    }
  }

  template <int kWide>
  void score_fast(int64_t slot, int vector, float* scores) const {
    F32 total[kWide];
    for (F32& t : total) t = splat(0.f);
    for (int64_t h0 = 0; h0 < heads; h0 += kHeadTile) {
      int64_t row = slot * heads + h0;
      I32 acc[kHeadTile][kWide];
      for (int h = 0; h < kHeadTile; ++h)
        for (int j = 0; j < kWide; ++j) acc[h][j] = splat(q.offset[row + h]);
      add_steps<kWide>(row, vector, 0, call.dim / 4, acc);
      for (int h = 0; h < kHeadTile; ++h) {
        for (int j = 0; j < kWide; ++j) {
          total[j] = fma(to_float(max(acc[h][j], splat(0))), splat(q.weight[row + h]), total[j]);
        }
      }
    }
    for (int j = 0; j < kWide; ++j) {
      int at = (vector + j) * kLanes;
      store(scores + at, total[j] * load(key_scale + at) + splat(0.f));  // + 0: no negative zero among ties
    }
  }

  template <int kWide>
  void score_native(int64_t slot, int vector, float* scores) const {
    F32 total[kWide];
    for (F32& t : total) t = splat(0.f);
    for (int64_t h0 = 0; h0 < heads; h0 += kHeadTile) {
      int64_t row = slot * heads + h0;
      F32 dot[kHeadTile][kWide];
      for (auto& d : dot)
        for (F32& x : d) x = splat(0.f);
      for (int64_t b = 0; b < blocks; ++b) {
        I32 acc[kHeadTile][kWide];
        for (int h = 0; h < kHeadTile; ++h)
          for (int j = 0; j < kWide; ++j) acc[h][j] = splat(q.offset[(row + h) * blocks + b]);
        add_steps<kWide>(row, vector, 8 * b, 8 * b + 8, acc);
        for (int h = 0; h < kHeadTile; ++h) {
          F32 unit = splat(q.scale[(row + h) * blocks + b]);
          for (int j = 0; j < kWide; ++j) {
            F32 scale = load(key_scale + b * kKeyGroup + (vector + j) * kLanes) * unit;  // powers of two
            dot[h][j] = fma(to_float(acc[h][j]), scale, dot[h][j]);
          }
        }
      }
      for (int h = 0; h < kHeadTile; ++h)
        for (int j = 0; j < kWide; ++j)
          total[j] += round_bf16(max(splat(0.f), round_bf16(dot[h][j])) * splat(q.weight[row + h]));
    }
    for (int j = 0; j < kWide; ++j) store(scores + (vector + j) * kLanes, round_bf16(total[j]) + splat(0.f));
  }
};

// f32 keys and queries: S by the attention product, then the weighted sum over heads.
struct FloatScan {
  const IndexCall& call;
  float* q;       // [queries][heads][dim]
  float* weight;  // [queries][heads]
  float* rows;    // [kKeyGroup][dim]
  float* panel;   // [dim][kKeyGroup]
  float* dots;    // [heads][kKeyGroup]

  static FloatScan carve(const IndexCall& call, int64_t queries, std::byte* scratch, int64_t* bytes) {
    Carver c{scratch};
    FloatScan s{call,
                c.take<float>(queries * call.heads * call.dim),
                c.take<float>(queries * call.heads),
                c.take<float>(int64_t{kKeyGroup} * call.dim),
                c.take<float>(int64_t{kKeyGroup} * call.dim),
                c.take<float>(int64_t{kKeyGroup} * call.heads)};
    if (bytes != nullptr) *bytes = c.at - scratch;
    return s;
  }

  void load_query(int64_t slot, int64_t token) const {
    for (int64_t h = 0; h < call.heads; ++h) {
      __builtin_memcpy(q + (slot * call.heads + h) * call.dim,
                       call.q + token * call.q_token + h * call.q_head, 4 * call.dim);
      weight[slot * call.heads + h] = call.weight[token * call.weight_token + h];
    }
  }

  void load_keys(const Key* keys) const {
    for (int c = 0; c < kKeyGroup; ++c) {
      if (call.quantised) {
        decode_key(keys[c].data, keys[c].scale, call.dim, rows + c * call.dim);
      } else {
        __builtin_memcpy(rows + c * call.dim, keys[c].data, 4 * call.dim);
      }
    }
    for (int c = 0; c < kKeyGroup; c += kLanes) {
      for (int64_t e = 0; e < call.dim; e += kLanes) {  // dim is a multiple of 32
        I32 square[kLanes];
        for (int i = 0; i < kLanes; ++i) square[i] = load_as<I32>(rows + (c + i) * call.dim + e);
        transpose(square);
        for (int i = 0; i < kLanes; ++i)
          __builtin_memcpy(panel + (e + i) * kKeyGroup + c, &square[i], sizeof(I32));
      }
    }
  }

  void score(int64_t slot, float* scores) const {
    Product p{reinterpret_cast<const uint32_t*>(q + slot * call.heads * call.dim),
              call.dim,
              reinterpret_cast<const uint32_t*>(panel),
              kKeyGroup,
              dots,
              kKeyGroup,
              nullptr};
    product<UnitF32>(p, call.heads, kKeyGroup, call.dim, From::kZero);
    for (int c = 0; c < kKeyGroup; c += kLanes) {
      F32 total = splat(0.f);
      for (int64_t h = 0; h < call.heads; ++h)
        total =
            fma(max(splat(0.f), load(dots + h * kKeyGroup + c)), splat(weight[slot * call.heads + h]), total);
      store(scores + c, total + splat(0.f));
    }
  }
};

// A float's bits as an int that orders the same way, and back (no NaN among candidates).
I32 ordered(I32 bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }

int64_t count_reaching(const int32_t* values, int64_t n, int32_t guess) {
  I32 reached = splat(0);
  for (int64_t i = 0; i < n; i += kLanes) reached -= load_as<I32>(values + i) >= guess;
  int64_t total = 0;
  for (int i = 0; i < kLanes; ++i) total += reached[i];
  return total;
}

// The k-th largest of `count` values: halves the interval between the smallest and the largest until a guess
// is reached by exactly k of them, or only one value is left. Fills the last vector up with something smaller
// than all.
int32_t kth_largest(int32_t* values, int64_t count, int64_t k) {
  int64_t n = round_up(count, kLanes);
  for (int64_t i = count; i < n; ++i) values[i] = values[0];
  I32 low = load_as<I32>(values), high = low;
  for (int64_t i = kLanes; i < n; i += kLanes) {
    low = min(low, load_as<I32>(values + i));
    high = max(high, load_as<I32>(values + i));
  }
  int64_t from = low[0], to = high[0];  // reached by at least k; reached by fewer once raised by one
  for (int i = 1; i < kLanes; ++i) {
    from = low[i] < from ? low[i] : from;
    to = high[i] > to ? high[i] : to;
  }
  for (int64_t i = count; i < n; ++i) values[i] = static_cast<int32_t>(from - 1);  // -inf is not the least
  for (++to; to - from > 1;) {
    int64_t guess = from + (to - from) / 2, reached = count_reaching(values, n, static_cast<int32_t>(guess));
    (reached >= k ? from : to) = guess;
    if (reached != k) continue;
    I32 least = splat(0x7fffffff);
    for (int64_t i = 0; i < n; i += kLanes) {
      I32 v = load_as<I32>(values + i);
      least = v >= static_cast<int32_t>(guess) ? min(least, v) : least;
    }
    from = least[0];
    for (int i = 1; i < kLanes; ++i) from = least[i] < from ? least[i] : from;
    break;
  }
  return static_cast<int32_t>(from);
}

void shrink(IndexCandidates& best, int64_t topk) {
  if (best.count <= topk) return;
  int64_t n = round_up(best.count, kLanes), above = 0, kept = 0;
  auto* values = reinterpret_cast<int32_t*>(best.scores);  // as ordered ints until the survivors are packed
  for (int64_t i = 0; i < n; i += kLanes) store(values + i, ordered(load_as<I32>(values + i)));
  int32_t kth = kth_largest(values, best.count, topk);
  for (int64_t i = 0; i < n; i += kLanes)
    above += __builtin_popcount(mask_bits(load_as<I32>(values + i) > kth));
  int64_t equal = topk - above;  // of those that equal it, the first
  for (int64_t i = 0; i < n; i += kLanes) {
    I32 v = load_as<I32>(values + i), entries = load_as<I32>(best.entries + i);
    uint32_t keep = mask_bits(v > kth), same = mask_bits(v == kth);
    for (; same != 0 && equal > 0; same &= same - 1, --equal) keep |= same & -same;
    store_packed(best.scores + kept, as_float(ordered(v)), keep);
    store_packed(best.entries + kept, entries, keep);
    kept += __builtin_popcount(keep);
  }
  best.count = kept;
  int32_t bits = kth ^ ((kth >> 31) & 0x7fffffff);
  __builtin_memcpy(&best.threshold, &bits, 4);
}

// Adds those of `n` scores, of entries from `base` on, that are above the threshold.
void filter(float* scores, int64_t n, int64_t base, int64_t topk, IndexCandidates& best) {
  F32 threshold = splat(best.threshold);
  for (int64_t i = n; i < kKeyGroup; ++i) scores[i] = kMinusInfinity;
  I32 entry = lane_numbers() + splat(static_cast<int32_t>(base));
  for (int64_t i = 0; i < kKeyGroup; i += kLanes, entry += kLanes) {
    F32 v = load(scores + i);
    uint32_t bits = mask_bits(v > threshold);  // no branch on it: about one key in 64 passes, at random
    store_packed(best.scores + best.count, v, bits);
    store_packed(best.entries + best.count, entry, bits);
    best.count += __builtin_popcount(bits);
  }
  if (best.count >= 2 * topk) shrink(best, topk);
}

template <class Scan>
void scan_keys(const Scan& s, const IndexCall& call, int64_t q0, int64_t q1, int64_t begin, int64_t end,
               IndexCandidates* best) {
  for (int64_t t = q0; t < q1; ++t) {
    s.load_query(t - q0, t);
    best[t - q0].count = 0;
    best[t - q0].threshold = kMinusInfinity;
  }
  float scores[kKeyGroup];
  Key keys[kKeyGroup];
  for (int64_t base = begin; base < end && base < call.visible[q1 - 1]; base += kKeyGroup) {
    find_keys(call, base, call.visible[q1 - 1] - 1, keys);
    s.load_keys(keys);
    for (int64_t t = q0; t < q1; ++t) {
      int64_t n = call.visible[t] < end ? call.visible[t] - base : end - base;
      if (n <= 0 || call.visible[t] <= call.topk) continue;
      s.score(t - q0, scores);
      filter(scores, n < kKeyGroup ? n : kKeyGroup, base, call.topk, best[t - q0]);
    }
  }
}

bool in_bytes(const IndexCall& call) { return call.quantised && call.numerics != Numerics::kExact; }

void scan(const IndexCall& call, int64_t q0, int64_t q1, int64_t begin, int64_t end, IndexCandidates* best,
          std::byte* scratch) {
  if (in_bytes(call)) {
    scan_keys(Int8Scan::carve(call, q1 - q0, scratch, nullptr), call, q0, q1, begin, end, best);
  } else {
    scan_keys(FloatScan::carve(call, q1 - q0, scratch, nullptr), call, q0, q1, begin, end, best);
  }
}

int64_t scratch_bytes(const IndexCall& call, int64_t queries) {
  int64_t bytes = 0;
  if (in_bytes(call))
    Int8Scan::carve(call, queries, nullptr, &bytes);
  else
    FloatScan::carve(call, queries, nullptr, &bytes);
  return bytes;
}

}  // namespace

extern const IndexerKernels indexer_kernels;
const IndexerKernels indexer_kernels = {scratch_bytes, scan, shrink};

}  // namespace kvasir::cpu::KVASIR_ISA
