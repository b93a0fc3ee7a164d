// What tests of cache ops on the device need: arrays on both sides, and sequences whose state and pages lie
// on both.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "backend/cuda/context.h"
#include "backend/cuda/memory.h"
#include "ops/kv_page.h"

namespace kvasir::cuda::cache_test {

inline void expect_ok(cudaError_t error) { ASSERT_EQ(error, cudaSuccess) << cudaGetErrorString(error); }

// `values` on the host and a copy on the device.
template <class T>
struct Mirror {
  Mirror() = default;
  explicit Mirror(int64_t n) : values(static_cast<size_t>(n)) { allocate(); }
  explicit Mirror(std::vector<T> v) : values(std::move(v)) {
    allocate();
    upload();
  }
  Mirror(const Mirror&) = delete;
  Mirror& operator=(const Mirror&) = delete;
  Mirror(Mirror&& other) noexcept
      : values(std::move(other.values)), device(std::exchange(other.device, nullptr)) {}
  ~Mirror() { cudaFree(device); }

  void allocate() {
    expect_ok(cudaMalloc(reinterpret_cast<void**>(&device), std::max<size_t>(1, values.size()) * sizeof(T)));
  }
  void upload() {
    expect_ok(cudaMemcpy(device, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  std::vector<T> download() const {
    std::vector<T> out(values.size());
    expect_ok(cudaMemcpy(out.data(), device, values.size() * sizeof(T), cudaMemcpyDeviceToHost));
    return out;
  }
  // Fills the device copy with 0xff: NaN for floats, -1 for integers.
  void poison() { expect_ok(cudaMemset(device, 0xff, values.size() * sizeof(T))); }

  std::vector<T> values;
  T* device = nullptr;
};

inline Mirror<float> random_floats(std::mt19937& random, int64_t n, float deviation, float mean = 0) {
  std::normal_distribution<float> normal(mean, deviation);
  std::vector<float> v(static_cast<size_t>(n));
  for (float& x : v) x = normal(random);
  return Mirror<float>(std::move(v));
}

// A stream, scratch memory and the context of one numerics.
class Device {
 public:
  explicit Device(Numerics numerics) {
    expect_ok(cudaStreamCreate(&stream_));
    memory_ = *CudaMemory::make(stream_);
    scratch_ = std::make_unique<Scratch>(*memory_);
    int sms = 0;
    cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0);
    context_.reset(new CudaContext{stream_, numerics, sms, false, *scratch_});
  }
  ~Device() {
    context_.reset();
    scratch_.reset();
    memory_.reset();
    cudaStreamDestroy(stream_);
  }
  CudaContext& context() { return *context_; }
  void finish() {
    expect_ok(cudaGetLastError());
    expect_ok(cudaStreamSynchronize(stream_));
  }

 private:
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<CudaMemory> memory_;
  std::unique_ptr<Scratch> scratch_;
  std::unique_ptr<CudaContext> context_;
};

// Sequences with a state of `state_bytes` and pages of `page_bytes` on host and device alike.
class Sequences {
 public:
  Sequences(std::vector<SequenceSpan> spans, int64_t state_bytes, int64_t page_bytes, int64_t pages_each)
      : spans_(std::move(spans)),
        state_bytes_(state_bytes),
        page_bytes_(page_bytes),
        pages_each_(pages_each) {
    auto n = static_cast<int64_t>(spans_.size());
    states_ = std::make_unique<Mirror<std::byte>>(n * state_bytes);
    pages_ = std::make_unique<Mirror<std::byte>>(n * pages_each * page_bytes);
    std::vector<std::byte*> host, device;
    for (int64_t i = 0; i < n * pages_each; ++i) {
      int64_t at =
          (i * 7919 + 13) % (n * pages_each);  // scattered; 7919 is prime and larger than any count here
      host.push_back(pages_->values.data() + at * page_bytes);
      device.push_back(pages_->device + at * page_bytes);
    }
    host_pages_ = std::move(host);
    device_pages_ = std::make_unique<Mirror<std::byte*>>(std::move(device));
    rebuild();
  }

  void rebuild() {
    std::vector<CacheSequence> device;
    host_.clear();
    std::vector<int32_t> row_sequence;
    max_tokens_ = max_length_ = 0;
    for (size_t i = 0; i < spans_.size(); ++i) {
      auto at = static_cast<int64_t>(i);
      std::byte** hp = host_pages_.data() + at * pages_each_;
      std::byte** dp = device_pages_->device + at * pages_each_;
      host_.push_back({spans_[i], states_->values.data() + at * state_bytes_, hp, hp});
      device.push_back({spans_[i], states_->device + at * state_bytes_, dp, dp});
      row_sequence.insert(row_sequence.end(), static_cast<size_t>(spans_[i].tokens), static_cast<int32_t>(i));
      max_tokens_ = std::max(max_tokens_, spans_[i].tokens);
      max_length_ = std::max(max_length_, spans_[i].start + spans_[i].tokens);
    }
    device_ = std::make_unique<Mirror<CacheSequence>>(std::move(device));
    rows_ = std::make_unique<Mirror<int32_t>>(std::move(row_sequence));
  }

  void set_spans(std::vector<SequenceSpan> spans) {
    spans_ = std::move(spans);
    rebuild();
  }
  int64_t rows() const { return static_cast<int64_t>(rows_->values.size()); }
  std::byte* host_page(int64_t sequence, int64_t page) {
    return host_pages_[static_cast<size_t>(sequence * pages_each_ + page)];
  }
  std::byte* host_state(int64_t sequence) { return states_->values.data() + sequence * state_bytes_; }
  Mirror<std::byte>& states() { return *states_; }
  Mirror<std::byte>& pages() { return *pages_; }
  const std::vector<SequenceSpan>& spans() const { return spans_; }

  CacheBatch host_batch() { return batch(host_.data(), rows_->values.data()); }
  CacheBatch device_batch() { return batch(device_->device, rows_->device); }

 private:
  CacheBatch batch(const CacheSequence* s, const int32_t* rows) {
    CacheBatch b;
    b.sequences = {s, {static_cast<int64_t>(spans_.size())}};
    b.row_sequence = {rows, {this->rows()}};
    b.max_tokens = max_tokens_;
    b.max_length = (max_length_ + 127) / 128 * 128;
    return b;
  }

  std::vector<SequenceSpan> spans_;
  int64_t state_bytes_, page_bytes_, pages_each_;
  int64_t max_tokens_ = 0, max_length_ = 0;
  std::unique_ptr<Mirror<std::byte>> states_, pages_;
  std::vector<std::byte*> host_pages_;
  std::unique_ptr<Mirror<std::byte*>> device_pages_;
  std::vector<CacheSequence> host_;
  std::unique_ptr<Mirror<CacheSequence>> device_;
  std::unique_ptr<Mirror<int32_t>> rows_;
};

// Spans one behind the other, from pairs of start and tokens.
inline std::vector<SequenceSpan> spans_of(const std::vector<std::pair<int64_t, int64_t>>& parts) {
  std::vector<SequenceSpan> out;
  int64_t row = 0;
  for (auto [start, tokens] : parts) {
    out.push_back({row, tokens, start});
    row += tokens;
  }
  return out;
}

}  // namespace kvasir::cuda::cache_test
