// Synthetic weights: random, but in the official shapes and formats, with code and scale statistics like
// real ones, so that kernels do the work they would do on a download.
//
// A weight of [out, in] has variance about 1/in, so that y = x W^T is about as large as x; norms are near 1,
// hyper-connection gates near their middle, and activations stay of ordinary size through any number of
// layers. Every value is a fresh random draw (no block is repeated): 64 bits of a counter-based generator
// pick table entries of a quantised normal distribution. Each piece of work has a generator of its own,
// seeded by (seed, tensor, piece), so the result does not depend on the number of threads.
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "base/thread_pool.h"
#include "model/load.h"
#include "model/tensor_table.h"

namespace kvasir {
namespace {

constexpr int64_t kPieceBytes = 1 << 20;  // of one tensor, drawn by one task
constexpr int64_t kAlign = 64;
constexpr size_t kDraws = 1 << 16;
constexpr float kFp4Sigma = 2.0f;      // in codes: 6, the largest, is 3 sigma away
constexpr float kFp8Sigma = 64.0f;     // 448 is 7 sigma away; one draw in some thousands is subnormal
constexpr float kFp4ScaleRms = 0.79f;  // of scales that are 1 or 1/2 with equal chance

// The generator of one piece (tensor/memory.h).
class Random {
 public:
  Random(uint64_t seed, uint64_t tensor, uint64_t piece) : state_(random_state(seed, tensor, piece)) {}
  uint64_t next() { return random_bits(state_ += kRandomStep); }

 private:
  uint64_t state_;
};

// The normal distribution cut into equally likely draws, in each format.
struct Tables {
  std::array<float, kDraws> normal;    // sigma 1
  std::array<uint16_t, kDraws> bf16s;  // bf16 bits, sigma 1
  std::array<uint8_t, kDraws> e4m3;    // sigma kFp8Sigma
  std::array<uint8_t, kDraws>
      fp4;  // two nibbles from two halves of the index, each of 256 draws, sigma kFp4Sigma
};

double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

// The n quantiles z with cdf(z) = (i + 1/2) / n, ascending; n is even. Newton steps from one to the next
// over the upper half, symmetry for the lower.
std::vector<float> normal_quantiles(size_t n) {
  std::vector<float> out(n);
  double z = 0;
  for (size_t i = n / 2; i < n; ++i) {
    double target = (static_cast<double>(i) + 0.5) / static_cast<double>(n);
    for (int step = 0; step < 5; ++step) {
      double density = std::exp(-z * z / 2) / std::sqrt(2 * M_PI);
      z += (target - normal_cdf(z)) / density;
    }
    out[i] = static_cast<float>(z);
    out[n - 1 - i] = -out[i];
  }
  return out;
}

std::unique_ptr<Tables> make_tables() {
  auto t = std::make_unique<Tables>();
  const std::vector<float> fine = normal_quantiles(kDraws), coarse = normal_quantiles(256);
  for (size_t i = 0; i < kDraws; ++i) {
    float z = fine[i];
    t->normal[i] = z;
    t->bf16s[i] = to_bf16(z).bits;
    t->e4m3[i] = float_to_e4m3(z * kFp8Sigma);
  }
  std::array<uint8_t, 256> nibble;
  for (size_t i = 0; i < 256; ++i) nibble[i] = float_to_e2m1(coarse[i] * kFp4Sigma);
  for (size_t i = 0; i < kDraws; ++i) t->fp4[i] = static_cast<uint8_t>(nibble[i & 255] | nibble[i >> 8] << 4);
  return t;
}

template <class T, class Fn>
void draw(Random& random, T* out, int64_t count, Fn&& of_16_bits) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    uint64_t r = random.next();
    for (int k = 0; k < 4; ++k) out[i + k] = of_16_bits(static_cast<uint16_t>(r >> (16 * k)));
  }
  for (uint64_t r = i < count ? random.next() : 0; i < count; ++i, r >>= 16)
    out[i] = of_16_bits(static_cast<uint16_t>(r));
}

// e8m0 byte of the power of two nearest to x.
uint8_t nearest_scale(float x) { return static_cast<uint8_t>(127 + std::lround(std::log2(x))); }

// Where a f32 tensor's values lie.
struct Spread {
  float mean, sigma;
};

