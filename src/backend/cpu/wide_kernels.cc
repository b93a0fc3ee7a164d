// Wide routes on AVX-512: decode 32 weight rows x a stretch of K into two panels, run every input
// past them, go on along K. The outputs are the accumulators between stretches.
//
//   kWideInt8   per group of 32 columns: exact integer sums, then f32 += sum * weight scale * input scale
//   kWideBf16   f32 sums over the whole stretch; weights carry their scale. Where bf16 has no room for such a
//               scale, blocks of one scale are multiplied without it and their sums get it
// Inputs stand in tiles, interleaved step by step, so that a kernel reads one stream and no two rows meet in
// a set of the cache. Compiled once per instruction set. Threading: pure functions over the caller's memory.
#include "backend/cpu/wide_kernels.h"

#include "backend/cpu/pack_kernels.h"
#include "backend/cpu/wide_panels.h"

namespace kvasir::cpu::KVASIR_ISA {

#if KVASIR_ISA_avx512

namespace {

constexpr int64_t kPanelRows = 32;  // two vectors of outputs
// Six inputs: with two panels 12 integer and 12 float accumulators. A group of 32 columns of a tile.
constexpr int kInt8Inputs = 6;
struct Int8Group {
  int32_t code[8][kInt8Inputs];  // step, input: four codes
  float scale[kInt8Inputs];
  int32_t start[kInt8Inputs];  // minus the bias of the weights times the sum of the codes
  int32_t pad[4];
};
static_assert(sizeof(Int8Group) == 256);

constexpr int kBf16Inputs = 12;  // 24 accumulators with two panels: per step a pair of columns of every input
constexpr int64_t kInt8Block = 4 * sizeof(Int8Group),
                  kBf16Block = kBlock * kBf16Inputs * 2;  // 128 columns of a tile

void pack_int8_wide(const float v[kBlock], Int8Group* group, int input) {
  for (int g = 0; g < 4; ++g) {
    alignas(32) int8_t code[32], placed[32];
    group[g].scale[input] = quantise_int8(v + 32 * g, code);
    int32_t total = 0;
    for (int i = 0; i < 32; ++i) total += code[i];
    group[g].start[input] = -kE2m1Bias * total;
    place_even_odd(code, placed);
    for (int step = 0; step < 8; ++step) memcpy(&group[g].code[step][input], placed + 4 * step, 4);
  }
}

void pack_bf16_wide(Stored format, const float v[kBlock], uint8_t* tile, int input) {
  alignas(64) uint16_t bits[kBlock];
  for (int i = 0; i < kBlock; ++i) bits[i] = bf16_of(v[i]);
  for (int i = 0; i < kBlock; i += 32) {
    Bytes64 words = load_bytes(bits + i);
    if (format == Stored::kE4m3) words = place_0213(words);
    if (format == Stored::kE2m1) words = place_04152637(words);
    store_bytes(bits + i, words);
  }
  for (int step = 0; step < kBlock / 2; ++step)
    memcpy(tile + (step * kBf16Inputs + input) * 4, bits + 2 * step, 4);
}

// Two panels, one after the other.
struct Panels {
  uint8_t* codes;
  int32_t* steps;       // int8 only
  bool tame[2];         // int8 only
  float* partial;       // see Tile
  const float* factor;  // see Tile
};

// What a tile of inputs needs besides the panels.
struct Tile {
  const uint8_t* x;      // its first block of this stretch
  int64_t block_stride;  // bytes to the next
  float* partial;        // 32 sums of each input: what the stretches before this one came to
  float* out[2 * 16];    // of each input, at the panel pair's first output
  const float* factor;   // of each of the 32 outputs, for the sums of this stretch; null: 1
  int lanes0, lanes1;    // outputs of the first and the second vector
  bool first, last;      // stretch
};

// Sums wait for the next stretch close together: outputs stand a power of two apart and would share a few
// cache sets.
inline void finish(const Tile& tile, int m, F32x16 v0, F32x16 v1) {
  float* partial = tile.partial + 32 * m;
  if (__builtin_expect(tile.factor != nullptr, 0)) {
    v0 = mul(v0, load_f32(tile.factor));
    v1 = mul(v1, load_f32(tile.factor + 16));
  }
  if (!tile.first) {
    v0 = add(v0, load_f32(partial));
    v1 = add(v1, load_f32(partial + 16));
  }
  if (tile.last) {
    store_f32_part(tile.out[m], v0, tile.lanes0);
    store_f32_part(tile.out[m] + 16, v1, tile.lanes1);
  } else {
    store_f32(partial, v0);
    store_f32(partial + 16, v1);
  }
}

inline const Int8Group& int8_group(const Tile& tile, int64_t g) {
  return *reinterpret_cast<const Int8Group*>(tile.x + g / 4 * tile.block_stride +
                                             g % 4 * static_cast<int64_t>(sizeof(Int8Group)));
}

// M inputs past a pair of int8 panels: per group 16 M byte products of vectors, then the sums go to f32.
template <int M, bool kAllTame>
void int8_tile(const Panels& panels, int64_t cols, const Tile& tile) {
  const uint8_t *panel = panels.codes, *panel1 = panel + kInt8Stretch * 16;
  const int32_t *steps = panels.steps, *steps1 = steps + kInt8Stretch / 2;
  F32x16 total[M][2];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) total[m][0] = total[m][1] = zero_f32();
  for (int64_t g = 0; g < cols / 32; ++g) {
    const Int8Group& x = int8_group(tile, g);
    for (int line = 0; line < 4; ++line)
      prefetch(reinterpret_cast<const uint8_t*>(&x) + kInt8Block + 64 * line);  // next tile
    I32x16 acc[M][2];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) acc[m][0] = acc[m][1] = broadcast_i32(x.start + m);
#pragma GCC unroll 8
    for (int64_t step = 0; step < 8; ++step) {
      Bytes64 w0 = load_bytes(panel + 512 * g + 64 * step), w1 = load_bytes(panel1 + 512 * g + 64 * step);
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) {
        Bytes64 codes = broadcast_i32(&x.code[step][m]);
        acc[m][0] = dot_u8i8(acc[m][0], w0, codes);
        acc[m][1] = dot_u8i8(acc[m][1], w1, codes);
      }
    }
    const I32x16 s0 = load_i32(steps + 16 * g), s1 = load_i32(steps1 + 16 * g);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      F32x16 xs = broadcast_f32(x.scale + m);
      if (kAllTame) {
        total[m][0] = fma(to_f32(acc[m][0]), scale_tame(xs, s0), total[m][0]);
        total[m][1] = fma(to_f32(acc[m][1]), scale_tame(xs, s1), total[m][1]);
      } else {
        total[m][0] = add(scale_any(mul(to_f32(acc[m][0]), xs), s0), total[m][0]);
        total[m][1] = add(scale_any(mul(to_f32(acc[m][1]), xs), s1), total[m][1]);
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) finish(tile, m, total[m][0], total[m][1]);
}

