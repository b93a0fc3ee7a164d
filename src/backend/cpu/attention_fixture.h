// For the tests around attention: random tensors, pages in memory, and a context per (numerics, ISA,
// threads).
#pragma once

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/context.h"
#include "ops/kv_page.h"
#include "tensor/dtype.h"
#include "tensor/view.h"

namespace kvasir::cpu {

inline std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAmx})
    if (isa_available(isa)) isas.push_back(isa);
  return isas;
}
inline constexpr Numerics kAllNumerics[] = {Numerics::kExact, Numerics::kNative, Numerics::kFast};

struct Backend {
  Backend(Numerics numerics, Isa isa, int threads)
      : pool(threads), context{.pool = pool, .numerics = numerics, .isa = isa} {}
  ThreadPool pool;
  CpuContext context;
};

// A dense tensor with its memory.
template <class T, int Rank>
struct Tensor {
  explicit Tensor(std::array<int64_t, Rank> shape) : data(size(shape)), view(data.data(), shape) {}
  static size_t size(const std::array<int64_t, Rank>& shape) {
    int64_t n = 1;
    for (int64_t s : shape) n *= s;
    return static_cast<size_t>(n);
  }
  std::vector<T> data;
  View<T, Rank> view;
};

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  float normal(float sigma = 1.f) { return sigma * normal_(engine_); }
  int64_t below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }
  template <int Rank>
  void fill(Tensor<float, Rank>& t, float sigma = 1.f, bool bf16_grid = false) {
    for (float& x : t.data) x = bf16_grid ? round_bf16(normal(sigma)) : normal(sigma);
  }

 private:
  std::mt19937 engine_;
  std::normal_distribution<float> normal_;
};

// Rows in one run of memory, as the engine lays them out; poisoned so that a read of an unwritten row shows.
struct RowStore {
  RowStore(const KvRowFormat& f, int64_t count)
      : format(f),
        data(static_cast<size_t>(f.data_bytes * count), std::byte{0x7f}),
        scale(static_cast<size_t>(f.scale_bytes * count) + 1, std::byte{0xff}) {}
  KvRows rows() { return {data.data(), scale.data()}; }
  std::vector<float> values(int64_t r) {
    std::vector<float> v(static_cast<size_t>(format.dim));
    decode_row(format, rows().row_data(format, r), rows().row_scale(format, r), v.data());
    return v;
  }
  KvRowFormat format;
  std::vector<std::byte> data, scale;
};

// Pages of one section; page p starts with `pad` unused bytes, so that offsets matter.
struct PageStore {
  PageStore(const KvRowFormat& f, int64_t count, int rows_per_page) : format(f) {
    section.rows_per_page = rows_per_page;
    section.data_offset = 64;
    section.scale_offset = 64 + int64_t{rows_per_page} * f.data_bytes + 16;
    int64_t bytes = section.scale_offset + int64_t{rows_per_page} * f.scale_bytes;
    for (int64_t p = 0; p * rows_per_page < count; ++p) {
      memory.emplace_back(static_cast<size_t>(bytes), std::byte{0x7f});
      pages.push_back(memory.back().data());
    }
  }
  std::byte* data(int64_t r) const {
    return section.in_page(pages[static_cast<size_t>(r / section.rows_per_page)])
        .row_data(format, r % section.rows_per_page);
  }
  std::byte* scale(int64_t r) const {
    return section.in_page(pages[static_cast<size_t>(r / section.rows_per_page)])
        .row_scale(format, r % section.rows_per_page);
  }
  std::vector<float> values(int64_t r) const {
    std::vector<float> v(static_cast<size_t>(format.dim));
    decode_row(format, data(r), scale(r), v.data());
    return v;
  }
  void fill_random(Random& random, int64_t count, float sigma = 1.f) {
    std::vector<float> v(static_cast<size_t>(format.dim));
    for (int64_t r = 0; r < count; ++r) {
      for (float& x : v) x = round_bf16(random.normal(sigma));
      encode_row(format, v.data(), data(r), scale(r));
    }
  }
  KvRowFormat format;
  PageSection section;
  std::vector<std::vector<std::byte>> memory;
  std::vector<std::byte*> pages;
};

inline std::string case_name(Numerics numerics, Isa isa) {
  return std::string(numerics_name(numerics)) + " " + std::string(isa_name(isa));
}

}  // namespace kvasir::cpu
