// The indexer of the CUDA backend against the reference and against f64 scores of what it quantised.
#include "backend/cuda/indexer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "backend/cuda/cuda_cache_fixture.h"
#include "backend/reference/arithmetic.h"
#include "backend/reference/reference_ops.h"
#include "tensor/dtype.h"

namespace kvasir::cuda {
namespace {

using namespace cache_test;

using Spans = std::vector<std::pair<int64_t, int64_t>>;

struct Case {
  const char* name;
  Spans spans;  // start, tokens
  int topk = 512;
  int heads = 64, dim = 128;
  int ratio = 4, rows_per_page = 32;
  float key_spread = 1;  // deviation of log2 of the magnitude of blocks of keys
  float weight_mean = 0;
  int distinct_keys = 0;  // 0: all; else keys repeat
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

std::string case_name(const testing::TestParamInfo<std::tuple<Numerics, Case>>& info) {
  return std::string(numerics_name(std::get<0>(info.param))) + "_" + std::get<1>(info.param).name;
}

class Index {
 public:
  Index(Numerics numerics, const Case& c, uint32_t seed = 5) : numerics_(numerics), c_(c), random_(seed) {
    format_ = KvRowFormat::index_key(numerics, c.dim);
    place_.ratio = c.ratio;
    place_.keys = {64, 64 + int64_t{c.rows_per_page} * format_.data_bytes, c.rows_per_page};
    int64_t page_bytes = (64 + c.rows_per_page * format_.row_bytes() + 63) / 64 * 64;
    int64_t length = 0;
    for (auto [start, tokens] : c.spans) length = std::max(length, start + tokens);
    int64_t pages = length / c.ratio / c.rows_per_page + 1;
    sequences_ = std::make_unique<Sequences>(spans_of(c.spans), 64, page_bytes, pages);
    fill_keys(pages);
    int64_t rows = sequences_->rows();
    q_ = std::make_unique<Mirror<float>>(random_floats(random_, rows * c.heads * c.dim, 1.f));
    weight_ = std::make_unique<Mirror<float>>(random_floats(random_, rows * c.heads, 0.1f, c.weight_mean));
    if (numerics == Numerics::kNative) round_inputs();
  }

  std::vector<int32_t> reference() {
    std::vector<int32_t> out(static_cast<size_t>(rows() * c_.topk));
    ReferenceOps ops(numerics_);
    ops.index_select(args(q_->values.data(), weight_->values.data(), sequences_->host_batch(), out.data()));
    return out;
  }
  std::vector<int32_t> device() {
    Device device(numerics_);
    Mirror<int32_t> out(rows() * c_.topk);
    out.poison();
    index_select(device.context(), args(q_->device, weight_->device, sequences_->device_batch(), out.device));
    device.finish();
    return out.download();
  }