Spread spread_of(const TensorEntry& e) {
  auto ends = [&](std::string_view suffix) { return e.name.ends_with(suffix); };
  if (e.kind == TensorKind::kBf16Vector) return {1.f, 0.1f};  // norms
  if (ends("_fn"))
    return {0.f, 1.f / std::sqrt(static_cast<float>(e.cols))};  // mixes of order 1 before their scale
  if (ends("_scale")) return {0.5f, 0.1f};
  if (ends("gate.bias")) return {0.f, 0.05f};
  return {0.f, 0.5f};  // sinks, ape, hyper-connection bases
}

enum class Fill : uint8_t { kBf16, kFp8, kFp8Scale, kFp4, kFp4Scale, kF32, kF32OfBf16, kTable };

// One tensor's storage: where its bytes go and what they are.
struct Region {
  Fill fill;
  int64_t bytes;
  int64_t cols;   // of the matrix it belongs to
  Spread spread;  // kF32, kF32OfBf16
  std::byte* data = nullptr;
};

class Drawer {
 public:
  Drawer(const ModelConfig& config, uint64_t seed) : config_(config), seed_(seed), tables_(make_tables()) {}

  // Bytes [begin, begin + kPieceBytes) of a region, or what is left of it.
  void fill(const Region& r, uint64_t tensor, int64_t piece) const {
    Random random(seed_, tensor, static_cast<uint64_t>(piece));
    int64_t begin = piece * piece_bytes(r), count = std::min(piece_bytes(r), r.bytes - begin);
    std::byte* out = r.data + begin;
    const Tables& t = *tables_;
    switch (r.fill) {
      case Fill::kBf16:
        return draw(random, reinterpret_cast<uint16_t*>(out), count / 2, [&](uint16_t i) { return scaled_bf16(r, i); });
      case Fill::kFp8:
        return draw(random, reinterpret_cast<uint8_t*>(out), count, [&](uint16_t i) { return t.e4m3[i]; });
      case Fill::kFp4:
        return draw(random, reinterpret_cast<uint8_t*>(out), count, [&](uint16_t i) { return t.fp4[i]; });
      case Fill::kFp8Scale:
        std::fill_n(reinterpret_cast<uint8_t*>(out), count, fp8_scale(r));
        return;
      case Fill::kFp4Scale:
        return draw(random, reinterpret_cast<uint8_t*>(out), count, [&](uint16_t i) { return fp4_scale(r, i); });
      case Fill::kF32:
      case Fill::kF32OfBf16:
        return draw(random, reinterpret_cast<float*>(out), count / 4, [&](uint16_t i) { return spread(r, i); });
      case Fill::kTable:
        return fill_table(random, reinterpret_cast<int32_t*>(out), count / (4 * r.cols), r.cols);
    }
  }

  // A whole region in memory that is not on the host: the same draws.
  void fill(const Region& r, uint64_t tensor, Memory& memory) const {
    RandomDraw d{r.data, r.bytes, 1, nullptr, seed_, tensor, piece_bytes(r)};
    std::vector<std::byte> table;
    auto use = [&]<class T>(T, auto&& of_16_bits) {
      table.resize(kDraws * sizeof(T));
      for (size_t i = 0; i < kDraws; ++i) reinterpret_cast<T*>(table.data())[i] = of_16_bits(static_cast<uint16_t>(i));
      d.count = r.bytes / static_cast<int64_t>(sizeof(T));
      d.element_bytes = sizeof(T);
      d.table = table.data();
      memory.draw(d);
    };
    const Tables& t = *tables_;
    switch (r.fill) {
      case Fill::kBf16:
        return use(uint16_t{}, [&](uint16_t i) { return scaled_bf16(r, i); });
      case Fill::kFp8:
        return use(uint8_t{}, [&](uint16_t i) { return t.e4m3[i]; });
      case Fill::kFp4:
        return use(uint8_t{}, [&](uint16_t i) { return t.fp4[i]; });
      case Fill::kFp8Scale:
        return use(uint8_t{}, [&](uint16_t) { return fp8_scale(r); });
      case Fill::kFp4Scale:
        return use(uint8_t{}, [&](uint16_t i) { return fp4_scale(r, i); });
      case Fill::kF32:
      case Fill::kF32OfBf16:
        return use(float{}, [&](uint16_t i) { return spread(r, i); });
      case Fill::kTable: {
        std::vector<int32_t> rows(static_cast<size_t>(r.bytes / 4));
        Region on_host = r;
        on_host.data = reinterpret_cast<std::byte*>(rows.data());
        for (int64_t piece = 0; piece < pieces(r); ++piece) fill(on_host, tensor, piece);
        return memory.write(r.data, rows.data(), r.bytes);
      }
    }
  }

