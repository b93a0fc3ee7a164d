// The wide bf16 route on AMX: out^T = W x^T, weights as first factors of the tile products (their rows need
// no transposing), inputs as second ones.
//
// A job goes stretch by stretch along K; in a stretch, 32 weight rows after 32, each decoded into a panel
// that all inputs pass in tiles of 32 x 32. The next panel is decoded between the tile products of the
// present one, by the vector units, which have nothing else to do. Sums wait for the next stretch as tiles.
// An output is one chain of sums in the order of its columns, whatever is computed beside it.
//
// Weights carry their scale into bf16. Where bf16 has no room for a scale, or a code is NaN, blocks of one
// scale are multiplied without it and their sums get it. Compiled once per instruction set, empty but for
// AMX. Threading: pure functions over the caller's memory.
#include "backend/cpu/wide_kernels.h"

#if KVASIR_ISA_amx

#include "backend/cpu/pack_kernels.h"
#include "backend/cpu/simd.h"
#include "backend/cpu/simd_amx.h"
#include "backend/cpu/simd_wide.h"

namespace kvasir::cpu::KVASIR_ISA {
namespace {

constexpr int64_t kTile = 16;         // rows of a tile register
constexpr int64_t kTileBytes = 1024;  // 16 rows of 32 bf16
constexpr int64_t kPanelRows = 2 * kTile;
constexpr int64_t kStretch = 256;  // columns of a panel: with the inputs passing by it stays in the L1
constexpr int64_t kStretchBlocks = kStretch / kBlock;
constexpr int64_t kBlockSteps = kBlock / 32;               // tile products along a block
constexpr int64_t kInputBlock = kBlockSteps * kTileBytes;  // 128 columns of 16 inputs
constexpr int64_t kGroupRows = 256;                        // weight rows whose sums are kept at a time

// ---- 128 columns of one weight row as four vectors of bf16, in the order of the narrow kernels ----

// Tables hold the bits of a magnitude plus kLift, and 0 for zero; taking away kLift less the scale's
// exponent, saturating, scales numbers and keeps zeros. All values and tame scales stay within 16 bits.
constexpr int kLift = 0x3c00;
inline Bytes64 lifted_scale(I32x16 byte_in_high_half) {  // words (byte << 8) -> what is taken away
  return _mm512_sub_epi16(_mm512_set1_epi16(kLift + (127 << 7)), _mm512_srli_epi16(byte_in_high_half, 1));
}

struct LiftedTables {
  alignas(64) uint8_t low[128], high[128];  // e4m3 magnitudes
  alignas(64) uint16_t e2m1[32];            // nibbles, twice; signs included
};
constexpr LiftedTables make_lifted_tables() {
  LiftedTables t{};
  for (int c = 1; c < 128; ++c) {
    const int bits = (kE4m3Table.high[c] << 8 | kE4m3Table.low[c]) + kLift;
    t.low[c] = static_cast<uint8_t>(bits & 255);
    t.high[c] = static_cast<uint8_t>(bits >> 8);
  }
  for (int i = 0; i < 32; ++i) {
    const bool zero = (i & 7) == 0;
    t.e2m1[i] = zero ? uint16_t{0} : static_cast<uint16_t>(kE2m1Bf16[i] + kLift);
  }
  return t;
}
constexpr LiftedTables kLifted = make_lifted_tables();

// What the decoded rows of a panel had in them: whether their scales are tame and no code is NaN.
struct Seen {
  Bytes64 least = _mm512_set1_epi8(-1), most = _mm512_setzero_si512();  // scales
  Bytes64 magnitude = _mm512_setzero_si512();                           // e4m3 codes without their signs

