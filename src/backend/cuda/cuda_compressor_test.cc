// The compressor of the CUDA backend against the reference, step after step over growing sequences.
#include "backend/cuda/compressor.h"

#include <gtest/gtest.h>

#include <cmath>

#include "backend/cuda/cuda_cache_fixture.h"
#include "backend/reference/reference_ops.h"
#include "tensor/dtype.h"

namespace kvasir::cuda {
namespace {

using namespace cache_test;

struct Shape {
  const char* name;
  CompressKind kind;
  int ratio, lanes, dim, rope;
};

void PrintTo(const Shape& s, std::ostream* out) { *out << s.name; }

const Shape kShapes[] = {
    {"csa", CompressKind::kEntry, 4, 2, 512, 64},          {"index", CompressKind::kIndexKey, 4, 2, 128, 64},
    {"hca", CompressKind::kEntry, 128, 1, 512, 64},        {"tiny", CompressKind::kEntry, 4, 2, 128, 64},
    {"tiny_index", CompressKind::kIndexKey, 4, 2, 32, 16},
};

class Compressor {
 public:
  Compressor(Numerics numerics, const Shape& s, int64_t sequences, int64_t max_length)
      : numerics_(numerics), device_(numerics), s_(s), random_(11), lengths_(static_cast<size_t>(sequences)) {
    bool entry = s.kind == CompressKind::kEntry;
    format_ = entry ? KvRowFormat::entry(numerics, s.dim, s.rope) : KvRowFormat::index_key(numerics, s.dim);
    place_.ratio = s.ratio;
    place_.tail_capacity = s.lanes * s.ratio + 8;
    place_.tail = entry ? 64 : 0;
    place_.index_tail = entry ? 0 : 64;
    int64_t tail_bytes = place_.tail_capacity * 2 * s.lanes * s.dim * 4;
    int per_page = 128 / s.ratio;
    PageSection section{64, 64 + (per_page * format_.data_bytes + 63) / 64 * 64, per_page};
    (entry ? place_.entries : place_.keys) = section;
    int64_t page_bytes = section.scale_offset + (per_page * format_.scale_bytes + 63) / 64 * 64;
    pages_ = max_length / 128 + 1;
    sequences_ = std::make_unique<Sequences>(std::vector<SequenceSpan>(static_cast<size_t>(sequences)),
                                             64 + tail_bytes, page_bytes, pages_);
    std::fill(sequences_->states().values.begin(), sequences_->states().values.end(), std::byte{0xff});
    std::fill(sequences_->pages().values.begin(), sequences_->pages().values.end(), std::byte{0xff});
    sequences_->states().upload();
    sequences_->pages().upload();
    ape_ = std::make_unique<Mirror<float>>(random_floats(random_, s.ratio * width(), 0.5f));
    norm_ = std::make_unique<Mirror<float>>(random_floats(random_, s.dim, 0.1f, 1.f));
    std::vector<float> inv;
    for (int i = 0; i < s.rope / 2; ++i)
      inv.push_back(static_cast<float>(std::pow(160000., -2. * i / s.rope)));
    inv_freq_ = std::make_unique<Mirror<float>>(inv);
  }

  // One step on both sides: `tokens` more of each sequence.
  void step(const std::vector<int64_t>& tokens) {
    prepare(tokens);
    compress(device_.context(), args(false));
    device_.finish();
    reference();
  }
  // The same of two compressors in one call.
  static void step_pair(Compressor& entry, Compressor& key, const std::vector<int64_t>& tokens) {
    entry.prepare(tokens);
    key.prepare(tokens);
    compress_pair(entry.device_.context(), entry.args(false), key.args(false));
    entry.device_.finish();
    entry.reference();
    key.reference();
  }

  // Compares all states and all pages; unwritten bytes must still be as they were.
  void compare() {
    std::vector<std::byte> states = sequences_->states().download(), pages = sequences_->pages().download();
    EXPECT_EQ(std::memcmp(states.data(), sequences_->states().values.data(), states.size()), 0)
        << "tails differ";
    const PageSection& section = s_.kind == CompressKind::kEntry ? place_.entries : place_.keys;
    double off = 0, size = 0;
    int64_t differing = 0, codes = 0;
    std::vector<float> want(static_cast<size_t>(s_.dim)), got(static_cast<size_t>(s_.dim));
    for (size_t i = 0; i < lengths_.size(); ++i) {
      for (int64_t b = 0; b < lengths_[i] / s_.ratio; ++b) {
        std::byte* host = sequences_->host_page(static_cast<int64_t>(i), b / section.rows_per_page);
        std::byte* device = pages.data() + (host - sequences_->pages().values.data());
        KvRows h = section.in_page(host), d = section.in_page(device);
        int64_t slot = b % section.rows_per_page;
        decode_row(format_, h.row_data(format_, slot), h.row_scale(format_, slot), want.data());
        decode_row(format_, d.row_data(format_, slot), d.row_scale(format_, slot), got.data());
        for (size_t e = 0; e < want.size(); ++e) {
          off += std::pow(double{want[e]} - got[e], 2);
          size += double{want[e]} * want[e];
          differing += want[e] != got[e];
          ++codes;
        }
        // So that what is left over is what must not have been written.
        std::memcpy(d.row_data(format_, slot), h.row_data(format_, slot),
                    static_cast<size_t>(format_.data_bytes));
        std::memcpy(d.row_scale(format_, slot), h.row_scale(format_, slot),
                    static_cast<size_t>(format_.scale_bytes));
      }
    }
    EXPECT_EQ(std::memcmp(pages.data(), sequences_->pages().values.data(), pages.size()), 0)
        << "written outside of the rows";
    if (codes == 0) return;
    if (numerics_ == Numerics::kExact) {
      EXPECT_LE(std::sqrt(off / size), 1e-6);
    } else {
      // A code flips where the unrounded values of the two lie on both sides of a midpoint: f32 against f64,
      // 2^-20 of the width of a code of 3 mantissa bits for about every 2^14th value.
      EXPECT_LE(differing, 2 + codes / 2000) << "of " << codes;
      EXPECT_LE(std::sqrt(off / size), 3e-3);
    }
  }

