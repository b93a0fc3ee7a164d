// Every value of the small formats, and the ties of rounding.
#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tensor/quant.h"

namespace kvasir {
namespace {

TEST(DType, E4m3RoundTripsEveryCode) {
  for (int c = 0; c < 256; ++c) {
    float v = e4m3_to_float(static_cast<uint8_t>(c));
    if ((c & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(v));
      continue;
    }
    EXPECT_EQ(float_to_e4m3(v), c) << v;
  }
  EXPECT_EQ(e4m3_to_float(0x7e), 448.f);
  EXPECT_EQ(e4m3_to_float(0x01), 0x1p-9f);
}

TEST(DType, E4m3RoundsToNearestTiesToEvenAndSaturates) {
  // Between every two neighbouring codes: the midpoint goes to the even code, just off it to the nearer one.
  for (int c = 0; c < 0x7e; ++c) {
    float lo = e4m3_to_float(static_cast<uint8_t>(c)), hi = e4m3_to_float(static_cast<uint8_t>(c + 1));
    float mid = (lo + hi) / 2;
    EXPECT_EQ(float_to_e4m3(mid), (c & 1) ? c + 1 : c) << mid;
    EXPECT_EQ(float_to_e4m3(std::nextafterf(mid, 0.f)), c);
    EXPECT_EQ(float_to_e4m3(std::nextafterf(mid, 1e9f)), c + 1);
  }
  EXPECT_EQ(float_to_e4m3(1e9f), 0x7e);
  EXPECT_EQ(float_to_e4m3(-1e9f), 0xfe);
  EXPECT_EQ(float_to_e4m3(460.f), 0x7e);
}

TEST(DType, E2m1TiesGoToTheEvenCode) {
  // spec A.1: 0.25->0, 0.75->1, 1.25->1, 1.75->2, 2.5->2, 3.5->4, 5->4
  const float in[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.f, 100.f};
  const float want[] = {0.f, 1.f, 1.f, 2.f, 2.f, 4.f, 4.f, 6.f};
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(e2m1_to_float(float_to_e2m1(in[i])), want[i]) << in[i];
    EXPECT_EQ(e2m1_to_float(float_to_e2m1(-in[i])), -want[i]) << -in[i];
  }
}

TEST(DType, Bf16RoundsTiesToEven) {
  EXPECT_EQ(round_bf16(1.00390625f), 1.0f);       // 1 + 2^-8: halfway, even below
  EXPECT_EQ(round_bf16(1.01171875f), 1.015625f);  // 1 + 3*2^-8: halfway, even above
  EXPECT_EQ(round_bf16(-1.00390625f), -1.0f);
  EXPECT_TRUE(std::isnan(round_bf16(std::nanf(""))));
}

TEST(DType, ActivationScaleIsTheSmallestPowerOfTwoThatFits) {
  EXPECT_EQ(e8m0_scale_for(448.f, 448.f), 127);
  EXPECT_EQ(e8m0_scale_for(449.f, 448.f), 128);
  EXPECT_EQ(e8m0_scale_for(224.f, 448.f), 126);
  EXPECT_EQ(e8m0_scale_for(0.8203125f, 448.f), 127 - 9);  // spec A.3
  EXPECT_EQ(e8m0_scale_for(2.171875f, 6.f), 127 - 1);     // spec A.3
}

TEST(Traps, Trap22E8m0ScalesAreBytes) {
  EXPECT_EQ(e8m0_to_float(120), 0x1p-7f);
  EXPECT_EQ(e8m0_to_float(127), 1.f);
  EXPECT_EQ(e8m0_to_float(0), 0x1p-127f);
  EXPECT_TRUE(std::isnan(e8m0_to_float(255)));
}

TEST(Traps, Trap23LowNibbleFirst) {
  uint8_t data[16] = {0x21};
  uint8_t scale[1] = {127};
  WeightMatrix w{WeightFormat::kFp4Group32, 1, 32, data, scale};
  float out[32];
  dequantise_row(w, 0, out);
  EXPECT_EQ(out[0], 0.5f);
  EXPECT_EQ(out[1], 1.0f);
}

}  // namespace
}  // namespace kvasir
