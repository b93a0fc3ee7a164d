// The linear layers of the CUDA backend against the reference backend, and at the model's real shapes against sampled
// outputs in f64.
//
// Tolerances, relative L2 over a call. kExact: f32 sums of 128 products, then of K/128 such sums: 1e-6. kNative: the same
// function, a few results fall on the other side of a bf16 boundary (2^-8 each): 3e-4. kFast: FP8 weights meet x as f16
// (2^-12 of the value each, random signs), 4e-4; bf16 weights meet x as two bf16: 3e-5. With many rows x is e4m3 (2^-5 of
// a value at most, 2.7e-2 on average), two e4m3 (the square of that) or bf16.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "backend/cuda/linear.h"
#include "backend/cuda/memory.h"
#include "backend/reference/reference_ops.h"
#include "tensor/dtype.h"

namespace kvasir::cuda {
namespace {

#define CUDA_OK(call) ASSERT_EQ(call, cudaSuccess) << cudaGetErrorString(cudaGetLastError())

// Host bytes and their copy on the device.
template <class T>
class Twin {
 public:
  explicit Twin(std::vector<T> values) : host(std::move(values)) {
    cudaMalloc(reinterpret_cast<void**>(&device_), std::max<size_t>(host.size(), 1) * sizeof(T));
    cudaMemcpy(device_, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice);
  }
  ~Twin() { cudaFree(device_); }
  Twin(const Twin&) = delete;
  Twin& operator=(const Twin&) = delete;
  T* device() const { return device_; }
  std::vector<T> read() const {
    std::vector<T> v(host.size());
    cudaMemcpy(v.data(), device_, v.size() * sizeof(T), cudaMemcpyDeviceToHost);
    return v;
  }
  std::vector<T> host;

 private:
  T* device_ = nullptr;
};

// Random bits, fast enough for matrices of 64 MB.
class Bits {
 public:
  explicit Bits(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 1) {}
  uint64_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }
  // About normal: the sum of four uniform numbers.
  float normal() {
    uint64_t u = next();
    float s = 0;
    for (int i = 0; i < 4; ++i) s += static_cast<float>((u >> (16 * i)) & 0xffff) / 65536.f - 0.5f;
    return s * 1.7320508f;
  }

