// Rows of every format, encoded and read back.
#include "ops/kv_page.h"

#include <gtest/gtest.h>

#include <vector>

#include "tensor/dtype.h"

namespace kvasir {
namespace {

std::vector<float> round_trip(const KvRowFormat& f, const std::vector<float>& in) {
  std::vector<std::byte> data(f.data_bytes), scale(f.scale_bytes);
  encode_row(f, in.data(), data.data(), scale.data());
  std::vector<float> out(f.dim);
  decode_row(f, data.data(), scale.data(), out.data());
  return out;
}

TEST(KvPage, OfficialBytes) {  // spec 10.1
  EXPECT_EQ(KvRowFormat::entry(Numerics::kNative, 512, 64).row_bytes(), 584);
  EXPECT_EQ(KvRowFormat::index_key(Numerics::kFast, 128).row_bytes(), 68);
  EXPECT_EQ(KvRowFormat::entry(Numerics::kExact, 512, 64).row_bytes(), 2048);
}

TEST(KvPage, Fp8RoundTripGolden) {  // spec A.3
  KvRowFormat f = KvRowFormat::entry(Numerics::kNative, 128, 64);
  std::vector<float> x(128, 0.f);
  for (int i = 0; i < 64; ++i) x[i] = round_bf16(0.013f * static_cast<float>(i) * (i % 2 ? -1.f : 1.f));
  auto y = round_trip(f, x);
  EXPECT_EQ(x[1], -0.01300048828125f);
  EXPECT_EQ(y[1], -0.0126953125f);
  EXPECT_EQ(y[2], 0.025390625f);
  EXPECT_EQ(x[17], -0.220703125f);
  EXPECT_EQ(y[17], -0.21875f);
  EXPECT_EQ(y[62], 0.8125f);
  EXPECT_EQ(y[63], -0.8125f);
}

TEST(KvPage, Fp4RoundTripGolden) {  // spec A.3
  KvRowFormat f = KvRowFormat::index_key(Numerics::kNative, 32);
  std::vector<float> x(32);
  for (int i = 0; i < 32; ++i) x[i] = round_bf16(0.07f * static_cast<float>(i) * (i % 2 ? -1.f : 1.f));
  auto y = round_trip(f, x);
  EXPECT_EQ(y[1], 0.f);
  EXPECT_EQ(y[2], 0.25f);
  EXPECT_EQ(y[5], -0.25f);
  EXPECT_EQ(y[9], -0.75f);
  EXPECT_EQ(y[17], -1.0f);
  EXPECT_EQ(y[31], -2.0f);
}

TEST(Traps, Trap31KvFp8Scale) {
  // 64-wide blocks over the non-rotated dims only; rotated dims stay bf16; amax floor 1e-4;
  // scale = 2^ceil(log2(amax/448)).
  KvRowFormat f = KvRowFormat::entry(Numerics::kNative, 192, 64);
  std::vector<float> x(192, 0.f);
  x[0] = 448.f;      // block 0: scale 1
  x[64] = 0.0625f;   // block 1 has its own, far smaller scale
  x[128] = 1.0078125f;  // rotated: bf16 as it is
  std::vector<std::byte> data(f.data_bytes), scale(f.scale_bytes);
  encode_row(f, x.data(), data.data(), scale.data());
  EXPECT_EQ(static_cast<int>(scale[0]), 127);
  EXPECT_EQ(static_cast<int>(scale[1]), 127 - 12);  // 0.0625/448 = 2^-12.8 -> 2^-12
  for (int i = 2; i < f.scale_bytes; ++i) EXPECT_EQ(static_cast<int>(scale[i]), 0);
  auto y = round_trip(f, x);
  EXPECT_EQ(y[0], 448.f);
  EXPECT_EQ(y[64], 0.0625f);
  EXPECT_EQ(y[128], 1.0078125f);
  std::vector<float> zero(192, 0.f);
  encode_row(f, zero.data(), data.data(), scale.data());
  EXPECT_EQ(static_cast<int>(scale[0]), e8m0_scale_for(1e-4f, 448.f));
}

}  // namespace
}  // namespace kvasir