template <int M>
void run_int8(const Panels& panels, int64_t cols, const Tile& tile) {
  uint32_t wild = 0;
  for (int64_t g = 0; g < cols / 32; ++g) wild |= wild_scales(int8_group(tile, g).scale, M);
  wild == 0 && panels.tame[0] && panels.tame[1] ? int8_tile<M, true>(panels, cols, tile)
                                                : int8_tile<M, false>(panels, cols, tile);
}
void run_int8(const Panels& panels, int64_t cols, int count, const Tile& tile) {
  switch (count) {
    case 1:
      return run_int8<1>(panels, cols, tile);
    case 2:
      return run_int8<2>(panels, cols, tile);
    case 3:
      return run_int8<3>(panels, cols, tile);
    case 4:
      return run_int8<4>(panels, cols, tile);
    case 5:
      return run_int8<5>(panels, cols, tile);
    default:
      return run_int8<6>(panels, cols, tile);
  }
}

// M inputs past a pair of bf16 panels.
template <int M>
void bf16_tile(const Panels& panels, int64_t cols, const Tile& tile) {
  const uint8_t *panel = panels.codes, *panel1 = panel + kBf16Stretch * 32;
  F32x16 total[M][2];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) total[m][0] = total[m][1] = zero_f32();
  for (int64_t block = 0; block < cols; block += kBlock) {
    const uint8_t* x = tile.x + block / kBlock * tile.block_stride;
    const int64_t left = cols - block, steps = (left < kBlock ? left : kBlock) / 2;
    for (int64_t step = 0; step < steps; ++step) {
      Bf16x32 w0 = load_bf16x32(panel + 32 * block + 64 * step),
              w1 = load_bf16x32(panel1 + 32 * block + 64 * step);
      prefetch(x + step * kBf16Inputs * 4 + kBf16Block);  // the next tile's
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) {
        Bf16x32 pair = broadcast_bf16x2(x + (step * kBf16Inputs + m) * 4);
        total[m][0] = dot_bf16(total[m][0], w0, pair);
        total[m][1] = dot_bf16(total[m][1], w1, pair);
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) finish(tile, m, total[m][0], total[m][1]);
}
// The next size up reads what stands in the missing inputs' places.
template <int M>
void bf16_part(const Panels& panels, int64_t cols, int count, Tile tile) {
  float unused[32];
  for (int m = count; m < M; ++m) tile.out[m] = unused;
  bf16_tile<M>(panels, cols, tile);
}
void run_bf16(const Panels& panels, int64_t cols, int count, const Tile& tile) {
  if (count == 12) return bf16_tile<12>(panels, cols, tile);
  if (count > 8) return bf16_part<12>(panels, cols, count, tile);
  if (count > 4) return bf16_part<8>(panels, cols, count, tile);
  if (count > 2) return bf16_part<4>(panels, cols, count, tile);
  bf16_part<2>(panels, cols, count, tile);
}

