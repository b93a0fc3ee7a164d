// attend, store_window and commit_window of the CPU backend against an f64 oracle, on every instruction set
// that this machine has.
#include "backend/cpu/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "backend/cpu/attention_fixture.h"

namespace kvasir::cpu {
namespace {

struct Shape {
  int dim, rope, heads, window;
  EntryChoice choice;
  int ratio, rows_per_page;
};

// One sequence of `tokens` tokens: its queries, every token's stored row, its entries and its selections.
struct Sequence {
  Sequence(const Shape& s, Numerics numerics, int64_t token_count, uint32_t seed)
      : shape(s),
        tokens(token_count),
        format(KvRowFormat::entry(numerics, s.dim, s.rope)),
        q({token_count, s.heads, s.dim}),
        sink({s.heads}),
        rows(format, token_count),
        entries(format, token_count / s.ratio + 1, s.rows_per_page),
        selected({token_count, kTopk}) {
    Random random(seed);
    random.fill(q, 1.5f, numerics == Numerics::kNative);
    random.fill(sink);
    std::vector<float> row(static_cast<size_t>(s.dim));
    for (int64_t t = 0; t < tokens; ++t) {
      for (float& x : row) x = round_bf16(random.normal());
      encode_row(format, row.data(), rows.rows().row_data(format, t), rows.rows().row_scale(format, t));
    }
    entries.fill_random(random, tokens / s.ratio);
    for (int64_t t = 0; t < tokens; ++t) select(random, t);
  }

  // Ascending, -1 at the end; some rows select nothing.
  void select(Random& random, int64_t t) {
    int64_t visible = (t + 1) / shape.ratio, n = 0;
    for (int64_t e = 0; e < visible && n < kTopk && t % 7 != 3; ++e)
      if (random.below(3) != 0) selected.view(t, n++) = static_cast<int32_t>(e);
    for (; n < kTopk; ++n) selected.view(t, n) = -1;
  }