 private:
  uint64_t state_;
};

std::vector<uint8_t> weight_bytes(WeightFormat format, int64_t rows, int64_t cols, Bits& bits) {
  WeightMatrix m;
  m.format = format, m.rows = rows, m.cols = cols;
  std::vector<uint8_t> data(static_cast<size_t>(rows * m.data_row_bytes()));
  for (int64_t i = 0; i < rows * cols; ++i) {
    size_t at = static_cast<size_t>(i);
    switch (format) {
      case WeightFormat::kF32: {
        float v = bits.normal();
        std::memcpy(&data[4 * at], &v, 4);
        break;
      }
      case WeightFormat::kBf16: {
        bf16 v = to_bf16(bits.normal() * .02f);
        std::memcpy(&data[2 * at], &v, 2);
        break;
      }
      case WeightFormat::kFp8Block128:
        data[at] = float_to_e4m3(bits.normal() * 100.f);
        break;
      case WeightFormat::kFp4Group32:
        data[at / 2] = static_cast<uint8_t>(data[at / 2] | float_to_e2m1(bits.normal() * 2.5f) << (i % 2 * 4));
        break;
      case WeightFormat::kNone:
        break;
    }
  }
  return data;
}

std::vector<uint8_t> scale_bytes(WeightFormat format, int64_t rows, int64_t cols, Bits& bits) {
  WeightMatrix m;
  m.format = format, m.rows = rows, m.cols = cols;
  int64_t scale_rows = format == WeightFormat::kFp8Block128 ? (rows + 127) / 128 : rows;
  std::vector<uint8_t> scale(static_cast<size_t>(scale_rows * m.scale_row_bytes()));
  for (uint8_t& s : scale) s = static_cast<uint8_t>(118 + bits.next() % 6);
  return scale;
}

struct Weight {
  Weight(WeightFormat format, int64_t rows, int64_t cols, Bits& bits)
      : data(weight_bytes(format, rows, cols, bits)), scale(scale_bytes(format, rows, cols, bits)) {
    host.format = device.format = format;
    host.rows = device.rows = rows;
    host.cols = device.cols = cols;
    host.data = data.host.data(), device.data = data.device();
    if (!scale.host.empty()) host.scale = scale.host.data(), device.scale = scale.device();
  }
  Twin<uint8_t> data, scale;
  WeightMatrix host, device;
};

std::vector<float> rows_of(int64_t count, Bits& bits, bool bf16_values) {
  std::vector<float> x(static_cast<size_t>(count));
  for (float& v : x) {
    v = bits.normal();
    if (bits.next() % 64 == 0) v *= 30.f;
    if (bf16_values) v = round_bf16(v);
  }
  return x;
}

double relative_l2(const std::vector<float>& a, const std::vector<float>& b) {
  double d = 0, s = 1e-300;
  for (size_t i = 0; i < a.size(); ++i) {
    d += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    s += static_cast<double>(b[i]) * b[i];
  }
  return std::isnan(d) ? INFINITY : std::sqrt(d / s);
}

const char* name(WeightFormat f) {
  switch (f) {
    case WeightFormat::kF32: return "f32";
    case WeightFormat::kBf16: return "bf16";
    case WeightFormat::kFp8Block128: return "fp8";
    case WeightFormat::kFp4Group32: return "fp4";
    case WeightFormat::kNone: break;
  }
  return "none";
}

double bound(Numerics numerics, WeightFormat format, int64_t tokens, LinearKind kind) {
  if (numerics == Numerics::kExact) return 1e-6;
  if (numerics == Numerics::kNative) return 3e-4;
  if (tokens <= 32 || format == WeightFormat::kF32) return format == WeightFormat::kBf16 ? 3e-5 : 4e-4;
  return format == WeightFormat::kFp8Block128 && kind == LinearKind::kQuantised ? 4e-2 : 2e-3;
}

constexpr WeightFormat kFormats[] = {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kFp8Block128, WeightFormat::kFp4Group32};
constexpr LinearKind kKinds[] = {LinearKind::kQuantised, LinearKind::kBf16, LinearKind::kFloat};
constexpr Numerics kAllNumerics[] = {Numerics::kExact, Numerics::kNative, Numerics::kFast};

class CudaLinear : public testing::Test {
 protected:
  void SetUp() override {
    CUDA_OK(cudaDeviceGetAttribute(&sm_count_, cudaDevAttrMultiProcessorCount, 0));
    auto memory = CudaMemory::make(nullptr);
    ASSERT_TRUE(memory) << memory.error().message;
    memory_ = *std::move(memory);
    scratch_.emplace(*memory_);
  }
  void TearDown() override {
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess) << cudaGetErrorString(cudaGetLastError());
  }
  CudaContext context(Numerics numerics) { return {nullptr, numerics, sm_count_, deterministic_, *scratch_}; }

  std::vector<float> run(Numerics numerics, const Weight& w, const std::vector<float>& x, int64_t tokens, LinearKind kind) {
    Twin<float> xs(x), out(std::vector<float>(static_cast<size_t>(tokens * w.host.rows), NAN));
    CudaContext c = context(numerics);
    linear(c, {w.device, View<const float, 2>(xs.device(), {tokens, w.host.cols}), View<float, 2>(out.device(), {tokens, w.host.rows}), kind});
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess) << cudaGetErrorString(cudaGetLastError());
    return out.read();
  }

  std::vector<float> expected(Numerics numerics, const Weight& w, const std::vector<float>& x, int64_t tokens, LinearKind kind) {
    std::vector<float> out(static_cast<size_t>(tokens * w.host.rows));
    ReferenceOps ops(numerics == Numerics::kFast ? Numerics::kExact : numerics);
    ops.linear({w.host, View<const float, 2>(x.data(), {tokens, w.host.cols}), View<float, 2>(out.data(), {tokens, w.host.rows}), kind});
    return out;
  }

  std::unique_ptr<CudaMemory> memory_;
  int sm_count_ = 0;
  bool deterministic_ = false;
  std::optional<Scratch> scratch_;
};