// Inputs that one call of a kernel takes.
constexpr int kernel_inputs(Route route) { return route == Route::kWideInt8 ? kInt8Inputs : kBf16Inputs; }

// The stored weights of the next panels, fetched a few lines at a time while inputs pass the present ones: 32
// short pieces of rows are more than the hardware's prefetcher follows.
class Ahead {
 public:
  Ahead(const MultiplyJob& job, int64_t n, int64_t col, int64_t cols) : w_(job.w) {
    if (n >= job.row_end) return;
    const int64_t rows = job.row_end - n < kPanelRows ? job.row_end - n : kPanelRows;
    const int64_t begin = col * 64 / weight_chunk(w_.format),
                  end = begin + cols * 64 / weight_chunk(w_.format);
    at_ = w_.data + n * w_.row_bytes + begin;
    lines_per_row_ = ((end < w_.row_bytes ? end : w_.row_bytes) - begin + 63) / 64;
    lines_ = rows * lines_per_row_;
  }
  int64_t lines() const { return lines_; }
  void fetch(int64_t count) {
    for (; count > 0 && next_ < lines_; --count, ++next_)
      prefetch_far(at_ + next_ / lines_per_row_ * w_.row_bytes + next_ % lines_per_row_ * 64);
  }

 private:
  const StoredRows& w_;
  const uint8_t* at_ = nullptr;
  int64_t lines_per_row_ = 1, lines_ = 0, next_ = 0;
};

// Every input past the panels of rows [n, n + 32) and columns [col, col + cols).
void run_inputs(const MultiplyJob& job, const Panels& panels, int64_t n, int64_t col, int64_t cols,
                Ahead ahead) {
  const bool int8 = job.x.route == Route::kWideInt8;
  const int64_t lanes = job.row_end - n, per_call = kernel_inputs(job.x.route);
  const int64_t tile_bytes = int8 ? kInt8Block : kBf16Block;
  const int64_t lines_per_call = ahead.lines() * per_call / job.count + 1;
  Tile tile;
  tile.factor = panels.factor;
  tile.block_stride = job.x.stride;
  tile.lanes0 = static_cast<int>(lanes < 16 ? lanes : 16);
  tile.lanes1 = static_cast<int>(lanes < 16 ? 0 : lanes < 32 ? lanes - 16 : 16);
  tile.first = col == 0;
  tile.last = col + cols >= job.w.cols;
  for (int64_t i = 0; i < job.count; i += per_call) {
    const int count = static_cast<int>(job.count - i < per_call ? job.count - i : per_call);
    tile.x = job.x.data + col / kBlock * job.x.stride +
             (job.first + i) / wide_tile_rows(job.x.route) * tile_bytes + col % kBlock * tile_bytes / kBlock;
    tile.partial = panels.partial + 32 * i;
    for (int m = 0; m < count; ++m) tile.out[m] = job.out + (i + m) * job.out_stride + n - job.row_begin;
    ahead.fetch(lines_per_call);
    int8 ? run_int8(panels, cols, count, tile) : run_bf16(panels, cols, count, tile);
  }
}

}  // namespace

bool has_wide(Route) { return true; }

int64_t wide_tile_rows(Route route) { return route == Route::kWideInt8 ? kInt8Inputs : kBf16Inputs; }

int64_t wide_layout(PackedRows& x) {
  const int64_t tile_rows = kernel_inputs(x.route);  // whole calls, so that a kernel may read all its inputs
  const int64_t tiles = (x.rows + tile_rows - 1) / tile_rows * (tile_rows / wide_tile_rows(x.route));
  // The odd line keeps the blocks of a tile out of each other's cache sets.
  x.stride = tiles * (x.route == Route::kWideInt8 ? kInt8Block : kBf16Block) + 64;
  return blocks_of(x.cols) * x.stride;
}