  bool tame() const {
    return tame_scales(least) && tame_scales(most) &&
           _mm512_cmpeq_epi8_mask(magnitude, _mm512_set1_epi8(0x7f)) == 0;
  }
};
constexpr uint8_t kTameByte = 127;

inline void decode_e2m1(const uint8_t* codes, const uint8_t* scale, Bytes64 v[4], Seen& seen) {
  // Word w of every vector is of columns 4w .. 4w+3, of group w / 8: lane w / 8 of 128 bits.
  const Bytes64 spread =
      _mm512_set_epi8(3, -1, 3, -1, 3, -1, 3, -1, 3, -1, 3, -1, 3, -1, 3, -1, 2, -1, 2, -1, 2, -1, 2, -1, 2,
                      -1, 2, -1, 2, -1, 2, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 0, -1,
                      0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1);
  const Bytes64 bytes = broadcast_i32(scale), table = _mm512_load_si512(kLifted.e2m1);
  seen.least = _mm512_min_epu8(seen.least, bytes);
  seen.most = _mm512_max_epu8(seen.most, bytes);
  const Bytes64 down = lifted_scale(_mm512_shuffle_epi8(bytes, spread));
  const Bytes64 b = load_bytes(codes);
  v[0] = _mm512_subs_epu16(_mm512_permutexvar_epi16(b, table), down);
  v[1] = _mm512_subs_epu16(_mm512_permutexvar_epi16(_mm512_srli_epi16(b, 4), table), down);
  v[2] = _mm512_subs_epu16(_mm512_permutexvar_epi16(_mm512_srli_epi16(b, 8), table), down);
  v[3] = _mm512_subs_epu16(_mm512_permutexvar_epi16(_mm512_srli_epi16(b, 12), table), down);
}

inline void decode_e4m3(const uint8_t* codes, const uint8_t* scale, Bytes64 v[4], Seen& seen) {
  const Bytes64 low0 = _mm512_load_si512(kLifted.low), low1 = _mm512_load_si512(kLifted.low + 64);
  const Bytes64 high0 = _mm512_load_si512(kLifted.high), high1 = _mm512_load_si512(kLifted.high + 64);
  const Bytes64 bytes = _mm512_set1_epi8(static_cast<char>(*scale)), sign = _mm512_set1_epi16(-0x8000);
  seen.least = _mm512_min_epu8(seen.least, bytes);
  seen.most = _mm512_max_epu8(seen.most, bytes);
  const Bytes64 down = lifted_scale(_mm512_set1_epi16(static_cast<int16_t>(*scale << 8)));
  for (int half = 0; half < 2; ++half) {
    const Bytes64 b = load_bytes(codes + 64 * half);
    seen.magnitude = _mm512_max_epu8(seen.magnitude, _mm512_and_si512(b, _mm512_set1_epi8(0x7f)));
    const Bytes64 low = _mm512_permutex2var_epi8(low0, b, low1),
                  high = _mm512_permutex2var_epi8(high0, b, high1);
    const Bytes64 first = _mm512_subs_epu16(_mm512_unpacklo_epi8(low, high), down),
                  second = _mm512_subs_epu16(_mm512_unpackhi_epi8(low, high), down);
    // number | (code's byte as the high one & sign)
    v[2 * half] = _mm512_ternarylogic_epi32(first, _mm512_unpacklo_epi8(b, b), sign, 0xf8);
    v[2 * half + 1] = _mm512_ternarylogic_epi32(second, _mm512_unpackhi_epi8(b, b), sign, 0xf8);
  }
}

constexpr int64_t block_bytes(Stored f) { return f == Stored::kBf16 ? 256 : f == Stored::kE4m3 ? 128 : 64; }
constexpr int64_t block_scales(Stored f) { return f == Stored::kE4m3 ? 1 : f == Stored::kE2m1 ? 4 : 0; }

// Block `b` of a weight row, padded with zeros where the row ends.
struct RowBlock {
  const uint8_t* codes;
  const uint8_t* scale;
  alignas(64) uint8_t padded[256];
  uint8_t padded_scale[4];

  RowBlock(const StoredRows& w, int64_t n, int64_t b) {
    codes = w.data + n * w.row_bytes + b * block_bytes(w.format);
    scale = w.format == Stored::kBf16
                ? nullptr
                : w.scale + (w.format == Stored::kE4m3 ? n / 128 : n) * w.scale_row_bytes +
                      b * block_scales(w.format);
    const int64_t left = w.cols - b * kBlock;
    if (left >= kBlock) return;
    memset(padded, 0, sizeof(padded));
    memcpy(padded, codes, static_cast<size_t>(left * block_bytes(w.format) / kBlock));
    codes = padded;
    if (w.format != Stored::kE2m1) return;
    memset(padded_scale, kTameByte, sizeof(padded_scale));
    memcpy(padded_scale, scale, static_cast<size_t>((left + 31) / 32));
    scale = padded_scale;
  }
};

// A stretch of a panel: steps of 32 columns, two tiles (rows 0..15, rows 16..31) each.
struct Panel {
  uint8_t* at;
  Seen seen;