TEST_F(CudaLinear, EveryFormatKindAndSizeMatchesTheReference) {
  Bits bits(7);
  const int64_t shapes[][2] = {{1, 32}, {5, 96}, {130, 160}, {48, 128}, {33, 1184}, {300, 512}, {16, 4096}, {272, 1536}, {384, 640}};  // [N, K]
  const int64_t ragged[][2] = {{7, 1}, {129, 77}, {40, 333}, {257, 130}};
  for (WeightFormat format : kFormats) {
    std::vector<std::pair<int64_t, int64_t>> sizes;
    for (auto& s : shapes) sizes.emplace_back(s[0], s[1]);
    if (format != WeightFormat::kFp4Group32)
      for (auto& s : ragged) sizes.emplace_back(s[0], s[1]);
    for (auto [rows, cols] : sizes) {
      Weight w(format, rows, cols, bits);
      for (Numerics numerics : kAllNumerics) {
        for (LinearKind kind : kKinds) {
          for (int64_t tokens : {0, 1, 2, 7, 8, 9, 16, 17, 33, 65}) {
            if (kind == LinearKind::kFloat && tokens > 9) continue;
            std::vector<float> x = rows_of(tokens * cols, bits, numerics == Numerics::kNative);
            double e = relative_l2(run(numerics, w, x, tokens, kind), expected(numerics, w, x, tokens, kind));
            EXPECT_LE(e, bound(numerics, format, tokens, kind)) << name(format) << " kind " << static_cast<int>(kind) << ' ' << numerics_name(numerics)
                                                          << " [" << rows << ", " << cols << "] tokens " << tokens;
          }
        }
      }
    }
  }
}

TEST_F(CudaLinear, ARowsBitsDoNotDependOnTheOthersAndRunsRepeat) {
  Bits bits(11);
  const int64_t tokens = 100;
  for (auto [rows, cols] : {std::pair<int64_t, int64_t>{200, 416}, {272, 2048}, {64, 4096}}) {
    for (WeightFormat format : kFormats) {
      Weight w(format, rows, cols, bits);
      for (Numerics numerics : kAllNumerics) {
        std::vector<float> x = rows_of(tokens * cols, bits, true);
        const int64_t most = numerics == Numerics::kFast ? 8 : tokens;
        x.resize(static_cast<size_t>(most * cols));
        std::vector<float> all = run(numerics, w, x, most, LinearKind::kQuantised);
        EXPECT_EQ(0, std::memcmp(all.data(), run(numerics, w, x, most, LinearKind::kQuantised).data(), all.size() * 4))
            << name(format) << ' ' << numerics_name(numerics) << ": a second run differs";
        for (int64_t first : {int64_t{0}, int64_t{5}, most - 8}) {
          for (int64_t count : {1, 2, 3, 8}) {
            if (first + count > most) continue;
            std::vector<float> some(x.begin() + first * cols, x.begin() + (first + count) * cols);
            std::vector<float> out = run(numerics, w, some, count, LinearKind::kQuantised);
            EXPECT_EQ(0, std::memcmp(out.data(), all.data() + first * rows, out.size() * 4))
                << name(format) << ' ' << numerics_name(numerics) << " [" << rows << ", " << cols << "] rows " << first << '+' << count;
          }
        }
      }
    }
  }
}