void wide_pack(const PackedRows& x, int64_t row, int64_t count, const float* const* from, int64_t begin,
               int64_t end) {
  for (int64_t b = begin / kBlock; b < blocks_of(end); ++b) {
    uint8_t* block = x.data + b * x.stride;
    for (int64_t r = row; r < row + count; ++r) {
      const int64_t tile = r / wide_tile_rows(x.route);
      const int input = static_cast<int>(r % wide_tile_rows(x.route));
      alignas(64) float padded[kBlock];
      const float* v = take_block(from[r - row], begin, end, b, padded);
      if (x.route == Route::kWideInt8) {
        pack_int8_wide(v, reinterpret_cast<Int8Group*>(block + tile * kInt8Block), input);
      } else {
        pack_bf16_wide(x.format, v, block + tile * kBf16Block, input);
      }
    }
  }
}

// Codes of two panels, then their steps, then the partial sums of all inputs with room for a last tile.
constexpr int64_t kPanelBytes =
    2 * (kInt8Stretch * 16 > kBf16Stretch * 32 ? kInt8Stretch * 16 : kBf16Stretch * 32);
constexpr int64_t kStepBytes = kInt8Stretch / 32 * 2 * 64;
int64_t wide_scratch_bytes(Route) { return kPanelBytes + kStepBytes + (kWideInputs + 32) * kPanelRows * 4; }

namespace {

// A stretch that has scales out of bf16's reach: one block of columns of one scale after the other.
void multiply_unscaled(const MultiplyJob& job, const SixteenRows rows[2], Panels panels, int64_t n,
                       int64_t col, int64_t cols) {
  const int64_t group = job.w.format == Stored::kE4m3 ? kBlock : 32;
  alignas(64) float factor[2][16];
  panels.factor = factor[0];
  uint8_t* codes = panels.codes;
  for (int64_t block = col; block < col + cols; block += kBlock) {
    const int64_t left = col + cols - block, width = left < kBlock ? left : kBlock;
    for (int half = 0; half < 2; ++half)
      decode_unscaled(job.w, rows[half], block, width, codes + half * kBf16Stretch * 32);
    for (int64_t c = 0; c < width && block + c < job.w.cols; c += group) {
      for (int half = 0; half < 2; ++half)
        Scales(job.w, rows[half], block, width).values(block, c / 32 % (kBlock / group), factor[half]);
      panels.codes = codes + c * 32;
      run_inputs(job, panels, n, block + c, width < group ? width : group, Ahead(job, job.row_end, 0, 0));
    }
  }
}

}  // namespace

void wide_multiply(const MultiplyJob& job) {
  const bool int8 = job.x.route == Route::kWideInt8;
  const int64_t stretch = int8 ? kInt8Stretch : kBf16Stretch, width = weight_chunk(job.w.format);
  Panels panels{job.scratch,
                reinterpret_cast<int32_t*>(job.scratch + kPanelBytes),
                {true, true},
                reinterpret_cast<float*>(job.scratch + kPanelBytes + kStepBytes),
                nullptr};
  auto columns = [&](int64_t col) {
    const int64_t left = job.w.cols - col;
    return (left < stretch ? left + width - 1 : stretch) / width * width;
  };
  for (int64_t n = job.row_begin; n < job.row_end; n += kPanelRows) {
    const int64_t second = n + 16 < job.row_end ? n + 16 : n;  // no second panel: the first again, unseen
    const SixteenRows rows[2] = {sixteen_rows(job.w, n, job.row_end),
                                 sixteen_rows(job.w, second, job.row_end)};
    for (int64_t col = 0; col < job.w.cols; col += stretch) {
      const int64_t cols = columns(col), next = col + stretch;
      bool scaled = true;
      for (int64_t half = 0; half < 2 && n + 16 * half < job.row_end; ++half) {
        if (int8) {
          panels.tame[half] =
              decode_int8(job.w, rows[half], col, cols, panels.codes + half * kInt8Stretch * 16,
                          panels.steps + half * kInt8Stretch / 2);
        } else {
          scaled =
              decode_bf16(job.w, rows[half], col, cols, panels.codes + half * kBf16Stretch * 32) && scaled;
        }
      }
      if (!scaled) {
        multiply_unscaled(job, rows, panels, n, col, cols);
        continue;
      }
      run_inputs(
          job, panels, n, col, cols,
          next < job.w.cols ? Ahead(job, n, next, columns(next)) : Ahead(job, n + kPanelRows, 0, columns(0)));
    }
  }
}

#elif !KVASIR_ISA_amx  // AMX: tile_kernels.cc

bool has_wide(Route) { return false; }
int64_t wide_tile_rows(Route) { return 1; }
int64_t wide_layout(PackedRows&) { return 0; }
void wide_pack(const PackedRows&, int64_t, int64_t, const float* const*, int64_t, int64_t) {}
int64_t wide_scratch_bytes(Route) { return 0; }
void wide_multiply(const MultiplyJob&) {}

#endif

}  // namespace kvasir::cpu::KVASIR_ISA
