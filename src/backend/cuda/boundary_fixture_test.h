// What the tests of the row kernels share: arrays that live on both sides, random values, errors.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <random>
#include <vector>

#include "backend/cuda/context.h"
#include "backend/cuda/memory.h"
#include "tensor/dtype.h"
#include "tensor/view.h"

namespace kvasir::cuda::rows_test {

#define KVASIR_EXPECT_CUDA(call) EXPECT_EQ((call), cudaSuccess) << cudaGetErrorString(cudaGetLastError())

// A context on the default stream.
class Rows {
 public:
  explicit Rows(Numerics numerics) : memory_(std::move(*CudaMemory::make(nullptr))), scratch_(*memory_) {
    context_.numerics = numerics;
  }
  CudaContext& context() { return context_; }

 private:
  std::unique_ptr<CudaMemory> memory_;
  Scratch scratch_;
  CudaContext context_{nullptr, Numerics::kFast, 132, false, scratch_};
};

// A dense tensor with a copy on the host and one on the device.
template <class T, int Rank>
class Mirror {
 public:
  explicit Mirror(std::array<int64_t, Rank> dims) : shape(dims) {
    int64_t n = 1;
    for (int64_t d : dims) n *= d;
    data.resize(n);
    KVASIR_EXPECT_CUDA(
        cudaMalloc(reinterpret_cast<void**>(&device_), std::max<size_t>(16, data.size() * sizeof(T))));
  }
  ~Mirror() { cudaFree(device_); }
  Mirror(const Mirror&) = delete;
  Mirror& operator=(const Mirror&) = delete;

  View<T, Rank> host() { return {data.data(), shape}; }
  View<T, Rank> device() const { return {device_, shape}; }
  void up() {
    KVASIR_EXPECT_CUDA(cudaMemcpy(device_, data.data(), data.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  std::vector<T> down() const {
    std::vector<T> out(data.size());
    KVASIR_EXPECT_CUDA(cudaDeviceSynchronize());
    KVASIR_EXPECT_CUDA(cudaMemcpy(out.data(), device_, out.size() * sizeof(T), cudaMemcpyDeviceToHost));
    return out;
  }
  // All bits set: NaN as a float.
  void poison() { KVASIR_EXPECT_CUDA(cudaMemset(device_, 0xff, data.size() * sizeof(T))); }

  std::array<int64_t, Rank> shape;
  std::vector<T> data;

 private:
  T* device_ = nullptr;
};

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  template <int Rank>
  void fill(Mirror<float, Rank>& m, float scale = 1.f, bool on_bf16_grid = false) {
    std::normal_distribution<float> normal(0, scale);
    for (float& v : m.data) v = on_bf16_grid ? round_bf16(normal(engine_)) : normal(engine_);
    m.up();
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }

 private:
  std::mt19937_64 engine_;
};

// ||out - expected|| / ||expected||; NaN where anything was not written.
inline double relative_error(const std::vector<float>& out, const std::vector<float>& expected) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (double(out[i]) - expected[i]) * (double(out[i]) - expected[i]);
    size += double(expected[i]) * expected[i];
  }
  return size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace kvasir::cuda::rows_test
