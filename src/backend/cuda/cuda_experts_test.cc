// Gate and experts of the CUDA backend. The plain kernels against the reference on small shapes; the tuned
// ones, at the shapes of real models, against the plain ones under kExact, which at those sizes the reference
// would need hours for.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/cuda/experts.h"
#include "backend/cuda/gate.h"
#include "backend/cuda/memory.h"
#include "backend/reference/reference_ops.h"

namespace kvasir::cuda {
namespace {

void expect_success(cudaError_t error, const char* what) {
  ASSERT_EQ(error, cudaSuccess) << what << ": " << cudaGetErrorString(error);
}
#define EXPECT_CUDA(call) expect_success((call), #call)

template <class T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& host) : count_(host.size()) {
    EXPECT_CUDA(cudaMalloc(&data_, std::max<size_t>(1, count_) * sizeof(T)));
    EXPECT_CUDA(cudaMemcpy(data_, host.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
    EXPECT_CUDA(cudaDeviceSynchronize());  // the copy may still be on its way, and the ops' stream does not
                                           // wait for it
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() { cudaFree(data_); }
  T* data() const { return static_cast<T*>(data_); }
  std::vector<T> host() const {
    std::vector<T> out(count_);
    EXPECT_CUDA(cudaMemcpy(out.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return out;
  }

 private:
  void* data_ = nullptr;
  size_t count_;
};

class CudaExperts : public testing::Test {
 protected:
  void SetUp() override {
    auto device = open_device(0);
    ASSERT_TRUE(device) << device.error().message;
    EXPECT_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    auto memory = CudaMemory::make(stream_);
    ASSERT_TRUE(memory.has_value());
    memory_ = *std::move(memory);
    scratch_ = std::make_unique<Scratch>(*memory_);
    cudaDeviceProp properties;
    EXPECT_CUDA(cudaGetDeviceProperties(&properties, 0));
    sm_count_ = properties.multiProcessorCount;
  }
  void TearDown() override {
    scratch_.reset();
    memory_.reset();
    if (stream_) cudaStreamDestroy(stream_);
  }
  CudaContext context(Numerics numerics) { return {stream_, numerics, sm_count_, false, *scratch_}; }
  void finish() {
    EXPECT_CUDA(cudaStreamSynchronize(stream_));
    EXPECT_CUDA(cudaGetLastError());
  }

  cudaStream_t stream_ = nullptr;
  std::unique_ptr<CudaMemory> memory_;
  std::unique_ptr<Scratch> scratch_;
  int sm_count_ = 0;
};

double relative_l2(const float* a, const float* b, size_t n) {
  double d = 0, s = 0;
  for (size_t i = 0; i < n; ++i) {
    d += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    s += double{b[i]} * b[i];
  }
  return std::sqrt(d / s);  // NaN when anything is
}
double relative_l2(const std::vector<float>& a, const std::vector<float>& b) {
  return relative_l2(a.data(), b.data(), a.size());
}

// Bytes that are valid codes of the format, with scales that keep the products of order one.
struct HostWeight {
  HostWeight(WeightFormat format, int64_t rows, int64_t cols, std::mt19937_64& rng) {
    m.format = format, m.rows = rows, m.cols = cols;
    data.resize(static_cast<size_t>(rows * m.data_row_bytes()));
    for (size_t i = 0; i + 8 <= data.size(); i += 8) {
      uint64_t bits = rng();
      std::memcpy(&data[i], &bits, 8);
    }
    const double gain = 1 / std::sqrt(static_cast<double>(cols));
    std::normal_distribution<float> normal(0.f, static_cast<float>(gain));
    if (format == WeightFormat::kF32 || format == WeightFormat::kBf16) {
      for (int64_t i = 0; i < rows * cols; ++i) {
        float v = normal(rng);
        bf16 b = to_bf16(v);
        format == WeightFormat::kF32 ? std::memcpy(&data[static_cast<size_t>(4 * i)], &v, 4)
                                     : std::memcpy(&data[static_cast<size_t>(2 * i)], &b, 2);
      }
      return;
    }
    if (format == WeightFormat::kFp8Block128)
      for (uint8_t& c : data) c = (c & 0x7f) == 0x7f ? c ^ 1 : c;  // no NaN
    // e2m1 codes have a root mean square of 2.8, uniform e4m3 codes one of 120.
    const double rms = format == WeightFormat::kFp4Group32 ? 2.8 : 120;
    const int centre = 127 + static_cast<int>(std::lround(std::log2(gain / rms)));
    scale.resize(static_cast<size_t>((format == WeightFormat::kFp4Group32 ? rows : (rows + 127) / 128) *
                                     m.scale_row_bytes()));
    for (uint8_t& s : scale) s = static_cast<uint8_t>(centre - 2 + static_cast<int>(rng() % 4));
  }
  WeightMatrix on_host() const {
    WeightMatrix w = m;
    w.data = data.data();
    w.scale = scale.empty() ? nullptr : scale.data();
    return w;
  }
  WeightMatrix m;
  std::vector<uint8_t> data, scale;
};

struct Mixture {
  Mixture(int64_t count, int64_t dim, int64_t inner, WeightFormat routed, WeightFormat shared_format,
          uint64_t seed) {
    std::mt19937_64 rng(seed);
    auto add = [&](WeightFormat format) {
      for (auto [rows, cols] : {std::pair{inner, dim}, {inner, dim}, {dim, inner}})
        weights.emplace_back(format, rows, cols, rng);
    };
    for (int64_t e = 0; e < count; ++e) add(routed);
    add(shared_format);
    for (const HostWeight& w : weights) {
      data.push_back(std::make_unique<OnDevice<uint8_t>>(w.data));
      scale.push_back(std::make_unique<OnDevice<uint8_t>>(w.scale));
    }
    auto device_matrix = [&](size_t i) {
      WeightMatrix m = weights[i].m;
      m.data = data[i]->data();
      m.scale = scale[i]->data();
      return m;
    };
    for (size_t i = 0; i < weights.size(); i += 3) {
      host.push_back({weights[i].on_host(), weights[i + 1].on_host(), weights[i + 2].on_host()});
      device.push_back({device_matrix(i), device_matrix(i + 1), device_matrix(i + 2)});
    }
    list = std::make_unique<OnDevice<ExpertWeights>>(device);
  }
  int64_t experts() const { return static_cast<int64_t>(host.size()) - 1; }
  std::vector<HostWeight> weights;
  std::vector<std::unique_ptr<OnDevice<uint8_t>>> data, scale;
  std::vector<ExpertWeights> host, device;  // the shared expert last
  std::unique_ptr<OnDevice<ExpertWeights>> list;
};

struct Choice {
  Choice(int64_t token_count, int64_t slots, int64_t experts, int64_t columns, uint64_t seed)
      : tokens(token_count), k(slots), dim(columns) {
    std::mt19937_64 rng(seed);
    std::normal_distribution<float> normal(0.f, 1.f);
    for (int64_t i = 0; i < tokens * dim; ++i) x.push_back(normal(rng) * (rng() % 64 == 0 ? 20.f : 1.f));
    for (int64_t i = 0; i < tokens * k; ++i) {
      ids.push_back(static_cast<int32_t>(rng() % static_cast<uint64_t>(experts)));
      weights.push_back(static_cast<float>(1 + rng() % 100) / 64.f);
    }
    if (k > 1 && tokens > 0) ids[1] = ids[0];  // a repeated expert
  }
  int64_t tokens, k, dim;
  std::vector<float> x, weights;
  std::vector<int32_t> ids;
};

ExpertsArgs args_for(const Mixture& m, const Choice& c, bool on_device, int64_t first, int64_t tokens,
                     const float* x, const int32_t* ids, const float* weights, float* out) {
  ExpertsArgs a;
  a.x = View<const float, 2>(x + first * c.dim, {tokens, c.dim});
  a.routed = View<const ExpertWeights, 1>(on_device ? m.list->data() : m.host.data(), {m.experts()});
  a.routed_like = m.host[0];
  a.shared = on_device ? m.device.back() : m.host.back();
  a.experts = View<const int32_t, 2>(ids + first * c.k, {tokens, c.k});
  a.weights = View<const float, 2>(weights + first * c.k, {tokens, c.k});
  a.limit = 3.f;
  a.out = View<float, 2>(out, {tokens, c.dim});
  return a;
}

class Experts : public CudaExperts {
 protected:
  std::vector<float> run(Numerics numerics, const Mixture& m, const Choice& c, int64_t first,
                         int64_t tokens) {
    OnDevice<float> x(c.x), weights(c.weights);
    OnDevice<int32_t> ids(c.ids);
    OnDevice<float> out(
        std::vector<float>(static_cast<size_t>(tokens * c.dim), std::numeric_limits<float>::quiet_NaN()));
    CudaContext ctx = context(numerics);
    Scratch::Scope scope(*scratch_);
    experts(ctx, args_for(m, c, true, first, tokens, x.data(), ids.data(), weights.data(), out.data()));
    finish();
    return out.host();
  }
  std::vector<float> run(Numerics numerics, const Mixture& m, const Choice& c) {
    return run(numerics, m, c, 0, c.tokens);
  }
};

std::vector<float> on_reference(Numerics numerics, const Mixture& m, const Choice& c) {
  std::vector<float> out(static_cast<size_t>(c.tokens * c.dim));
  ReferenceOps ops(numerics);
  ops.experts(args_for(m, c, false, 0, c.tokens, c.x.data(), c.ids.data(), c.weights.data(), out.data()));
  return out;
}

TEST_F(Experts, MatchTheReferenceInEveryFormat) {
  struct Shape {
    int64_t dim, inner;
    WeightFormat routed, shared;
  };
  using enum WeightFormat;
  const Shape shapes[] = {{256, 128, kFp4Group32, kFp8Block128},
                          {512, 384, kFp4Group32, kFp8Block128},
                          {128, 256, kFp8Block128, kFp8Block128},
                          {200, 136, kFp8Block128, kFp8Block128},
                          {96, 160, kFp4Group32, kFp4Group32},
                          {100, 52, kBf16, kBf16},
                          {64, 96, kF32, kF32}};
  uint64_t seed = 100;
  for (const Shape& s : shapes) {
    Mixture m(5, s.dim, s.inner, s.routed, s.shared, ++seed);
    for (int64_t tokens : {0, 1, 3, 9}) {
      Choice c(tokens, 3, 5, s.dim, ++seed);
      for (Numerics numerics : {Numerics::kExact, Numerics::kNative}) {
        std::vector<float> got = run(numerics, m, c), want = on_reference(numerics, m, c);
        if (tokens == 0) continue;
        // f32 sums of up to 512 products against f64; one more or less in a bf16 rounding or an e4m3 code.
        EXPECT_LT(relative_l2(got, want), numerics == Numerics::kExact ? 2e-6 : 4e-3)
            << numerics_name(numerics) << " dim " << s.dim << " inner " << s.inner << " format "
            << static_cast<int>(s.routed);
      }
      if (tokens == 0) continue;
      std::vector<float> exact = on_reference(Numerics::kExact, m, c);
      EXPECT_LE(relative_l2(run(Numerics::kFast, m, c), exact),
                1.05 * relative_l2(on_reference(Numerics::kNative, m, c), exact) + 1e-6);
    }
  }
}

struct RealShape {
  const char* name;
  int64_t experts, dim, inner;
};
constexpr RealShape kRealShapes[] = {
    {"small", 8, 1024, 512}, {"flash", 12, 4096, 2048}, {"pro", 8, 7168, 3072}};

TEST_F(Experts, OfAFewTokensAreNearExactAndTheSameAloneAndInABatch) {
  uint64_t seed = 7;
  for (const RealShape& s : kRealShapes) {
    Mixture m(s.experts, s.dim, s.inner, WeightFormat::kFp4Group32, WeightFormat::kFp8Block128, ++seed);
    for (int64_t tokens : {1, 2, 7, 8, 9, 33, 64}) {
      Choice c(tokens, 6, s.experts, s.dim, ++seed);
      std::vector<float> fast = run(Numerics::kFast, m, c), exact = run(Numerics::kExact, m, c);
      double error = relative_l2(fast, exact);
      printf("%s T=%lld: fast %.2e from exact\n", s.name, static_cast<long long>(tokens), error);
      EXPECT_LT(error, 4e-3) << s.name << " " << tokens;  // f16 or bf16 activations
      for (int64_t t = 0; t < tokens; ++t) {
        const size_t at = static_cast<size_t>(t * s.dim), n = static_cast<size_t>(s.dim);
        ASSERT_LT(relative_l2(&fast[at], &exact[at], n), 8e-3) << s.name << " " << tokens << " row " << t;
      }
      std::vector<float> again = run(Numerics::kFast, m, c);
      EXPECT_EQ(std::memcmp(fast.data(), again.data(), fast.size() * 4), 0)
          << s.name << " " << tokens << ": other bits on the second run";
      for (int64_t t : {int64_t{0}, tokens / 2, tokens - 1}) {
        std::vector<float> alone = run(Numerics::kFast, m, c, t, 1);
        EXPECT_EQ(std::memcmp(&fast[static_cast<size_t>(t * s.dim)], alone.data(), alone.size() * 4), 0)
            << s.name << " row " << t << " of " << tokens << " differs alone";
      }
    }
  }
}

TEST_F(Experts, OfManyTokensAreNoFurtherFromExactThanNative) {
  uint64_t seed = 70;
  for (const RealShape& s : {kRealShapes[0], kRealShapes[1]}) {
    Mixture m(s.experts, s.dim, s.inner, WeightFormat::kFp4Group32, WeightFormat::kFp8Block128, ++seed);
    for (int64_t tokens : {65, 300, 700}) {
      Choice c(tokens, 6, s.experts, s.dim, ++seed);
      std::vector<float> exact = run(Numerics::kExact, m, c), fast = run(Numerics::kFast, m, c);
      double native_error = relative_l2(run(Numerics::kNative, m, c), exact),
             error = relative_l2(fast, exact);
      printf("%s T=%lld: fast %.2e, native %.2e from exact\n", s.name, static_cast<long long>(tokens), error,
             native_error);
      EXPECT_LE(error, native_error) << s.name << " " << tokens;
      std::vector<float> again = run(Numerics::kFast, m, c);
      EXPECT_EQ(std::memcmp(fast.data(), again.data(), fast.size() * 4), 0)
          << s.name << " " << tokens << ": other bits on the second run";
    }
  }
}

class Gate : public CudaExperts {
 protected:
  struct Outcome {
    std::vector<int32_t> experts;
    std::vector<float> weights;
  };
  Outcome run(const std::vector<float>& logits, const std::vector<float>& bias,
              const std::vector<int32_t>& table, const std::vector<int32_t>& ids, int64_t tokens,
              int64_t num_experts, int64_t k, bool on_device) {
    Outcome o{std::vector<int32_t>(static_cast<size_t>(tokens * k), -7),
              std::vector<float>(static_cast<size_t>(tokens * k), std::numeric_limits<float>::quiet_NaN())};
    auto fill = [&](const float* l, const float* b, const int32_t* tab, const int32_t* id, int32_t* e,
                    float* w) {
      GateArgs a;
      a.logits = View<const float, 2>(l, {tokens, num_experts});
      if (!bias.empty()) a.bias = View<const float, 1>(b, {num_experts});
      if (!table.empty())
        a.tid2eid = View<const int32_t, 2>(tab, {static_cast<int64_t>(table.size()) / k, k});
      a.ids = View<const int32_t, 1>(id, {tokens});
      a.scale = 2.5f;
      a.experts = View<int32_t, 2>(e, {tokens, k});
      a.weights = View<float, 2>(w, {tokens, k});
      return a;
    };
    if (!on_device) {
      ReferenceOps(Numerics::kExact)
          .gate(
              fill(logits.data(), bias.data(), table.data(), ids.data(), o.experts.data(), o.weights.data()));
      return o;
    }
    OnDevice<float> l(logits), b(bias), w(o.weights);
    OnDevice<int32_t> tab(table), id(ids), e(o.experts);
    CudaContext ctx = context(Numerics::kFast);
    gate(ctx, fill(l.data(), b.data(), tab.data(), id.data(), e.data(), w.data()));
    finish();
    return {e.host(), w.host()};
  }
};

TEST_F(Gate, ChoosesAndWeighsAsTheReference) {
  std::mt19937_64 rng(5);
  std::normal_distribution<float> normal(0.f, 2.f);
  for (auto [num_experts, k] : {std::pair<int64_t, int64_t>{256, 6}, {384, 6}, {8, 2}, {37, 5}, {6, 6}}) {
    for (int64_t tokens : {0, 1, 3, 65}) {
      for (bool hash : {false, true}) {
        std::vector<float> logits, bias;
        std::vector<int32_t> table, ids;
        for (int64_t i = 0; i < tokens * num_experts; ++i) {
          float z = normal(rng) * (rng() % 50 == 0 ? 20.f : 1.f);
          logits.push_back(rng() % 2 ? z : std::round(z));  // whole numbers tie
        }
        for (int64_t e = 0; e < num_experts && !hash; ++e)
          bias.push_back(static_cast<float>(rng() % 3) * .25f);
        for (int64_t i = 0; i < 50 * k && hash; ++i)
          table.push_back(static_cast<int32_t>(rng() % static_cast<uint64_t>(num_experts)));
        for (int64_t t = 0; t < tokens; ++t) ids.push_back(static_cast<int32_t>(rng() % 50));
        Outcome got = run(logits, bias, table, ids, tokens, num_experts, k, true),
                want = run(logits, bias, table, ids, tokens, num_experts, k, false);
        EXPECT_EQ(got.experts, want.experts)
            << num_experts << " experts, " << tokens << " tokens, hash " << hash;
        for (size_t i = 0; i < want.weights.size(); ++i)
          ASSERT_NEAR(got.weights[i], want.weights[i], 1e-6f * want.weights[i] + 1e-30f);
      }
    }
  }
}

}  // namespace
}  // namespace kvasir::cuda