  // Pieces hold whole rows of token tables and whole elements of everything else.
  static int64_t piece_bytes(const Region& r) {
    return r.fill == Fill::kTable ? kPieceBytes / (4 * r.cols) * (4 * r.cols) : kPieceBytes;
  }
  static int64_t pieces(const Region& r) { return (r.bytes + piece_bytes(r) - 1) / piece_bytes(r); }

 private:
  static float target(const Region& r) { return 1.f / std::sqrt(static_cast<float>(r.cols)); }
  // Scaled by a power of two in the exponent; the smallest draw is 1e-5, so nothing underflows.
  uint16_t scaled_bf16(const Region& r, uint16_t i) const {
    return static_cast<uint16_t>(tables_->bf16s[i] - static_cast<uint16_t>(std::lround(-std::log2(target(r))) << 7));
  }
  static uint8_t fp8_scale(const Region& r) { return nearest_scale(target(r) / kFp8Sigma); }
  static uint8_t fp4_scale(const Region& r, uint16_t i) {
    return static_cast<uint8_t>(nearest_scale(target(r) / (kFp4Sigma * kFp4ScaleRms)) - (i & 1));
  }
  float spread(const Region& r, uint16_t i) const {
    float value = r.spread.mean + r.spread.sigma * tables_->normal[i];
    return r.fill == Fill::kF32OfBf16 ? round_bf16(value) : value;
  }

  // Each row: distinct experts.
  void fill_table(Random& random, int32_t* out, int64_t rows, int64_t k) const {
    for (int64_t row = 0; row < rows; ++row, out += k) {
      for (int64_t i = 0; i < k;) {
        out[i] = static_cast<int32_t>(random.next() % static_cast<uint64_t>(config_.num_experts));
        if (std::find(out, out + i, out[i]) == out + i) ++i;
      }
    }
  }

  const ModelConfig& config_;
  uint64_t seed_;
  std::unique_ptr<Tables> tables_;
};

// What an entry needs: its values and, for quantised matrices, its scales.
std::vector<Region> regions_of(const TensorEntry& e) {
  int64_t n = e.parameters();
  switch (e.kind) {
    case TensorKind::kBf16Vector:
      return {{Fill::kF32OfBf16, n * 4, e.cols, spread_of(e)}};
    case TensorKind::kF32Vector:
    case TensorKind::kF32Matrix:
      return {{Fill::kF32, n * 4, e.cols, spread_of(e)}};
    case TensorKind::kBf16Matrix:
      return {{Fill::kBf16, n * 2, e.cols, {}}};
    case TensorKind::kFp8Matrix:
      return {{Fill::kFp8, n, e.cols, {}}, {Fill::kFp8Scale, tile_scale(e).bytes(), e.cols, {}}};
    case TensorKind::kExpertMatrix:
      return {{Fill::kFp4, n / 2, e.cols, {}}, {Fill::kFp4Scale, group_scale(e).bytes(), e.cols, {}}};
    case TensorKind::kTokenTable:
      return {{Fill::kTable, n * 4, e.cols, {}}};
  }
  KVASIR_CHECK(false, "tensor kind {}", static_cast<int>(e.kind));
}

void bind(const TensorEntry& e, const std::vector<Region>& regions) {
  const std::byte* data = regions[0].data;
  if (auto* slot = std::get_if<WeightMatrix*>(&e.slot)) {
    (*slot)->format = e.kind == TensorKind::kBf16Matrix  ? WeightFormat::kBf16
                      : e.kind == TensorKind::kFp8Matrix ? WeightFormat::kFp8Block128
                                                         : WeightFormat::kFp4Group32;
    (*slot)->rows = e.rows;
    (*slot)->cols = e.cols;
    (*slot)->data = data;
    if (regions.size() > 1) (*slot)->scale = reinterpret_cast<const uint8_t*>(regions[1].data);
  } else if (auto* vector = std::get_if<View<const float, 1>*>(&e.slot)) {
    **vector = View<const float, 1>(reinterpret_cast<const float*>(data), {e.rows});
  } else if (auto* matrix = std::get_if<View<const float, 2>*>(&e.slot)) {
    **matrix = View<const float, 2>(reinterpret_cast<const float*>(data), {e.rows, e.cols});
  } else {
    **std::get_if<View<const int32_t, 2>*>(&e.slot) =
        View<const int32_t, 2>(reinterpret_cast<const int32_t*>(data), {e.rows, e.cols});
  }
}