TEST_F(CudaLinear, DeterministicFastGivesARowTheSameBitsInCallsOfAnySize) {
  Bits bits(12);
  deterministic_ = true;
  const int64_t tokens = 77, cols = 2048;
  for (WeightFormat format : {WeightFormat::kBf16, WeightFormat::kFp8Block128, WeightFormat::kFp4Group32}) {
    Weight w(format, 300, cols, bits);
    std::vector<float> x = rows_of(tokens * cols, bits, false), all = run(Numerics::kFast, w, x, tokens, LinearKind::kQuantised);
    for (auto [first, count] : {std::pair<int64_t, int64_t>{0, 1}, {31, 2}, {40, 33}, {76, 1}}) {
      std::vector<float> some(x.begin() + first * cols, x.begin() + (first + count) * cols);
      std::vector<float> out = run(Numerics::kFast, w, some, count, LinearKind::kQuantised);
      EXPECT_EQ(0, std::memcmp(out.data(), all.data() + first * w.host.rows, out.size() * 4)) << name(format) << " rows " << first << '+' << count;
    }
  }
}

// The real shapes, too large for the reference: 400 sampled outputs in f64.
TEST_F(CudaLinear, RealShapesMatchSampledOutputs) {
  struct Case {
    WeightFormat format;
    int64_t rows, cols;
  };
  Bits bits(13);
  for (Case c : {Case{WeightFormat::kFp8Block128, 32768, 1024}, Case{WeightFormat::kFp8Block128, 4096, 8192},
                 Case{WeightFormat::kFp8Block128, 1024, 4096}, Case{WeightFormat::kFp8Block128, 3072, 7168},
                 Case{WeightFormat::kFp8Block128, 2048, 16384}, Case{WeightFormat::kFp8Block128, 8192, 1536},
                 Case{WeightFormat::kBf16, 1024, 4096}, Case{WeightFormat::kBf16, 512, 7168}, Case{WeightFormat::kBf16, 20000, 4096}}) {
    Weight w(c.format, c.rows, c.cols, bits);
    for (int64_t tokens : {1, 8, 13, 32, 129}) {
      std::vector<float> x = rows_of(tokens * c.cols, bits, false);
      std::vector<float> out = run(Numerics::kFast, w, x, tokens, LinearKind::kQuantised), got, want, row(static_cast<size_t>(c.cols));
      for (int i = 0; i < 400; ++i) {
        int64_t n = i == 0 ? c.rows - 1 : static_cast<int64_t>(bits.next() % static_cast<uint64_t>(c.rows));
        int64_t t = i == 0 ? tokens - 1 : static_cast<int64_t>(bits.next() % static_cast<uint64_t>(tokens));
        dequantise_row(w.host, n, row.data());
        double sum = 0;
        for (int64_t k = 0; k < c.cols; ++k) sum += static_cast<double>(row[static_cast<size_t>(k)]) * x[static_cast<size_t>(t * c.cols + k)];
        want.push_back(static_cast<float>(sum));
        got.push_back(out[static_cast<size_t>(t * c.rows + n)]);
      }
      EXPECT_LE(relative_l2(got, want), bound(Numerics::kFast, c.format, tokens, LinearKind::kQuantised)) << name(c.format) << " [" << c.rows << ", " << c.cols << "] " << tokens;
      for (float v : out) ASSERT_FALSE(std::isnan(v)) << "an output was not written";
    }
  }
}

TEST_F(CudaLinear, GroupsMatchTheReference) {
  Bits bits(17);
  struct Case {
    int64_t groups, n, k;
  };
  for (Case c : {Case{8, 128, 512}, Case{2, 1024, 256}, Case{3, 16, 1024}, Case{16, 48, 4096}, Case{4, 7, 128}}) {
    for (WeightFormat format : {WeightFormat::kFp8Block128, WeightFormat::kBf16}) {
      Weight w(format, c.groups * c.n, c.k, bits);
      for (Numerics numerics : kAllNumerics) {
        for (int64_t tokens : {1, 3, 8, 11, 33}) {
          std::vector<float> x = rows_of(tokens * c.groups * c.k, bits, numerics == Numerics::kNative);
          std::vector<float> want(static_cast<size_t>(tokens * c.groups * c.n));
          ReferenceOps ops(numerics == Numerics::kFast ? Numerics::kExact : numerics);
          ops.grouped_linear({w.host, View<const float, 3>(x.data(), {tokens, c.groups, c.k}), View<float, 3>(want.data(), {tokens, c.groups, c.n})});
          Twin<float> xs(x), out(std::vector<float>(want.size(), NAN));
          CudaContext context = this->context(numerics);
          grouped_linear(context, {w.device, View<const float, 3>(xs.device(), {tokens, c.groups, c.k}),
                                   View<float, 3>(out.device(), {tokens, c.groups, c.n})});
          EXPECT_LE(relative_l2(out.read(), want), bound(numerics, format, tokens, LinearKind::kBf16))
              << name(format) << ' ' << numerics_name(numerics) << ' ' << c.groups << " x " << c.n << " x " << c.k << " tokens " << tokens;
        }
      }
    }
  }
}