  static constexpr int64_t kTopk = 150;
  Shape shape;
  int64_t tokens;
  KvRowFormat format;
  Tensor<float, 3> q;
  Tensor<float, 1> sink;
  RowStore rows;
  PageStore entries;
  Tensor<int32_t, 2> selected;
};

// Rows [start, start + count) of the sequence, with the ring as earlier steps have left it.
std::vector<float> run(Backend& backend, Sequence& s, int64_t start, int64_t count, int64_t capacity) {
  RowStore ring(s.format, capacity);
  CommitWindowSequence commit{s.format, s.rows.rows(), start, 0, ring.rows(), capacity};
  commit_window(backend.context, commit);
  Tensor<float, 3> out({count, s.shape.heads, s.shape.dim});
  AttendSequence a;
  a.q = s.q.view.rows(start, count);
  a.sink = s.sink.view;
  a.start = start;
  a.window = s.shape.window;
  a.format = s.format;
  a.ring = ring.rows();
  a.ring_capacity = capacity;
  a.rows = {s.rows.rows().row_data(s.format, start), s.rows.rows().row_scale(s.format, start)};
  a.choice = s.shape.choice;
  a.ratio = s.shape.ratio;
  if (s.shape.choice == EntryChoice::kSelected) a.selected = s.selected.view.rows(start, count);
  a.pages = s.entries.pages.data();
  a.entries = s.entries.section;
  a.out = out.view;
  attend(backend.context, a);
  return out.data;
}

std::vector<std::vector<float>> keys_of(Sequence& s, int64_t t) {
  std::vector<std::vector<float>> keys;
  for (int64_t p = std::max<int64_t>(0, t - s.shape.window + 1); p <= t; ++p)
    keys.push_back(s.rows.values(p));
  if (s.shape.choice == EntryChoice::kAll)
    for (int64_t e = 0; e < (t + 1) / s.shape.ratio; ++e) keys.push_back(s.entries.values(e));
  if (s.shape.choice == EntryChoice::kSelected)
    for (int64_t i = 0; i < Sequence::kTopk && s.selected.view(t, i) >= 0; ++i)
      keys.push_back(s.entries.values(s.selected.view(t, i)));
  return keys;
}

// One head's row in f64, and how far from it rounding may lead. A score is off by at most `unit` * sum |q||k|
// * scale (unit: bf16 q under kFast, else f32 sums of D terms); weights by e^2x that and by `weight_unit`
// (bf16 p); the result by one bf16 rounding under kNative.
void expect_row(Sequence& s, Numerics numerics, int64_t t, int h, const float* got,
                const std::string& where) {
  auto keys = keys_of(s, t);
  size_t dim = static_cast<size_t>(s.shape.dim);
  const float* q = &s.q.view(t, h, 0);
  double scale = 1 / std::sqrt(static_cast<double>(dim)), top = -INFINITY, score_error = 0;
  double unit = numerics == Numerics::kFast ? 0x1p-9 + 0x1p-16 : static_cast<double>(dim) * 0x1p-24;
  double weight_unit = numerics == Numerics::kExact ? 0x1p-20 : 0x1p-8;
  std::vector<double> p;
  for (const auto& k : keys) {
    double dot = 0, size = 0;
    for (size_t d = 0; d < dim; ++d) {
      dot += double{q[d]} * k[d];
      size += std::fabs(double{q[d]} * k[d]);
    }
    p.push_back(dot * scale);
    top = std::max(top, dot * scale);
    score_error = std::max(score_error, unit * size * scale);
  }
  double total = std::exp(s.sink.view(h) - top);
  for (double& x : p) total += x = std::exp(x - top);
  for (size_t d = 0; d < dim; ++d) {
    double want = 0, size = 0;
    for (size_t j = 0; j < keys.size(); ++j) {
      want += p[j] / total * keys[j][d];
      size += p[j] / total * std::fabs(keys[j][d]);
    }
    double bound = (std::expm1(2 * score_error) + weight_unit) * size + 1e-30;
    if (numerics == Numerics::kNative) bound += 0x1p-8 * std::fabs(want);
    ASSERT_NEAR(got[d], want, bound) << where << ": token " << t << " head " << h << " dim " << d;
  }
}

constexpr Shape kShapes[] = {
    {96, 32, 3, 5, EntryChoice::kNone, 4, 3},   {128, 64, 8, 32, EntryChoice::kSelected, 4, 32},
    {96, 32, 8, 33, EntryChoice::kAll, 4, 7},   {512, 64, 2, 128, EntryChoice::kSelected, 4, 32},
    {128, 64, 65, 17, EntryChoice::kAll, 2, 1}, {80, 16, 1, 1, EntryChoice::kAll, 3, 2},
};

TEST(CpuAttend, AgreesWithF64OverEveryKeyChoice) {
  for (const Shape& shape : kShapes) {
    for (Numerics numerics : kAllNumerics) {
      Sequence s(shape, numerics, 333, 7);
      for (Isa isa : available_isas()) {
        Backend backend(numerics, isa, 2);
        for (auto [start, count] : {std::pair<int64_t, int64_t>{0, 3}, {0, 70}, {131, 1}, {250, 83}}) {
          auto got = run(backend, s, start, count, shape.window + 3);
          for (int64_t t : {start, start + count / 2, start + count - 1}) {
            for (int h : {0, shape.heads - 1})
              expect_row(s, numerics, t, h,
                         &got[static_cast<size_t>(((t - start) * shape.heads + h) * shape.dim)],
                         case_name(numerics, isa));
          }
        }
      }
    }
  }
}

TEST(CpuAttend, IsBitIdenticalForEveryChunkSize) {
  for (const Shape& shape : kShapes) {
    for (Numerics numerics : kAllNumerics) {
      Sequence s(shape, numerics, 300, 11);
      for (Isa isa : available_isas()) {
        if (isa == Isa::kPortable && shape.dim == 512) continue;  // the same code as at dim 128, slowly
        Backend backend(numerics, isa, 2);
        int64_t capacity = shape.window + 2;
        auto whole = run(backend, s, 0, s.tokens, capacity);
        for (int64_t chunk : {1, 3, 5, 127, 129}) {
          for (int64_t start = 0; start < s.tokens; start += chunk) {
            if (chunk < 5 && start > 20 && start < 255) continue;
            auto part = run(backend, s, start, std::min(chunk, s.tokens - start), capacity);
            ASSERT_EQ(0,
                      std::memcmp(part.data(), &whole[static_cast<size_t>(start * shape.heads * shape.dim)],
                                  part.size() * 4))
                << case_name(numerics, isa) << ", dim " << shape.dim << ", chunk " << chunk << " at "
                << start;
          }
        }
      }
    }
  }
}

TEST(CpuAttend, IsBitIdenticalForEveryNumberOfThreads) {
  for (const Shape& shape : kShapes) {
    for (Numerics numerics : kAllNumerics) {
      Sequence s(shape, numerics, 1100, 13);
      Backend one(numerics, detect_isa(), 1), four(numerics, detect_isa(), 4);
      for (auto [start, count] : {std::pair<int64_t, int64_t>{1099, 1}, {1000, 8}, {700, 200}}) {
        auto a = run(one, s, start, count, shape.window), b = run(four, s, start, count, shape.window);
        ASSERT_EQ(0, std::memcmp(a.data(), b.data(), a.size() * 4))
            << case_name(numerics, detect_isa()) << " at " << start;
      }
    }
  }
}

TEST(CpuAttend, SurvivesARowWithoutSelectedEntries) {
  Shape shape{128, 64, 4, 8, EntryChoice::kSelected, 4, 4}, alone = shape;
  alone.choice = EntryChoice::kNone;
  Sequence s(shape, Numerics::kFast, 40, 3), w(alone, Numerics::kFast, 40, 3);
  for (int32_t& e : s.selected.data) e = -1;
  for (Isa isa : available_isas()) {
    Backend backend(Numerics::kFast, isa, 1);
    EXPECT_EQ(run(backend, s, 0, 40, 8), run(backend, w, 0, 40, 8)) << isa_name(isa);
  }
}

TEST(CpuAttend, CountsTheSinkOnceHoweverManySegmentsThereAre) {
  Shape shape{96, 32, 2, 4, EntryChoice::kAll, 1, 16};  // 1,000 entries: four segments of entries
  for (Isa isa : available_isas()) {
    Sequence s(shape, Numerics::kExact, 1000, 5);
    for (float& x : s.sink.data) x = 30.f;
    Backend backend(Numerics::kExact, isa, 3);
    auto got = run(backend, s, 999, 1, 4);
    for (int h : {0, 1})
      expect_row(s, Numerics::kExact, 999, h, &got[static_cast<size_t>(h) * 96], std::string(isa_name(isa)));
  }
}

TEST(CpuWindow, StoresRotatedRowsAsEncodeRowDoes) {
  for (Numerics numerics : kAllNumerics) {
    KvRowFormat f = KvRowFormat::entry(numerics, 192, 64);
    Random random(3);
    Tensor<float, 2> kv({37, 192});
    random.fill(kv, 3.f, numerics == Numerics::kNative);
    Tensor<float, 3> table({37, 32, 2});
    for (size_t i = 0; i < table.data.size(); i += 2) {
      float angle = random.normal(10.f);
      table.data[i] = std::cos(angle);
      table.data[i + 1] = std::sin(angle);
    }
    for (Isa isa : available_isas()) {
      Backend backend(numerics, isa, 2);
      RowStore got(f, 37), want(f, 1);
      store_window(backend.context, {kv.view, table.view, f, got.rows()});
      for (int64_t t = 0; t < 37; ++t) {
        std::vector<float> row(kv.view.row(t), kv.view.row(t) + 192);
        for (int i = 0; i < 32; ++i) {
          float a = row[128 + 2 * i], b = row[129 + 2 * i], c = table.view(t, i, 0), sn = table.view(t, i, 1);
          row[128 + 2 * i] = a * c - b * sn;
          row[129 + 2 * i] = a * sn + b * c;
          if (numerics == Numerics::kNative)
            for (int j : {128 + 2 * i, 129 + 2 * i}) row[j] = round_bf16(row[j]);
        }
        encode_row(f, row.data(), want.rows().data, want.rows().scale);
        ASSERT_EQ(0,
                  std::memcmp(want.data.data(), got.rows().row_data(f, t), static_cast<size_t>(f.data_bytes)))
            << case_name(numerics, isa) << " row " << t;
        ASSERT_EQ(0, std::memcmp(want.scale.data(), got.rows().row_scale(f, t),
                                 static_cast<size_t>(f.scale_bytes)));
      }
    }
  }
}

TEST(CpuWindow, CommitsOnlyTheLastRowsThatFitInTheRing) {
  KvRowFormat f = KvRowFormat::entry(Numerics::kFast, 128, 64);
  Backend backend(Numerics::kFast, detect_isa(), 1);
  RowStore rows(f, 10), ring(f, 4);
  for (int64_t r = 0; r < 10; ++r)
    std::memset(rows.rows().row_data(f, r), static_cast<int>(r + 1), static_cast<size_t>(f.data_bytes));
  commit_window(backend.context, {f, rows.rows(), 10, 3, ring.rows(), 4});  // positions 3..12
  for (int64_t position = 9; position <= 12; ++position)
    EXPECT_EQ(std::byte(position - 3 + 1), *ring.rows().row_data(f, position % 4)) << position;
}

}  // namespace
}  // namespace kvasir::cpu