int64_t rounded(int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

Status bind_inv_freq(Model& model, Memory& memory) {
  std::vector<float> window = model.config.inv_freq(0), compressed = model.config.inv_freq(4);
  auto bytes = static_cast<int64_t>(window.size() * sizeof(float));
  KVASIR_TRY(Buffer table, memory.allocate(2 * bytes, "rotation frequencies"));
  memory.write(table.data(), window.data(), bytes);
  memory.write(table.data() + bytes, compressed.data(), bytes);
  auto* first = reinterpret_cast<const float*>(table.data());
  model.owned.push_back(std::move(table));
  auto half = [&](size_t i) {
    return View<const float, 1>(first + i * window.size(), {static_cast<int64_t>(window.size())});
  };
  for (LayerWeights& layer : model.layers) layer.inv_freq = half(layer.ratio == 0 ? 0 : 1);
  if (model.mtp) model.mtp->block.inv_freq = half(0);
  return {};
}

// The experts' table of each layer, where ops can read it.
Status place_tables(Model& model, Memory& memory) {
  auto place = [&](MoeWeights& moe) -> Status {
    auto bytes = static_cast<int64_t>(moe.experts.size() * sizeof(ExpertWeights));
    KVASIR_TRY(Buffer table, memory.allocate(bytes, "the table of experts"));
    memory.write(table.data(), moe.experts.data(), bytes);
    moe.table = {reinterpret_cast<const ExpertWeights*>(table.data()), {static_cast<int64_t>(moe.experts.size())}};
    model.owned.push_back(std::move(table));
    return {};
  };
  for (LayerWeights& layer : model.layers) KVASIR_TRY_STATUS(place(layer.moe));
  if (model.mtp) KVASIR_TRY_STATUS(place(model.mtp->block.moe));
  return {};
}

// A piece of a region, as tasks are counted.
struct Piece {
  size_t region;
  int64_t index;
};

}  // namespace

Result<Model> make_synthetic(const ModelConfig& config, uint64_t seed, int threads, ProgressSink* progress, Memory& memory) {
  Model model;
  model.config = config;
  shape_model(model);
  const std::vector<TensorEntry> entries = list_tensors(model);
  std::vector<Region> regions;
  std::vector<std::vector<Region>> of_entry;
  int64_t total = 0;
  for (const TensorEntry& e : entries) {
    of_entry.push_back(regions_of(e));
    for (const Region& r : of_entry.back()) total += rounded(r.bytes);
  }
  KVASIR_TRY(int64_t available, memory.available());
  if (total > available) {
    return Error{ErrorCode::kBusy, fmt::format("synthetic weights of {} layers need {} bytes of memory, and "
                                               "{} are available: ask for fewer layers",
                                               config.num_layers, total, available)};
  }
  KVASIR_TRY(Buffer buffer, memory.allocate(total, "synthetic weights"));
  std::byte* next = buffer.data();
  std::vector<Piece> pieces;
  for (size_t i = 0; i < entries.size(); ++i) {
    for (Region& r : of_entry[i]) {
      r.data = next;
      next += rounded(r.bytes);
      for (int64_t p = 0; p < Drawer::pieces(r); ++p) pieces.push_back({regions.size(), p});
      regions.push_back(r);
    }
    bind(entries[i], of_entry[i]);
  }
  model.owned.push_back(std::move(buffer));
  KVASIR_TRY_STATUS(bind_inv_freq(model, memory));
  KVASIR_TRY_STATUS(place_tables(model, memory));

  Drawer drawer(config, seed);
  if (!memory.on_host()) {
    for (size_t i = 0; i < regions.size(); ++i) drawer.fill(regions[i], i, memory);
    return model;
  }
  ThreadPool pool(threads);
  if (progress) progress->begin("drawing synthetic weights", ProgressUnit::kBytes, total);
  constexpr int64_t kPiecesPerTick = 256;
  const auto count = static_cast<int64_t>(pieces.size());
  int64_t done = 0;
  for (int64_t first = 0; first < count; first += kPiecesPerTick) {
    int64_t now = std::min(kPiecesPerTick, count - first);
    pool.run(now, [&](int64_t task, int) {
      const Piece& piece = pieces[static_cast<size_t>(first + task)];
      drawer.fill(regions[piece.region], piece.region, piece.index);
    });
    for (int64_t task = 0; task < now; ++task) {
      const Region& r = regions[pieces[static_cast<size_t>(first + task)].region];
      done += std::min(Drawer::piece_bytes(r), r.bytes);  // the last piece of a region may be shorter
    }
    if (progress) progress->tick(std::min(done, total));
  }
  if (progress) progress->end();
  return model;
}

}  // namespace kvasir