  uint8_t* place(int64_t row, int64_t block) const {
    return at + (block * kBlockSteps * 2 + row / kTile) * kTileBytes + row % kTile * 64;
  }
  void store(int64_t row, int64_t block, const Bytes64 v[4]) const {
    uint8_t* p = place(row, block);
    for (int j = 0; j < 4; ++j) store_bytes(p + 2 * kTileBytes * j, v[j]);
  }
};

// Where the work of a job stands: its panels in the order in which they are multiplied.
struct Position {
  int64_t n, block, blocks;  // first weight row, first block of 128 columns, how many
};

// Decodes the panel at a position little by little: a piece is a block of 128 columns of a row.
template <Stored F>
class Decoder {
 public:
  Decoder(const MultiplyJob& job, const Position& p, const Position& after, Panel& panel)
      : w_(job.w),
        row_end_(job.row_end),
        p_(p),
        later_((after.n - p.n) * w_.row_bytes + (after.block - p.block) * block_bytes(F)),
        panel_(panel),
        pieces_(p.blocks * kPanelRows) {
    panel_.seen = {};
  }
  int64_t pieces() const { return pieces_; }
  void advance(int64_t count) {
    for (; count > 0 && next_ < pieces_; --count, ++next_) {
      const int64_t n = p_.n + row_ < row_end_ ? p_.n + row_ : row_end_ - 1, block = p_.block + block_;
      Bytes64 v[4];
      if (__builtin_expect((block + 1) * kBlock <= w_.cols, 1)) {
        const uint8_t* codes = w_.data + n * w_.row_bytes + block * block_bytes(F);
        const uint8_t* scale = F == Stored::kBf16
                                   ? nullptr
                                   : w_.scale + (F == Stored::kE4m3 ? n / 128 : n) * w_.scale_row_bytes +
                                         block * block_scales(F);
        for (int64_t line = 0; line < block_bytes(F); line += 64) prefetch_far(codes + later_ + line);
        decode(codes, scale, v);
      } else {
        const RowBlock padded(w_, n, block);
        decode(padded.codes, padded.scale, v);
      }
      panel_.store(row_, block_, v);
      if (++block_ == p_.blocks) {
        block_ = 0;
        ++row_;
      }
    }
  }

 private:
  void decode(const uint8_t* codes, const uint8_t* scale, Bytes64 v[4]) {
    if constexpr (F == Stored::kE2m1) decode_e2m1(codes, scale, v, panel_.seen);
    if constexpr (F == Stored::kE4m3) decode_e4m3(codes, scale, v, panel_.seen);
    if constexpr (F == Stored::kBf16)
      for (int j = 0; j < 4; ++j) v[j] = load_bytes(codes + 64 * j);
  }