 private:
  void prepare(const std::vector<int64_t>& tokens) {
    std::vector<SequenceSpan> spans;
    rows_ = 0;
    for (size_t i = 0; i < tokens.size(); ++i) {
      spans.push_back({rows_, tokens[i], lengths_[i]});
      rows_ += tokens[i];
      lengths_[i] += tokens[i];
    }
    sequences_->set_spans(spans);
    kv_ = std::make_unique<Mirror<float>>(random_floats(random_, rows_ * width(), 1.f));
    score_ = std::make_unique<Mirror<float>>(random_floats(random_, rows_ * width(), 1.5f));
  }
  CompressArgs args(bool host) {
    auto of = [&](const Mirror<float>& m) { return host ? m.values.data() : m.device; };
    CompressArgs a;
    a.kind = s_.kind;
    a.lanes = s_.lanes;
    a.kv = {of(*kv_), {rows_, width()}};
    a.score = {of(*score_), {rows_, width()}};
    a.ape = {of(*ape_), {s_.ratio, width()}};
    a.norm = {of(*norm_), {s_.dim}};
    a.inv_freq = {of(*inv_freq_), {s_.rope / 2}};
    a.batch = host ? sequences_->host_batch() : sequences_->device_batch();
    a.place = place_;
    a.format = format_;
    return a;
  }
  void reference() {
    ReferenceOps ops(numerics_ == Numerics::kNative ? Numerics::kNative : Numerics::kExact);
    ops.compress(args(true));
  }
  int64_t width() const { return int64_t{s_.lanes} * s_.dim; }

  Numerics numerics_;
  Device device_;
  Shape s_;
  std::mt19937 random_;
  KvRowFormat format_;
  LayerPlace place_;
  int64_t pages_ = 0;
  std::unique_ptr<Sequences> sequences_;
  std::unique_ptr<Mirror<float>> ape_, norm_, inv_freq_, kv_, score_;
  int64_t rows_ = 0;  // of the step
  std::vector<int64_t> lengths_;
};

class CudaCompress : public testing::TestWithParam<std::tuple<Numerics, Shape>> {};

TEST_P(CudaCompress, OneTokenAtATime) {
  auto [numerics, shape] = GetParam();
  Compressor c(numerics, shape, 3, 512);
  for (int i = 0; i < (shape.ratio == 4 ? 23 : 260); ++i) c.step({1, 1, i < 5 ? 0 : 1});
  c.compare();
}

TEST_P(CudaCompress, UnevenSteps) {
  auto [numerics, shape] = GetParam();
  Compressor c(numerics, shape, 4, 2048);
  for (std::vector<int64_t> tokens : std::vector<std::vector<int64_t>>{{3, 1, 127, 0},
                                                                       {6, 7, 1, 300},
                                                                       {1, 2, 130, 5},
                                                                       {8, 8, 8, 8},
                                                                       {128, 5, 4, 3},
                                                                       {129, 333, 1, 2},
                                                                       {2, 3, 4, 5},
                                                                       {257, 1, 1, 640}})
    c.step(tokens);
  c.compare();
}

TEST_P(CudaCompress, ManyTokensAtOnce) {
  auto [numerics, shape] = GetParam();
  Compressor c(numerics, shape, 2, 4096);
  c.step({1500, 3});
  c.step({1031, 1025});
  c.compare();
}

INSTANTIATE_TEST_SUITE_P(All, CudaCompress,
                         testing::Combine(testing::Values(Numerics::kExact, Numerics::kNative,
                                                          Numerics::kFast),
                                          testing::ValuesIn(kShapes)),
                         [](const auto& test) {
                           return std::string(numerics_name(std::get<0>(test.param))) + "_" +
                                  std::get<1>(test.param).name;
                         });

TEST(CudaCompressor, BothCompressorsOfALayerInOneCall) {
  for (Numerics numerics : {Numerics::kNative, Numerics::kFast}) {
    Compressor entry(numerics, kShapes[0], 3, 4096), key(numerics, kShapes[1], 3, 4096);
    for (std::vector<int64_t> tokens :
         std::vector<std::vector<int64_t>>{{7, 1, 0}, {1, 1, 1}, {1000, 3, 5}, {4, 8, 1}, {1, 1, 1}})
      Compressor::step_pair(entry, key, tokens);
    entry.compare();
    key.compare();
  }
}

TEST(CudaCompressor, BatchesOf64CloseTheirGroupsAlone) {
  for (Numerics numerics : {Numerics::kNative, Numerics::kFast}) {
    for (const Shape& shape : {kShapes[0], kShapes[1], kShapes[2]}) {
      Compressor c(numerics, shape, 64, 256);
      std::vector<int64_t> first, next(64, 1);
      for (int64_t i = 0; i < 64; ++i) first.push_back(100 + i % 37);
      c.step(first);
      for (int i = 0; i < 5; ++i) c.step(next);
      c.compare();
    }
  }
}

}  // namespace
}  // namespace kvasir::cuda