// One launch for all projections of a hidden state: results are those of the single calls.
TEST_F(CudaLinear, ManyAtOnceMatchTheReference) {
  Bits bits(19);
  for (int64_t k : {int64_t{1024}, int64_t{1536}, int64_t{4096}}) {
    std::vector<std::unique_ptr<Weight>> weights;
    weights.push_back(std::make_unique<Weight>(WeightFormat::kFp8Block128, 256, k, bits));
    weights.push_back(std::make_unique<Weight>(WeightFormat::kBf16, 144, k, bits));
    weights.push_back(std::make_unique<Weight>(WeightFormat::kFp8Block128, 40, k, bits));
    weights.push_back(std::make_unique<Weight>(WeightFormat::kBf16, 64, k, bits));
    weights.push_back(std::make_unique<Weight>(WeightFormat::kBf16, 16, k, bits));
    for (Numerics numerics : kAllNumerics) {
      for (int64_t tokens : {1, 8, 10, 40}) {
        std::vector<float> x = rows_of(tokens * k, bits, numerics == Numerics::kNative);
        Twin<float> xs(x);
        std::vector<std::unique_ptr<Twin<float>>> outs;
        std::vector<LinearArgs> args;
        for (auto& w : weights) {
          outs.push_back(std::make_unique<Twin<float>>(std::vector<float>(static_cast<size_t>(tokens * w->host.rows), NAN)));
          args.push_back({w->device, View<const float, 2>(xs.device(), {tokens, k}), View<float, 2>(outs.back()->device(), {tokens, w->host.rows}),
                          w->host.format == WeightFormat::kBf16 ? LinearKind::kFloat : LinearKind::kQuantised});
        }
        CudaContext c = context(numerics);
        linear_many(c, args);
        for (size_t i = 0; i < args.size(); ++i) {
          EXPECT_LE(relative_l2(outs[i]->read(), expected(numerics, *weights[i], x, tokens, args[i].kind)),
                    bound(numerics, weights[i]->host.format, tokens, args[i].kind))
              << numerics_name(numerics) << " matrix " << i << " k " << k << " tokens " << tokens;
        }
      }
    }
  }
}

// kFast may round x as it likes, but must stay at least as near to kExact as kNative is.
TEST_F(CudaLinear, FastIsNoFurtherFromExactThanNative) {
  Bits bits(23);
  for (WeightFormat format : {WeightFormat::kFp8Block128, WeightFormat::kBf16}) {
    Weight w(format, 512, 1024, bits);
    for (int64_t tokens : {1, 8, 24, 100, 300}) {
      std::vector<float> x = rows_of(tokens * w.host.cols, bits, format == WeightFormat::kBf16);
      std::vector<float> exact = expected(Numerics::kExact, w, x, tokens, LinearKind::kQuantised);
      double native = relative_l2(run(Numerics::kNative, w, x, tokens, LinearKind::kQuantised), exact);
      double fast = relative_l2(run(Numerics::kFast, w, x, tokens, LinearKind::kQuantised), exact);
      EXPECT_LE(fast, native) << name(format) << " tokens " << tokens;
      printf("%s tokens %d: native %.3g fast %.3g\n", name(format), static_cast<int>(tokens), native, fast);
    }
  }
}

}  // namespace
}  // namespace kvasir::cuda