  const StoredRows w_;
  const int64_t row_end_;
  const Position p_;
  const int64_t later_;  // bytes to the panel after this one, which is fetched from memory meanwhile
  Panel& panel_;
  const int64_t pieces_;
  int64_t next_ = 0, row_ = 0, block_ = 0;
};

// The tiles of 32 inputs of a block.
const uint8_t* inputs_at(const MultiplyJob& job, int64_t input, int64_t block) {
  return job.x.data + block * job.x.stride + (job.first + input) / kTile * kInputBlock;
}

// 32 x 32 sums: [first or second 16 weight rows][first or second 16 inputs][16][16].
struct Sums {
  float v[2][2][kTile][kTile];
};

// out[input][n] from sums[n][input].
void write_out(const MultiplyJob& job, const Sums& sums, int64_t n, int64_t input) {
  for (int half = 0; half < 2; ++half) {
    const int64_t lanes = job.row_end - n - kTile * half;
    if (lanes <= 0) return;
    for (int side = 0; side < 2; ++side) {
      I32x16 v[16];
      for (int i = 0; i < 16; ++i) v[i] = load_i32(sums.v[half][side][i]);
      transpose_dwords(v);
      for (int64_t t = 0; t < kTile && input + kTile * side + t < job.count; ++t)
        store_f32_part(
            job.out + (input + kTile * side + t) * job.out_stride + n + kTile * half - job.row_begin,
            _mm512_castsi512_ps(v[t]), static_cast<int>(lanes < kTile ? lanes : kTile));
    }
  }
}

// What the sums of the tile registers are added to, and what becomes of them.
struct Stage {
  bool first, last;  // stretch
  Sums* sums;        // of each 32 inputs
  // Of the inputs' next stretch, this panel fetches lines [fetch_begin, fetch_end) of every 32; `fetch_ahead`
  // bytes on. Whoever packed them was another core, and a tile of inputs is too short a stream for the
  // hardware.
  int64_t fetch_ahead;
  int fetch_begin, fetch_end;
};

// All inputs past a panel, `decoder` being advanced between the products.
template <Stored F>
void run_panel(const MultiplyJob& job, const Panel& panel, const Position& p, const Stage& stage,
               Decoder<F>& decoder) {
  const int64_t pairs = (job.count + kPanelRows - 1) / kPanelRows, steps = p.blocks * kBlockSteps;
  const int64_t pieces_per_step = (decoder.pieces() + pairs * steps - 1) / (pairs * steps);
  for (int64_t pair = 0; pair < pairs; ++pair) {
    Sums& s = stage.sums[pair];
    if (stage.first) {
      tiles_zero();
    } else {
      tiles_load(s.v[0][0][0], s.v[0][1][0], s.v[1][0][0], s.v[1][1][0], 64);
    }
    const bool two = job.count - pair * kPanelRows > kTile;
    for (int64_t step = 0; step < steps; ++step) {
      const uint8_t* w = panel.at + 2 * kTileBytes * step;
      const uint8_t* x =
          inputs_at(job, pair * kPanelRows, p.block + step / kBlockSteps) + step % kBlockSteps * kTileBytes;
      two ? tiles_multiply_2x2(w, w + kTileBytes, 64, x, x + kInputBlock, 64)
          : tiles_multiply_2x1(w, w + kTileBytes, 64, x, 64);
      for (int64_t line = stage.fetch_begin; line < stage.fetch_end; ++line)
        prefetch_far(x + stage.fetch_ahead + line / 16 * kInputBlock + line % 16 * 64);
      decoder.advance(pieces_per_step);
    }
    tiles_store(s.v[0][0][0], s.v[0][1][0], s.v[1][0][0], s.v[1][1][0], 64);
    if (stage.last) write_out(job, s, p.n, pair * kPanelRows);
  }
  decoder.advance(decoder.pieces());
}

// The same for a panel that bf16 cannot hold, or that has NaN in it: codes without scales, block by block and
// group by group, then the scale of each weight row.
void run_unscaled(const MultiplyJob& job, uint8_t* codes, const Position& p, const Stage& stage) {
  const int64_t pairs = (job.count + kPanelRows - 1) / kPanelRows;
  const int groups = job.w.format == Stored::kE2m1 ? 4 : 1;
  const Panel panel{codes, {}};
  for (int64_t pair = 0; pair < pairs && stage.first; ++pair) memset(&stage.sums[pair], 0, sizeof(Sums));
  for (int64_t block = p.block; block < p.block + p.blocks; ++block) {
    for (int g = 0; g < groups; ++g) {
      float factor[kPanelRows];
      for (int64_t row = 0; row < kPanelRows; ++row) {
        const RowBlock from(job.w, p.n + row < job.row_end ? p.n + row : job.row_end - 1, block);
        factor[row] = e8m0(from.scale[g]);
        Bf16x32 v[4];
        if (job.w.format == Stored::kE4m3) {
          e4m3_bf16(from.codes, v[0], v[1]);
          e4m3_bf16(from.codes + 64, v[2], v[3]);
        } else {
          e2m1_bf16(from.codes, v);
          for (auto& x : v) x = (Bf16x32)_mm512_maskz_mov_epi16(0xffu << (8 * g), (Bytes64)x);
        }
        const Bytes64 words[4] = {(Bytes64)v[0], (Bytes64)v[1], (Bytes64)v[2], (Bytes64)v[3]};
        panel.store(row, 0, words);
      }
      for (int64_t pair = 0; pair < pairs; ++pair) {
        const bool two = job.count - pair * kPanelRows > kTile;
        Sums part;
        tiles_zero();
        for (int64_t step = 0; step < kBlockSteps; ++step) {
          const uint8_t* w = panel.at + 2 * kTileBytes * step;
          const uint8_t* x = inputs_at(job, pair * kPanelRows, block) + step * kTileBytes;
          two ? tiles_multiply_2x2(w, w + kTileBytes, 64, x, x + kInputBlock, 64)
              : tiles_multiply_2x1(w, w + kTileBytes, 64, x, 64);
        }
        tiles_store(part.v[0][0][0], part.v[0][1][0], part.v[1][0][0], part.v[1][1][0], 64);
        for (int64_t row = 0; row < kPanelRows; ++row) {
          for (int side = 0; side < 2; ++side) {
            float* to = stage.sums[pair].v[row / kTile][side][row % kTile];
            store_f32(
                to, fma(load_f32(part.v[row / kTile][side][row % kTile]), splat(factor[row]), load_f32(to)));
          }
        }
      }
    }
  }
  for (int64_t pair = 0; pair < pairs && stage.last; ++pair)
    write_out(job, stage.sums[pair], p.n, pair * kPanelRows);
}

// Panels of a job in their order: groups of kGroupRows weight rows, stretches of K, panels of the group.
Position first_position(const MultiplyJob& job) {
  const int64_t blocks = blocks_of(job.w.cols);
  return {job.row_begin, 0, blocks < kStretchBlocks ? blocks : kStretchBlocks};
}
// False where there is none; `p` then stays as it is.
bool next_position(const MultiplyJob& job, Position& p) {
  const int64_t blocks = blocks_of(job.w.cols);
  const int64_t group = job.row_begin + (p.n - job.row_begin) / kGroupRows * kGroupRows;
  Position next = p;
  next.n += kPanelRows;
  if (next.n >= job.row_end || next.n >= group + kGroupRows) {
    next.n = group;
    next.block += kStretchBlocks;
    if (next.block >= blocks) {
      next.n = group + kGroupRows;
      next.block = 0;
      if (next.n >= job.row_end) return false;
    }
  }
  next.blocks = blocks - next.block < kStretchBlocks ? blocks - next.block : kStretchBlocks;
  p = next;
  return true;
}

constexpr int64_t kPanelBytes = kStretchBlocks * kBlockSteps * 2 * kTileBytes;
constexpr int64_t kGroupSums = kGroupRows / kPanelRows * (kWideInputs / kPanelRows);

template <Stored F>
void multiply_as(const MultiplyJob& job) {
  Panel panels[2] = {{job.scratch, {}}, {job.scratch + kPanelBytes, {}}};
  auto* sums = reinterpret_cast<Sums*>(job.scratch + 2 * kPanelBytes);
  const int64_t blocks = blocks_of(job.w.cols);
  Position p = first_position(job), next = p;
  next_position(job, next);
  Decoder<F>(job, p, next, panels[0]).advance(kPanelRows * kStretchBlocks);
  bool more = true;
  for (int turn = 0; more; turn ^= 1) {
    next = p;
    more = next_position(job, next);
    Position after = next;
    next_position(job, after);
    if (!more) next.blocks = 0;  // nothing to decode
    Decoder<F> decoder(job, next, after, panels[turn ^ 1]);
    const int64_t group = (p.n - job.row_begin) / kGroupRows * kGroupRows + job.row_begin;
    const int64_t rows = job.row_end - group < kGroupRows ? job.row_end - group : kGroupRows;
    const int64_t group_panels = (rows + kPanelRows - 1) / kPanelRows, panel = (p.n - group) / kPanelRows;
    const bool last = p.block + p.blocks == blocks;
    const Stage stage{p.block == 0,
                      last,
                      sums + (p.n - job.row_begin) % kGroupRows / kPanelRows * (kWideInputs / kPanelRows),
                      kStretchBlocks * job.x.stride,
                      static_cast<int>(32 * panel / group_panels),
                      last ? 0 : static_cast<int>(32 * (panel + 1) / group_panels)};
    if (panels[turn].seen.tame() || F == Stored::kBf16) {
      run_panel(job, panels[turn], p, stage, decoder);
    } else {
      run_unscaled(job, panels[turn].at, p, stage);
      decoder.advance(decoder.pieces());
    }
    p = next;
  }
}

}  // namespace

// AMX multiplies bf16 so fast that int8, whose sums leave the tiles at every scale, would not gain.
bool has_wide(Route route) { return route == Route::kWideBf16; }

int64_t wide_tile_rows(Route) { return kTile; }

int64_t wide_layout(PackedRows& x) {
  const int64_t tiles = (x.rows + kPanelRows - 1) / kPanelRows * 2;  // pairs, so that both may be read
  x.stride =
      tiles * kInputBlock + 64;  // the odd line keeps the blocks of a tile out of each other's cache sets
  return blocks_of(x.cols) * x.stride;
}

namespace {

// 128 words in column order -> the order in which the weights of a format are decoded.
struct WordOrder {
  alignas(64) uint16_t first[32], second[32];  // of 64 words: those of an even and of an odd vector (e4m3)
  alignas(64) uint16_t part[4][32];            // of 64 words: every fourth, twice (e2m1)
};
constexpr WordOrder make_word_order() {
  WordOrder o{};
  for (int i = 0; i < 32; ++i) {
    o.first[i] = static_cast<uint16_t>(e4m3_place(i));
    o.second[i] = static_cast<uint16_t>(e4m3_place(32 + i));
    for (int j = 0; j < 4; ++j) o.part[j][i] = static_cast<uint16_t>(e2m1_place(32 * j + i) % 64);
  }
  return o;
}
constexpr WordOrder kWordOrder = make_word_order();

void place_words(Stored format, Bytes64 w[4]) {
  if (format == Stored::kE4m3) {
    const Bytes64 first = _mm512_load_si512(kWordOrder.first), second = _mm512_load_si512(kWordOrder.second);
    for (int i = 0; i < 4; i += 2) {
      const Bytes64 even = _mm512_permutex2var_epi16(w[i], first, w[i + 1]);
      w[i + 1] = _mm512_permutex2var_epi16(w[i], second, w[i + 1]);
      w[i] = even;
    }
  } else if (format == Stored::kE2m1) {
    Bytes64 placed[4];
    for (int j = 0; j < 4; ++j) {
      const Bytes64 part = _mm512_load_si512(kWordOrder.part[j]);
      placed[j] = _mm512_mask_mov_epi32(_mm512_permutex2var_epi16(w[0], part, w[1]), 0xff00,
                                        _mm512_permutex2var_epi16(w[2], part, w[3]));
    }
    for (int j = 0; j < 4; ++j) w[j] = placed[j];
  }
}

}  // namespace

// Blocks of up to 16 rows, pairs of columns going from rows to lanes.
void wide_pack(const PackedRows& x, int64_t row, int64_t count, const float* const* from, int64_t begin,
               int64_t end) {
  for (int64_t b = begin / kBlock; b < blocks_of(end); ++b) {
    Bytes64 words[4][kTile] = {};
    for (int64_t r = 0; r < count; ++r) {
      alignas(64) float padded[kBlock];
      const float* v = take_block(from[r], begin, end, b, padded);
      for (int line = 0; line < kBlock; line += 16)
        prefetch(v + kBlock + line);  // 16 short streams: no hardware
      Bytes64 w[4];
      for (int j = 0; j < 4; ++j)
        w[j] = (Bytes64)_mm512_cvtne2ps_pbh(load_f32(v + 32 * j + 16), load_f32(v + 32 * j));
      place_words(x.format, w);
      for (int j = 0; j < 4; ++j) words[j][row % kTile + r] = w[j];
    }
    const auto lanes = static_cast<__mmask16>(((1u << count) - 1) << row % kTile);
    uint8_t* to = x.data + b * x.stride + row / kTile * kInputBlock;
    for (int j = 0; j < 4; ++j) {
      transpose_dwords(words[j]);
      for (int pair = 0; pair < 16; ++pair)
        _mm512_mask_storeu_epi32(to + j * kTileBytes + pair * 64, lanes, words[j][pair]);
    }
  }
}

int64_t wide_scratch_bytes(Route) {
  return 2 * kPanelBytes + kGroupSums * static_cast<int64_t>(sizeof(Sums));
}

void wide_multiply(const MultiplyJob& job) {
  tiles_open();
  switch (job.w.format) {
    case Stored::kBf16:
      multiply_as<Stored::kBf16>(job);
      break;
    case Stored::kE4m3:
      multiply_as<Stored::kE4m3>(job);
      break;
    case Stored::kE2m1:
      multiply_as<Stored::kE2m1>(job);
      break;
    case Stored::kF32:  // has no bf16 route
      break;
  }
  tiles_close();
}

}  // namespace kvasir::cpu::KVASIR_ISA

#endif