  // Checks every row: ascending, visible, complete, and no score left out that beats one taken by more than a
  // rounding.
  void check(const std::vector<int32_t>& selected) {
    int64_t row = 0;
    for (size_t s = 0; s < c_.spans.size(); ++s) {
      for (int64_t i = 0; i < c_.spans[s].second; ++i, ++row) {
        int64_t visible = (c_.spans[s].first + i + 1) / c_.ratio;
        // Of many rows some are checked, the ends of a span always.
        if (c_.spans[s].second > 40 && i % 61 != 0 && i + 1 < c_.spans[s].second) continue;
        check_row(static_cast<int64_t>(s), row, visible, selected.data() + row * c_.topk);
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }

  int64_t rows() const { return sequences_->rows(); }
  const Case& test_case() const { return c_; }
  // The queries rotated, transformed and scored, in one call or in two.
  std::vector<int32_t> transformed(bool one_call) {
    std::vector<float> angles;
    for (int64_t i = 0; i < rows() * 32; ++i) {
      angles.push_back(static_cast<float>(std::cos(static_cast<double>(i))));
      angles.push_back(static_cast<float>(std::sin(static_cast<double>(i))));
    }
    Mirror<float> table(angles), q(q_->values), weight(weight_->values);
    Mirror<int32_t> out(rows() * c_.topk);
    out.poison();
    IndexQueryArgs query;
    query.q = {q.device, {rows(), c_.heads, c_.dim}};
    query.table = {table.device, {rows(), 32, 2}};
    query.weight = {weight.device, {rows(), c_.heads}};
    query.weight_scale = 0.25f;
    IndexSelectArgs a = args(q.device, weight.device, sequences_->device_batch(), out.device);
    Device device(numerics_);
    if (one_call) {
      index_query_select(device.context(), query, a);
    } else {
      index_query(device.context(), query);
      index_select(device.context(), a);
    }
    device.finish();
    return out.download();
  }

  // Some rows of one sequence, all of them by default, as a call of their own.
  std::vector<int32_t> alone(int64_t sequence, int64_t first = 0, int64_t count = -1) {
    SequenceSpan span = sequences_->spans()[static_cast<size_t>(sequence)];
    CacheBatch batch = sequences_->device_batch();
    CacheSequence one;
    expect_ok(cudaMemcpy(&one, batch.sequences.data() + sequence, sizeof(one), cudaMemcpyDeviceToHost));
    span.first_row += first;
    span.start += first;
    span.tokens = count < 0 ? span.tokens : count;
    one.span = {0, span.tokens, span.start};
    Mirror<CacheSequence> sequences(std::vector<CacheSequence>{one});
    Mirror<int32_t> row_sequence(std::vector<int32_t>(static_cast<size_t>(span.tokens), 0));
    batch.sequences = {sequences.device, {1}};
    batch.row_sequence = {row_sequence.device, {span.tokens}};
    batch.max_tokens = span.tokens;
    batch.max_length = (span.start + span.tokens + 127) / 128 * 128;
    Device device(numerics_);
    Mirror<int32_t> out(span.tokens * c_.topk);
    out.poison();
    IndexSelectArgs a = args(q_->device, weight_->device, batch, out.device);
    a.q = a.q.rows(span.first_row, span.tokens);
    a.weight = a.weight.rows(span.first_row, span.tokens);
    a.selected = {out.device, {span.tokens, c_.topk}};
    index_select(device.context(), a);
    device.finish();
    return out.download();
  }

 private:
  IndexSelectArgs args(const float* q, const float* weight, const CacheBatch& batch, int32_t* out) {
    IndexSelectArgs a;
    a.q = {q, {rows(), c_.heads, c_.dim}};
    a.weight = {weight, {rows(), c_.heads}};
    a.batch = batch;
    a.place = place_;
    a.format = format_;
    a.selected = {out, {rows(), c_.topk}};
    return a;
  }

  void fill_keys(int64_t pages) {
    std::normal_distribution<float> normal;
    std::vector<float> key(static_cast<size_t>(c_.dim));
    std::vector<std::vector<float>> drawn;
    for (int64_t s = 0; s < static_cast<int64_t>(c_.spans.size()); ++s) {
      int64_t n = 0;
      for (int64_t p = 0; p < pages; ++p) {
        KvRows rows = place_.keys.in_page(sequences_->host_page(s, p));
        for (int r = 0; r < c_.rows_per_page; ++r, ++n) {
          if (c_.distinct_keys != 0 && n >= c_.distinct_keys) {
            key = drawn[static_cast<size_t>(random_() % drawn.size())];
          } else {
            for (int b = 0; b < c_.dim / 32; ++b) {
              float size = std::exp2(c_.key_spread * normal(random_));
              for (int i = 0; i < 32; ++i) key[static_cast<size_t>(32 * b + i)] = normal(random_) * size;
            }
            if (c_.distinct_keys != 0) drawn.push_back(key);
          }
          encode_row(format_, key.data(), rows.row_data(format_, r), rows.row_scale(format_, r));
        }
      }
    }
    sequences_->pages().upload();
  }

  void round_inputs() {
    KvRowFormat f = KvRowFormat::index_key(Numerics::kNative, c_.dim);
    std::vector<std::byte> data(static_cast<size_t>(f.data_bytes)), scale(static_cast<size_t>(f.scale_bytes));
    for (int64_t i = 0; i < rows() * c_.heads; ++i) {
      float* q = q_->values.data() + i * c_.dim;
      encode_row(f, q, data.data(), scale.data());
      decode_row(f, data.data(), scale.data(), q);
    }
    for (float& w : weight_->values) w = round_bf16(w);
    q_->upload();
    weight_->upload();
  }

  // Whether this call goes to a kernel that multiplies e4m3 queries.
  bool rounds_queries() const {
    return c_.heads == 64 && c_.dim == 128 && c_.rows_per_page % 16 == 0 && c_.topk <= 1024;
  }

  // The query that the backend multiplies, as codes and a scale of each head: kFast rounds a head to e4m3
  // with its largest value at 64.
  void query(int64_t row, std::vector<float>& codes, std::vector<double>& scales) {
    const float* q = q_->values.data() + row * c_.heads * c_.dim;
    bool rounds = numerics_ == Numerics::kFast && rounds_queries();
    codes.assign(q, q + c_.heads * c_.dim);
    scales.assign(static_cast<size_t>(c_.heads), 1.);
    for (int h = 0; rounds && h < c_.heads; ++h) {
      float amax = 0x1p-100f, *code = codes.data() + h * c_.dim;
      for (int i = 0; i < c_.dim; ++i) amax = std::max(amax, std::fabs(code[i]));
      float up = 64.f / amax;
      for (int i = 0; i < c_.dim; ++i) code[i] = e4m3_to_float(float_to_e4m3(code[i] * up));
      scales[static_cast<size_t>(h)] = double{amax} / 64;
    }
  }

  void check_row(int64_t sequence, int64_t row, int64_t visible, const int32_t* selected) {
    int64_t keep = std::min<int64_t>(visible, c_.topk);
    for (int64_t j = 0; j < c_.topk; ++j) {
      if (j >= keep) {
        ASSERT_EQ(selected[j], -1) << "row " << row << " place " << j;
      } else {
        ASSERT_TRUE(selected[j] >= 0 && selected[j] < visible)
            << "row " << row << " place " << j << ": " << selected[j] << " of " << visible;
        ASSERT_TRUE(j == 0 || selected[j] > selected[j - 1])
            << "row " << row << " place " << j << ": " << selected[j];
      }
    }
    if (visible <= c_.topk) return;
    std::vector<float> q;
    std::vector<double> scale, score(static_cast<size_t>(visible));
    query(row, q, scale);
    std::vector<float> key(static_cast<size_t>(c_.dim));
    double squares = 0;
    for (int64_t b = 0; b < visible; ++b) {
      KvRows rows = place_.keys.in_page(sequences_->host_page(sequence, b / c_.rows_per_page));
      int64_t slot = b % c_.rows_per_page;
      decode_row(format_, rows.row_data(format_, slot), rows.row_scale(format_, slot), key.data());
      double sum = 0, size = 0;
      for (int h = 0; h < c_.heads; ++h) {
        double w = weight_->values[static_cast<size_t>(row * c_.heads + h)];
        double dot = scale[static_cast<size_t>(h)] *
                     reference::dot(&q[static_cast<size_t>(h * c_.dim)], key.data(), c_.dim);
        if (numerics_ == Numerics::kNative) {
          sum += round_bf16(round_bf16(std::max(0.f, static_cast<float>(dot))) * static_cast<float>(w));
        } else {
          sum += w * std::max(0., dot);
        }
        size += w * w * dot * dot;
      }
      score[static_cast<size_t>(b)] =
          numerics_ == Numerics::kNative ? round_bf16(static_cast<float>(sum)) : sum;
      squares += size;
    }
    // Relative to the size that a score has before its terms cancel.
    double typical = std::sqrt(squares / static_cast<double>(visible));
    double bound = typical * (numerics_ == Numerics::kFast ? 2e-3 : 1e-6);
    std::vector<double> sorted = score;
    std::nth_element(sorted.begin(), sorted.begin() + (keep - 1), sorted.end(), std::greater<>());
    double last = sorted[static_cast<size_t>(keep - 1)];
    std::vector<bool> taken(static_cast<size_t>(visible));
    for (int64_t j = 0; j < keep; ++j) {
      taken[static_cast<size_t>(selected[j])] = true;
      ASSERT_GE(score[static_cast<size_t>(selected[j])], last - bound)
          << "row " << row << " entry " << selected[j];
    }
    for (int64_t b = 0; b < visible; ++b)
      ASSERT_TRUE(taken[static_cast<size_t>(b)] || score[static_cast<size_t>(b)] <= last + bound)
          << "row " << row << " left out " << b;
  }

  Numerics numerics_;
  Case c_;
  std::mt19937 random_;
  KvRowFormat format_;
  LayerPlace place_;
  std::unique_ptr<Sequences> sequences_;
  std::unique_ptr<Mirror<float>> q_, weight_;
};

class CudaIndexSelect : public testing::TestWithParam<std::tuple<Numerics, Case>> {};

TEST_P(CudaIndexSelect, TakesTheBestVisibleEntries) {
  auto [numerics, c] = GetParam();
  if (numerics != Numerics::kFast && c.spans[0].first > 4 * 40001) GTEST_SKIP() << "slow on the host";
  Index index(numerics, c);
  std::vector<int32_t> got = index.device();
  index.check(got);
  if (numerics != Numerics::kFast && index.rows() <= 20) {
    EXPECT_EQ(got, index.reference());
  }
}

TEST_P(CudaIndexSelect, GivesTheSameBitsAgain) {
  auto [numerics, c] = GetParam();
  Index index(numerics, c);
  std::vector<int32_t> first = index.device();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(index.device(), first);
}

const Case kCases[] = {
    {"few_entries", {{0, 3}, {5, 1}, {2043, 9}}},
    {"around_k", {{2046, 1}, {2047, 1}, {2048, 1}, {2051, 3}, {2300, 2}}},
    {"page_edges", {{4 * 1023 + 3, 1}, {4 * 1024 - 1, 2}, {4 * 1056 + 2, 3}, {4 * 1055 + 3, 1}}},
    {"one_long", {{4 * 40000 + 1, 1}}},
    {"one_very_long", {{4 * 262144 - 1, 1}}},
    {"long_and_short", {{4 * 70001, 1}, {3, 1}, {4 * 17000, 4}, {9000, 2}, {0, 1}}},
    {"pro_k", {{4 * 30000, 2}, {4 * 1024 - 2, 5}, {4 * 16384 + 100, 1}}, 1024},
    {"small_k", {{4 * 30000, 2}, {100, 5}}, 1},
    {"odd_k", {{4 * 30000, 1}, {9000, 5}}, 77},
    {"wide_blocks", {{4 * 20000, 2}}, 512, 64, 128, 4, 32, 4.f},
    {"positive_weights", {{4 * 40000, 2}}, 512, 64, 128, 4, 32, 1.f, 0.3f},
    {"repeated_keys", {{4 * 40000, 2}, {4 * 5000, 1}}, 512, 64, 128, 4, 32, 1.f, 0.f, 40},
    {"equal_keys", {{4 * 40000, 1}, {4 * 3000, 1}}, 512, 64, 128, 4, 32, 1.f, 0.f, 1},
    {"prefill", {{0, 3001}, {5000, 700}}},
    {"other_pages", {{4 * 9000, 2}, {4 * 3000, 17}}, 512, 64, 128, 4, 64},
    {"small_pages", {{4 * 5000, 2}, {4 * 3000, 3}}, 64, 64, 128, 4, 5},
    {"tiny_model", {{700, 5}, {0, 40}, {64, 1}}, 16, 4, 32, 4, 32},
    {"wide_heads", {{700, 5}}, 16, 3, 256, 4, 32},
};

INSTANTIATE_TEST_SUITE_P(All, CudaIndexSelect,
                         testing::Combine(testing::Values(Numerics::kExact, Numerics::kNative,
                                                          Numerics::kFast),
                                          testing::ValuesIn(kCases)),
                         case_name);

// A row alone and the same row among others.
TEST(CudaIndexer, ARowDoesNotDependOnTheOthers) {
  for (Numerics numerics : {Numerics::kExact, Numerics::kNative, Numerics::kFast}) {
    Case both{"both", {{4 * 20000 + 2, 2}, {4 * 33000, 1}, {50, 1}, {4 * 9000, 3}}};
    Index all(numerics, both);
    std::vector<int32_t> together = all.device();
    int64_t row = 0;
    for (size_t s = 0; s < both.spans.size(); ++s) {
      std::vector<int32_t> got = all.alone(static_cast<int64_t>(s));
      EXPECT_TRUE(std::equal(got.begin(), got.end(), together.begin() + row * both.topk)) << "sequence " << s;
      row += both.spans[s].second;
    }
  }
}

// Steps of a few tokens and steps of many go to different kernels, which score alike.
TEST(CudaIndexer, ARowDoesNotDependOnTheStep) {
  Index index(Numerics::kFast, {"", {{4 * 21000 + 1, 45}, {300, 3}}});
  std::vector<int32_t> together = index.device();
  for (auto [first, count] : std::vector<std::pair<int64_t, int64_t>>{{0, 8}, {8, 1}, {9, 20}, {29, 16}}) {
    std::vector<int32_t> got = index.alone(0, first, count);
    EXPECT_TRUE(std::equal(got.begin(), got.end(), together.begin() + first * 512))
        << count << " rows from " << first;
  }
}

TEST(CudaIndexer, QueriesTransformedInTheScanSelectTheSame) {
  for (Numerics numerics : {Numerics::kNative, Numerics::kFast}) {
    Index index(numerics, {"", {{4 * 20000 + 2, 2}, {50, 1}, {4 * 9000, 3}}});
    EXPECT_EQ(index.transformed(true), index.transformed(false));
  }
}

TEST(CudaIndexer, QueriesAreRotatedTransformedAndRounded) {
  for (Numerics numerics : {Numerics::kExact, Numerics::kNative, Numerics::kFast}) {
    for (auto [tokens, heads, dim, pairs] :
         std::vector<std::tuple<int64_t, int64_t, int64_t, int64_t>>{{1, 64, 128, 32},
                                                                     {7, 64, 128, 32},
                                                                     {300, 64, 128, 32},
                                                                     {3, 4, 32, 8},
                                                                     {2, 3, 256, 128},
                                                                     {2, 2, 64, 0}}) {
      std::mt19937 random(7);
      Mirror<float> q = random_floats(random, tokens * heads * dim, 1.f),
                    weight = random_floats(random, tokens * heads, 1.f);
      if (numerics == Numerics::kNative) {
        for (float& x : q.values) x = round_bf16(x);
        for (float& x : weight.values) x = round_bf16(x);
        q.upload();
        weight.upload();
      }
      std::vector<float> angles;
      for (int64_t i = 0; i < tokens * pairs; ++i) {
        double a = static_cast<double>(random() % 100000) * 0.001;
        angles.push_back(static_cast<float>(std::cos(a)));
        angles.push_back(static_cast<float>(std::sin(a)));
      }
      if (angles.empty()) angles.push_back(0);
      Mirror<float> table(angles);
      auto args = [&](float* q_data, const float* table_data, float* weight_data) {
        IndexQueryArgs a;
        a.q = {q_data, {tokens, heads, dim}};
        a.table = {table_data, {tokens, pairs, 2}};
        a.weight = {weight_data, {tokens, heads}};
        a.weight_scale = 0.0110485f;
        return a;
      };
      Device device(numerics);
      index_query(device.context(), args(q.device, table.device, weight.device));
      device.finish();
      std::vector<float> got = q.download(), got_weight = weight.download();
      ReferenceOps ops(numerics == Numerics::kNative ? Numerics::kNative : Numerics::kExact);
      ops.index_query(args(q.values.data(), table.values.data(), weight.values.data()));
      if (numerics == Numerics::kNative) {
        EXPECT_EQ(got, q.values);
        EXPECT_EQ(got_weight, weight.values);
      } else {
        double off = 0, size = 0;
        for (size_t i = 0; i < got.size(); ++i) {
          off += std::pow(double{got[i]} - q.values[i], 2);
          size += std::pow(double{q.values[i]}, 2);
        }
        EXPECT_LE(std::sqrt(off / size), 1e-6);
        for (size_t i = 0; i < got_weight.size(); ++i) EXPECT_FLOAT_EQ(got_weight[i], weight.values[i]);
      }
    }
  }
}

}  // namespace
}  // namespace kvasir::cuda
