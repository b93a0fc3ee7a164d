// What the trap tests share: every backend, random rows, and a one-layer cache to write into.
//
// Each test is named after its trap in spec/architecture.md section 11, where the failures seen elsewhere are
// listed. Op-level traps run on every backend; model-level ones on the oracle checkpoint.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "../golden/oracle_fixture.h"
#include "ops/one_sequence.h"

namespace kvasir {

class TrapOps : public testing::TestWithParam<Backend> {
 protected:
  std::unique_ptr<Ops> make(Numerics numerics = Numerics::kExact) {
    auto ops = make_ops({GetParam().kind, numerics, GetParam().isa, 2});
    EXPECT_TRUE(ops) << ops.error().message;
    return *std::move(ops);
  }

  std::vector<float> random(int64_t n, float scale = 1.f) {
    std::normal_distribution<float> normal(0.f, scale);
    std::vector<float> v(n);
    for (float& x : v) x = normal(rng_);
    return v;
  }

  std::mt19937 rng_{12345};
};

template <int Rank>
View<float, Rank> view(std::vector<float>& v, std::array<int64_t, Rank> shape) {
  return {v.data(), shape};
}
template <int Rank>
View<const float, Rank> view(const std::vector<float>& v, std::array<int64_t, Rank> shape) {
  return {v.data(), shape};
}

// Frequencies of a plain rope without YaRN.
inline std::vector<float> plain_freq(int rope_dim, double theta) {
  std::vector<float> f(rope_dim / 2);
  for (int i = 0; i < rope_dim / 2; ++i) f[i] = static_cast<float>(std::pow(theta, -2.0 * i / rope_dim));
  return f;
}

// Pages for the rows of one layer, f32 rows (kExact).
struct OneLayerPages {
  OneLayerPages(const KvRowFormat& f, int rows_per_page, int64_t rows) : format(f) {
    section.rows_per_page = rows_per_page;
    section.data_offset = 0;
    section.scale_offset = int64_t{f.data_bytes} * rows_per_page;
    int64_t pages = (rows + rows_per_page - 1) / rows_per_page;
    memory.resize(pages, std::vector<std::byte>(f.row_bytes() * rows_per_page + 64));
    for (auto& m : memory) addresses.push_back(m.data());
  }
  std::vector<float> row(int64_t r) const {
    std::vector<float> out(format.dim);
    KvRows page = section.in_page(addresses[r / section.rows_per_page]);
    int64_t slot = r % section.rows_per_page;
    decode_row(format, page.row_data(format, slot), page.row_scale(format, slot), out.data());
    return out;
  }
  void put(int64_t r, const std::vector<float>& values) {
    KvRows page = section.in_page(addresses[r / section.rows_per_page]);
    int64_t slot = r % section.rows_per_page;
    encode_row(format, values.data(), page.row_data(format, slot), page.row_scale(format, slot));
  }

  KvRowFormat format;
  PageSection section;
  std::vector<std::vector<std::byte>> memory;
  std::vector<std::byte*> addresses;
};

#define KVASIR_TRAP_SUITE(suite) \
  INSTANTIATE_TEST_SUITE_P(Backends, suite, testing::ValuesIn(backends()), [](const auto& test) { return test.param.name(); })

}  // namespace kvasir
