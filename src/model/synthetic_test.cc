// Synthetic weights: real formats, sensible sizes, the same bits from any number of threads.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <set>

#include "model/load.h"
#include "model/tensor_table.h"

namespace kvasir {
namespace {

// A layer of each kind, a quarter as wide as Flash's.
ModelConfig small_flash() {
  ModelConfig c = with_layers(flash_config(), 4);
  c.dim = 1024;
  c.num_heads = 16;
  c.q_rank = 256;
  c.o_groups = 4;
  c.o_rank = 256;
  c.expert_dim = 512;
  c.num_experts = 8;
  c.vocab_size = 4096;
  c.num_hash_layers = 1;
  return c;
}

Model draw(const ModelConfig& c, uint64_t seed, int threads) {
  auto model = make_synthetic(c, seed, threads, nullptr);
  KVASIR_CHECK(model, "{}", model.error().message);
  return std::move(*model);
}

TEST(Synthetic, IsTheSameFromAnyNumberOfThreadsAndDiffersBySeed) {
  ModelConfig c = with_layers(small_flash(), 2);
  c.num_mtp = 0;
  Model one = draw(c, 5, 1), three = draw(c, 5, 3), other = draw(c, 6, 1);
  EXPECT_EQ(one.mtp, nullptr);
  ASSERT_EQ(one.owned[0].size(), three.owned[0].size());
  EXPECT_EQ(std::memcmp(one.owned[0].data(), three.owned[0].data(), static_cast<size_t>(one.owned[0].size())),
            0);
  const ExpertWeights &a = one.layers[1].moe.experts[3], &b = other.layers[1].moe.experts[3];
  EXPECT_NE(std::memcmp(a.w1.data, b.w1.data, 4096), 0);
  EXPECT_NE(std::memcmp(a.w1.data, a.w3.data, 4096), 0);
}

TEST(Synthetic, EveryWeightIsFiniteAndKeepsActivationsTheirSize) {
  Model model = draw(small_flash(), 1, 2);
  std::vector<float> row(32768);
  for (const TensorEntry& e : list_tensors(model)) {
    SCOPED_TRACE(e.name);
    auto* slot = std::get_if<WeightMatrix*>(&e.slot);
    if (!slot) continue;
    const WeightMatrix& w = **slot;
    ASSERT_EQ(w.rows, e.rows);
    // The gain of y = x W^T for unit x is the root of a row's sum of squares.
    double sum = 0;
    constexpr int64_t kRows = 16;
    for (int64_t i = 0; i < kRows; ++i) {
      dequantise_row(w, i * w.rows / kRows, row.data());
      for (int64_t k = 0; k < w.cols; ++k) {
        ASSERT_TRUE(std::isfinite(row[static_cast<size_t>(k)]));
        sum += static_cast<double>(row[static_cast<size_t>(k)]) * row[static_cast<size_t>(k)];
      }
    }
    double gain = std::sqrt(sum / kRows);
    EXPECT_GT(gain, 0.5);
    EXPECT_LT(gain, 1.5);
  }
  for (int64_t i = 0; i < model.norm.count(); ++i) {
    ASSERT_NEAR(model.norm(i), 1.f, 0.6f);
    ASSERT_EQ(model.norm(i), round_bf16(model.norm(i)));  // stored as BF16 in a real file
  }
}

TEST(Synthetic, UsesTheWholeRangeOfCodes) {
  Model model = draw(small_flash(), 1, 2);
  const WeightMatrix& fp8 = model.layers[2].attn.wq_b;
  std::array<int64_t, 256> codes{};
  for (int64_t i = 0; i < fp8.rows * fp8.cols; ++i) codes[static_cast<const uint8_t*>(fp8.data)[i]]++;
  EXPECT_EQ(codes[0x7f] + codes[0xff], 0) << "NaN codes";
  int64_t subnormal = 0;
  for (int c = 1; c < 8; ++c)
    subnormal += codes[static_cast<size_t>(c)] + codes[static_cast<size_t>(c + 128)];
  EXPECT_GT(subnormal, 0);
  const WeightMatrix& fp4 = model.layers[2].moe.experts[7].w2;
  std::array<int64_t, 16> nibbles{};
  for (int64_t i = 0; i < fp4.rows * fp4.cols / 2; ++i) {
    uint8_t byte = static_cast<const uint8_t*>(fp4.data)[i];
    nibbles[byte & 15]++;
    nibbles[byte >> 4]++;
  }
  for (size_t n = 0; n < 16; ++n) {
    if (n == 8) continue;  // -0, which the halves of a normal distribution need not have
    EXPECT_GT(nibbles[n], fp4.rows * fp4.cols / 200) << n;
  }
  std::set<uint8_t> scales(fp4.scale, fp4.scale + fp4.rows * fp4.cols / 32);
  EXPECT_EQ(scales.size(), 2u);
  EXPECT_FALSE(scales.count(255));
}

TEST(Synthetic, TokenTablesNameDistinctExperts) {
  Model model = draw(small_flash(), 9, 2);
  View<const int32_t, 2> table = model.layers[0].moe.tid2eid;
  ASSERT_EQ(table.shape(0), 4096);
  std::set<int32_t> all;
  for (int64_t t = 0; t < table.shape(0); ++t) {
    std::set<int32_t> row(table.row(t), table.row(t) + table.shape(1));
    ASSERT_EQ(row.size(), 6u) << "token " << t;
    all.insert(row.begin(), row.end());
  }
  EXPECT_EQ(all.size(), 8u);
  EXPECT_EQ(*all.begin(), 0);
  EXPECT_EQ(*all.rbegin(), 7);
}

TEST(Synthetic, AskingForMoreThanMemoryIsAnErrorThatSaysHowMuch) {
  auto model = make_synthetic(pro_config(), 1, 1, nullptr);  // 865 GB
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().code, ErrorCode::kBusy);
  EXPECT_NE(model.error().message.find("61 layers need"), std::string::npos) << model.error().message;
}

}  // namespace
}  // namespace kvasir
