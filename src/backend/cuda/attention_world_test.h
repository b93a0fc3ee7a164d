// A made-up batch for attention on both sides: sequences with rings, pages and rows of random values, the
// queries, and the same on the device. Memory that no key lies in holds NaN.
#pragma once

#include <cuda_runtime_api.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/cuda/attention.h"
#include "backend/cuda/memory.h"
#include "backend/reference/reference_ops.h"
#include "base/check.h"
#include "tensor/dtype.h"

namespace kvasir::cuda::attention_test {

struct WorldShape {
  int dim = 512, rope = 64, heads = 64, window = 128, slack = 4;
  EntryChoice choice = EntryChoice::kSelected;
  int ratio = 4, rows_per_page = 32, topk = 512;
  std::vector<std::pair<int64_t, int64_t>> sequences = {{0, 1}};  // start, tokens
};

inline void must(cudaError_t e) { KVASIR_CHECK(e == cudaSuccess, "{}", cudaGetErrorString(e)); }

// An array's copy on the device.
template <class T>
struct DeviceCopy {
  explicit DeviceCopy(const std::vector<T>& from) : count(from.size()) {
    void* p = nullptr;
    must(cudaMalloc(&p, std::max<size_t>(count * sizeof(T), 16)));
    data = static_cast<T*>(p);
    must(cudaMemcpy(data, from.data(), count * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~DeviceCopy() { cudaFree(data); }
  DeviceCopy(const DeviceCopy&) = delete;
  DeviceCopy& operator=(const DeviceCopy&) = delete;
  std::vector<T> fetch() const {
    std::vector<T> out(count);
    must(cudaDeviceSynchronize());
    must(cudaMemcpy(out.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost));
    return out;
  }
  T* data = nullptr;
  size_t count;
};

class World {
 public:
  World(const WorldShape& shape, Numerics numerics, uint32_t seed)
      : s(shape), format(KvRowFormat::entry(numerics, s.dim, s.rope)), random_(seed) {
    for (auto [start, tokens] : s.sequences) {
      spans.push_back({rows, tokens, start});
      rows += tokens;
      max_tokens = std::max(max_tokens, tokens);
      max_length = std::max(max_length, start + tokens);
    }
    place.ratio = s.ratio;
    place.window_capacity = s.window + s.slack;
    place.window_data = 128;
    place.window_scale = 128 + (place.window_capacity * format.data_bytes + 63) / 64 * 64;
    state_bytes = place.window_scale + (place.window_capacity * format.scale_bytes + 63) / 64 * 64;
    place.entries.rows_per_page = s.rows_per_page;
    place.entries.data_offset = 64;
    place.entries.scale_offset = 64 + (int64_t{s.rows_per_page} * format.data_bytes + 63) / 64 * 64;
    page_bytes = place.entries.scale_offset + (int64_t{s.rows_per_page} * format.scale_bytes + 63) / 64 * 64;
    for (const SequenceSpan& span : spans) {
      first_page.push_back(static_cast<int64_t>(page_count));
      page_count +=
          s.choice == EntryChoice::kNone ? 0 : (span.start + span.tokens) / s.ratio / s.rows_per_page + 1;
    }
    bool grid =
        numerics !=
        Numerics::kExact;  // kFast rounds queries to bf16; then what is left is what the bounds are about
    fill(q, rows * s.heads * s.dim, 1.5f, grid);
    fill(sink, s.heads, 1.f, false);
    state.assign(static_cast<size_t>(state_bytes) * spans.size(), std::byte{0xff});
    pages.assign(static_cast<size_t>(page_bytes * page_count), std::byte{0xff});
    rows_data.assign(static_cast<size_t>(rows * format.data_bytes), std::byte{0xff});
    rows_scale.assign(static_cast<size_t>(rows * format.scale_bytes) + 8, std::byte{0xff});
    for (size_t i = 0; i < spans.size(); ++i) fill_sequence(i);
    upload();
  }
  ~World() {
    cudaDeviceSynchronize();
    for (void* p : owned_) cudaFree(p);
  }
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  AttendArgs device_args() const {
    return args(d_q, d_sink, d_sequences, d_row_sequence, {d_rows_data, d_rows_scale}, d_selected, d_out,
                s.heads);
  }

  // Head `head` as ReferenceOps has it, [rows, dim].
  std::vector<float> expected(Numerics numerics, int head) {
    std::vector<CacheSequence> sequences;
    std::vector<std::byte*> table;
    for (int64_t p = 0; p < page_count; ++p) table.push_back(pages.data() + p * page_bytes);
    for (size_t i = 0; i < spans.size(); ++i) {
      std::byte* const* own = table.data() + first_page[i];
      sequences.push_back({spans[i], state.data() + static_cast<int64_t>(i) * state_bytes, own, own});
    }
    std::vector<float> out(static_cast<size_t>(rows * s.dim));
    AttendArgs a = args(q.data(), sink.data(), sequences.data(), row_sequence.data(),
                        {rows_data.data(), rows_scale.data()}, selected.data(), out.data(), 1);
    a.q = {q.data() + int64_t{head} * s.dim, {rows, 1, s.dim}, {int64_t{s.heads} * s.dim, s.dim, 1}};
    a.sink = {sink.data() + head, {1}};
    ReferenceOps(numerics == Numerics::kNative ? Numerics::kNative : Numerics::kExact).attend(a);
    return out;
  }

  std::vector<float> result() const {
    std::vector<float> out(static_cast<size_t>(rows * s.heads * s.dim));
    must(cudaDeviceSynchronize());
    must(cudaMemcpy(out.data(), d_out, out.size() * 4, cudaMemcpyDeviceToHost));
    return out;
  }
  void poison() const { must(cudaMemset(d_out, 0xff, static_cast<size_t>(rows * s.heads * s.dim) * 4)); }

  WorldShape s;
  KvRowFormat format;
  LayerPlace place;
  std::vector<SequenceSpan> spans;
  std::vector<int64_t> first_page;
  std::vector<int32_t> row_sequence, selected;
  std::vector<float> q, sink;
  std::vector<std::byte> state, pages, rows_data, rows_scale;
  int64_t rows = 0, max_tokens = 0, max_length = 0, state_bytes = 0, page_bytes = 0, page_count = 0;

  // Copies what the test has changed on the host to the device.
  void upload() {
    if (owned_.empty()) {
      d_q = make<float>(q.size()), d_sink = make<float>(sink.size()), d_out = make<float>(q.size());
      d_state = make<std::byte>(state.size()), d_pages = make<std::byte>(pages.size());
      d_rows_data = make<std::byte>(rows_data.size()), d_rows_scale = make<std::byte>(rows_scale.size());
      d_table = make<std::byte*>(static_cast<size_t>(page_count)),
      d_sequences = make<CacheSequence>(spans.size());
      d_row_sequence = make<int32_t>(row_sequence.size()), d_selected = make<int32_t>(selected.size());
    }
    std::vector<std::byte*> table;
    std::vector<CacheSequence> sequences;
    for (int64_t p = 0; p < page_count; ++p) table.push_back(d_pages + p * page_bytes);
    for (size_t i = 0; i < spans.size(); ++i)
      sequences.push_back({spans[i], d_state + static_cast<int64_t>(i) * state_bytes, d_table + first_page[i],
                           d_table + first_page[i]});
    put(d_q, q), put(d_sink, sink), put(d_state, state), put(d_pages, pages), put(d_rows_data, rows_data),
        put(d_rows_scale, rows_scale);
    put(d_table, table), put(d_sequences, sequences), put(d_row_sequence, row_sequence),
        put(d_selected, selected);
  }

  float *d_q = nullptr, *d_sink = nullptr, *d_out = nullptr;
  std::byte *d_state = nullptr, *d_pages = nullptr, *d_rows_data = nullptr, *d_rows_scale = nullptr,
            **d_table = nullptr;
  CacheSequence* d_sequences = nullptr;
  int32_t *d_row_sequence = nullptr, *d_selected = nullptr;

 private:
  AttendArgs args(const float* query, const float* sinks, const CacheSequence* sequences,
                  const int32_t* numbers, KvRows window_rows, const int32_t* list, float* out,
                  int64_t heads) const {
    AttendArgs a;
    a.q = {query, {rows, heads, s.dim}};
    a.sink = {sinks, {heads}};
    a.batch = {{sequences, {static_cast<int64_t>(spans.size())}}, {numbers, {rows}}, max_tokens, max_length};
    a.place = place;
    a.window = s.window;
    a.format = format;
    a.rows = window_rows;
    a.choice = s.choice;
    if (s.choice == EntryChoice::kSelected) a.selected = {list, {rows, s.topk}};
    a.out = {out, {rows, heads, s.dim}};
    return a;
  }

  void fill(std::vector<float>& v, int64_t n, float sigma, bool grid) {
    std::normal_distribution<float> normal(0, sigma);
    v.resize(static_cast<size_t>(n));
    for (float& x : v) x = grid ? round_bf16(normal(random_)) : normal(random_);
  }
  // Blocks of 64 values differ in size by powers of two, so that scales matter.
  void encode(std::byte* data, std::byte* scale) {
    std::vector<float> v;
    fill(v, s.dim, 1.f, true);
    for (int b = 0; b < s.dim / 64; ++b) {
      float size = std::ldexp(1.f, static_cast<int>(random_() % 5) - 3);
      for (int e = 64 * b; e < 64 * b + 64; ++e) v[e] *= size;
    }
    encode_row(format, v.data(), data, scale);
  }
  void fill_sequence(size_t i) {
    const SequenceSpan& span = spans[i];
    std::byte* own = state.data() + static_cast<int64_t>(i) * state_bytes;
    for (int64_t p = std::max<int64_t>(0, span.start - place.window_capacity); p < span.start; ++p) {
      int64_t slot = p % place.window_capacity;
      encode(own + place.window_data + slot * format.data_bytes,
             own + place.window_scale + slot * format.scale_bytes);
    }
    if (s.choice != EntryChoice::kNone) {
      for (int64_t b = 0; b < (span.start + span.tokens) / s.ratio; ++b) {
        std::byte* page = pages.data() + (first_page[i] + b / s.rows_per_page) * page_bytes;
        int64_t r = b % s.rows_per_page;
        encode(page + place.entries.data_offset + r * format.data_bytes,
               page + place.entries.scale_offset + r * format.scale_bytes);
      }
    }
    for (int64_t r = span.first_row; r < span.first_row + span.tokens; ++r) {
      encode(rows_data.data() + r * format.data_bytes, rows_scale.data() + r * format.scale_bytes);
      row_sequence.push_back(static_cast<int32_t>(i));
      if (s.choice == EntryChoice::kSelected) select((span.start + r - span.first_row + 1) / s.ratio, r);
    }
  }
  // Ascending, then -1. Every seventh row selects nothing, every fifth repeats an entry.
  void select(int64_t visible, int64_t row) {
    std::vector<int32_t> list;
    int64_t left = std::min<int64_t>(s.topk, visible);
    for (int64_t e = 0; e < visible && left > 0 && row % 7 != 3; ++e) {
      if (static_cast<int64_t>(random_() % static_cast<uint64_t>(visible - e)) >= left) continue;
      list.push_back(static_cast<int32_t>(e));
      --left;
    }
    if (row % 5 == 2 && list.size() > 3) list[2] = list[1];
    if (row % 3 == 1 && list.size() > 70) list.resize(list.size() - 67);
    list.resize(static_cast<size_t>(s.topk), -1);
    selected.insert(selected.end(), list.begin(), list.end());
  }
  template <class T>
  T* make(size_t n) {
    void* p = nullptr;
    must(cudaMalloc(&p, std::max<size_t>(n * sizeof(T), 16)));
    owned_.push_back(p);
    return static_cast<T*>(p);
  }
  template <class T>
  static void put(T* to, const std::vector<std::remove_const_t<T>>& from) {
    if (!from.empty()) must(cudaMemcpy(to, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
  }

  std::mt19937 random_;
  std::vector<void*> owned_;
};

// A context with scratch of its own.
struct TestContext {
  explicit TestContext(Numerics numerics, bool deterministic = false) {
    must(cudaStreamCreate(&stream));
    auto made = CudaMemory::make(stream);
    KVASIR_CHECK(made.has_value(), "{}", made.error().message);
    memory = *std::move(made);
    scratch = std::make_unique<Scratch>(*memory);
    int sms = 0;
    must(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
    context = std::unique_ptr<CudaContext>(new CudaContext{.stream = stream,
                                                           .numerics = numerics,
                                                           .sm_count = sms,
                                                           .deterministic = deterministic,
                                                           .scratch = *scratch});
  }
  cudaStream_t stream = nullptr;
  std::unique_ptr<CudaMemory> memory;
  std::unique_ptr<Scratch> scratch;
  std::unique_ptr<CudaContext> context;
};

}  // namespace kvasir::cuda::attention_test
