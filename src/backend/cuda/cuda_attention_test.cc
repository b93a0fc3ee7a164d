// Attention on the device against ReferenceOps: every choice of keys, odd and ragged sizes, page edges, lists
// that are empty or repeat entries, and the same bits whenever and beside whatever a row is computed.
#include <gtest/gtest.h>

#include "backend/cuda/attention_world_test.h"
#include "backend/cuda/sm90/attention_split.h"
#include "backend/cuda/sm90/attention_tiles.h"

namespace kvasir::cuda {
namespace {

using namespace attention_test;

constexpr Numerics kAllNumerics[] = {Numerics::kExact, Numerics::kNative, Numerics::kFast};

// Relative L2. exact: f32 results of f64 sums. native: the same roundings as the reference, of which a few
// fall the other way. fast: bf16 queries and weights (2^-9 each), f32 sums; gpu-kernels.md section 6. The
// rows are worst cases over heads; over all rows together the errors are about half.
double bound(Numerics n) { return n == Numerics::kExact ? 1e-6 : n == Numerics::kNative ? 2e-4 : 3e-3; }

std::string name(const WorldShape& s, Numerics n) {
  std::string text = fmt::format("{} choice {} heads {} dim {}", numerics_name(n), static_cast<int>(s.choice),
                                 s.heads, s.dim);
  for (auto [start, tokens] : s.sequences) text += fmt::format(" {}+{}", start, tokens);
  return text;
}

// Largest relative L2 error of a row of one head, over three heads.
double worst_error(World& w, Numerics numerics, const std::vector<float>& got) {
  double worst = 0;
  for (int head : {0, w.s.heads / 2 - (w.s.heads > 1), w.s.heads - 1}) {
    std::vector<float> want = w.expected(numerics, head);
    for (int64_t r = 0; r < w.rows; ++r) {
      double difference = 0, size = 0;
      for (int e = 0; e < w.s.dim; ++e) {
        double x = want[static_cast<size_t>(r * w.s.dim + e)],
               y = got[static_cast<size_t>((r * w.s.heads + head) * w.s.dim + e)];
        difference += (x - y) * (x - y), size += x * x;
      }
      double error = std::sqrt(difference / size);
      if (!(error <= worst)) worst = error;  // NaN stays
      if (std::isnan(error)) return error;
    }
  }
  return worst;
}

std::vector<float> run(TestContext& c, World& w) {
  w.poison();
  attend(*c.context, w.device_args());
  std::vector<float> out = w.result();
  must(cudaGetLastError());
  return out;
}

void expect_right(const WorldShape& shape, Numerics numerics, uint32_t seed) {
  TestContext c(numerics);
  World w(shape, numerics, seed);
  std::vector<float> got = run(c, w);
  double error = worst_error(w, numerics, got);
  std::printf("  %-64s %.2e\n", name(shape, numerics).c_str(), error);
  EXPECT_LE(error, bound(numerics)) << name(shape, numerics);
  EXPECT_FALSE(std::isnan(error)) << name(shape, numerics);
  std::vector<float> again = run(c, w);
  EXPECT_EQ(0, std::memcmp(got.data(), again.data(), got.size() * 4))
      << "other bits in a second run: " << name(shape, numerics);
}

constexpr EntryChoice kChoices[] = {EntryChoice::kNone, EntryChoice::kSelected, EntryChoice::kAll};

TEST(CudaAttend, AgreesWithTheReferenceAtSmallOddShapes) {
  for (Numerics numerics : kAllNumerics) {
    expect_right({96, 32, 3, 5, 3, EntryChoice::kNone, 4, 3, 8, {{0, 3}, {131, 2}}}, numerics, 1);
    expect_right({128, 64, 8, 32, 0, EntryChoice::kSelected, 4, 32, 150, {{0, 9}, {600, 1}, {255, 3}}},
                 numerics, 2);
    expect_right({96, 32, 9, 33, 2, EntryChoice::kAll, 4, 7, 8, {{0, 1}, {29, 70}}}, numerics, 3);
    expect_right({80, 16, 1, 1, 2, EntryChoice::kAll, 3, 2, 8, {{0, 9}, {100, 1}}}, numerics, 4);
    expect_right({512, 64, 2, 128, 4, EntryChoice::kSelected, 4, 32, 512, {{700, 1}}}, numerics, 5);
  }
}

TEST(CudaAttend, AgreesWithTheReferenceAtEveryLengthAroundATile) {
  for (EntryChoice choice : kChoices) {
    int ratio = choice == EntryChoice::kAll ? 128 : 4, per_page = 128 / ratio;
    WorldShape s{512, 64, 64, 128, 4, choice, ratio, per_page, 512, {}};
    for (int64_t length : {1, 2, 15, 16, 63, 64, 65, 127, 128, 129, 131, 255, 257, 383, 512, 1000, 2051})
      s.sequences.push_back({length - 1, 1});
    expect_right(s, Numerics::kFast, 6);
    s.sequences.resize(4);
    expect_right(s, Numerics::kFast, 7);
  }
}

TEST(CudaAttend, AgreesWithTheReferenceAtRealShapes) {
  for (auto [heads, topk] : {std::pair{64, 512}, {128, 1024}}) {
    for (int64_t start : {4200, 8191}) {
      expect_right({512, 64, heads, 128, 4, EntryChoice::kSelected, 4, 32, topk, {{start, 1}}},
                   Numerics::kFast, 8);
      expect_right(
          {512, 64, heads, 128, 4, EntryChoice::kSelected, 4, 32, topk, {{start, 3}, {5, 2}, {900, 4}}},
          Numerics::kFast, 9);
    }
    expect_right({512, 64, heads, 128, 4, EntryChoice::kAll, 128, 1, topk, {{131071, 1}}}, Numerics::kFast,
                 10);
    expect_right(
        {512, 64, heads, 128, 4, EntryChoice::kAll, 128, 1, topk, {{131071, 2}, {255, 1}, {40000, 1}}},
        Numerics::kFast, 11);
  }
}

TEST(CudaAttend, AgreesWithTheReferenceOverManyRows) {
  for (EntryChoice choice : kChoices) {
    int ratio = choice == EntryChoice::kAll ? 128 : 4, per_page = 128 / ratio;
    expect_right(
        {512, 64, 64, 128, 4, choice, ratio, per_page, 512, {{0, 70}, {3000, 90}, {777, 1}, {129, 13}}},
        Numerics::kFast, 12);
    WorldShape s{512, 64, 64, 128, 4, choice, ratio, per_page, 512, {}};
    for (int i = 0; i < 40; ++i) s.sequences.push_back({61 * i, 1 + i % 2});
    expect_right(s, Numerics::kFast, 13);
  }
}

// Every kernel and split that some number of rows chooses, on the same rows.
TEST(CudaAttend, AgreesWithTheReferenceInEveryKernel) {
  for (EntryChoice choice : kChoices) {
    int ratio = choice == EntryChoice::kAll ? 128 : 4, per_page = 128 / ratio;
    World w({512,
             64,
             64,
             128,
             4,
             choice,
             ratio,
             per_page,
             512,
             {{5000, 1}, {17, 1}, {300, 3}, {150000, 1}, {0, 2}}},
            Numerics::kFast, 19);
    TestContext c(Numerics::kFast);
    auto check = [&](const std::string& kernel, auto&& call) {
      std::vector<float> first;
      for (int i = 0; i < 2; ++i) {
        w.poison();
        call();
        std::vector<float> got = w.result();
        must(cudaGetLastError());
        double error = worst_error(w, Numerics::kFast, got);
        if (i == 0) std::printf("  %-20s choice %d  %.2e\n", kernel.c_str(), static_cast<int>(choice), error);
        EXPECT_LE(error, bound(Numerics::kFast)) << kernel;
        if (i == 0) first = got;
        EXPECT_EQ(0, std::memcmp(first.data(), got.data(), got.size() * 4))
            << "other bits in a second run: " << kernel;
      }
    };
    for (int ranks : {1, 2, 4, 8, 16})
      check(fmt::format("tiles {}", ranks),
            [&] { sm90::attend_tiles(*c.context, w.device_args(), nullptr, ranks); });
    for (int ranks : {4, 8}) {
      check(fmt::format("split {}", ranks),
            [&] { sm90::attend_split(*c.context, w.device_args(), nullptr, false, ranks); });
      check(fmt::format("wide split {}", ranks),
            [&] { sm90::attend_split(*c.context, w.device_args(), nullptr, true, ranks); });
    }
  }
}

TEST(CudaAttend, GivesARowTheSameBitsAloneAndInABatchOfOneKernel) {
  for (EntryChoice choice : kChoices) {
    int ratio = choice == EntryChoice::kAll ? 128 : 4, per_page = 128 / ratio;
    WorldShape s{512,    64,    64,       128, 4,
                 choice, ratio, per_page, 512, {{5000, 1}, {17, 1}, {300, 3}, {2047, 1}, {9000, 2}}};
    for (bool split : {false, true}) {
      auto call = [&](TestContext& c, const AttendArgs& a) {
        split ? sm90::attend_split(*c.context, a, nullptr, false, 8)
              : sm90::attend_tiles(*c.context, a, nullptr, 8);
      };
      World w(s, Numerics::kFast, 14);
      TestContext c(Numerics::kFast);
      w.poison();
      call(c, w.device_args());
      std::vector<float> all = w.result();
      for (size_t i : {0, 1, 3}) {  // the sequences of one row
        AttendArgs a = w.device_args();
        int64_t row = w.spans[i].first_row;
        a.q = a.q.rows(row, 1), a.out = a.out.rows(row, 1);
        if (choice == EntryChoice::kSelected) a.selected = a.selected.rows(row, 1);
        a.rows = {a.rows.data + row * w.format.data_bytes, a.rows.scale + row * w.format.scale_bytes};
        CacheSequence alone{{0, 1, w.spans[i].start},
                            w.d_state + static_cast<int64_t>(i) * w.state_bytes,
                            w.d_table + w.first_page[i],
                            nullptr};
        int32_t zero = 0;
        CacheSequence saved = {};
        must(cudaMemcpy(&saved, w.d_sequences, sizeof(alone), cudaMemcpyDeviceToHost));
        must(cudaMemcpy(w.d_sequences, &alone, sizeof(alone), cudaMemcpyHostToDevice));
        must(cudaMemcpy(w.d_row_sequence, &zero, 4, cudaMemcpyHostToDevice));
        a.batch.sequences = {w.d_sequences, {1}};
        a.batch.row_sequence = {w.d_row_sequence, {1}};
        a.batch.max_tokens = 1;
        w.poison();
        call(c, a);
        std::vector<float> got = w.result();
        size_t at = static_cast<size_t>(row * s.heads * s.dim), n = static_cast<size_t>(s.heads * s.dim);
        EXPECT_EQ(0, std::memcmp(&got[at], &all[at], n * 4)) << name(s, Numerics::kFast) << " sequence " << i;
        w.upload();
      }
    }
  }
}

// Raw queries in, un-rotated sums out, against head_norm_rope, attend and the inverse rope of the reference.
TEST(CudaAttend, NormsAndRotatesHeadsOnBothSidesAsTheReferenceDoes) {
  for (int64_t start : {300, 6000}) {
    World w(
        {512, 64, 64, 128, 4, EntryChoice::kSelected, 4, 32, 512, {{start, start == 300 ? 2 : 9}, {40, 1}}},
        Numerics::kFast, 18);
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    std::vector<float> table(static_cast<size_t>(w.rows) * 64);
    for (size_t i = 0; i < table.size(); i += 2) {
      float angle = 10 * normal(random);
      table[i] = std::cos(angle), table[i + 1] = std::sin(angle);
    }
    DeviceCopy d_table(table);
    TestContext c(Numerics::kFast);
    w.poison();
    attend_heads(*c.context, {w.device_args(), {d_table.data, {w.rows, 32, 2}}, 1e-6f});
    std::vector<float> got = w.result();
    ReferenceOps ops(Numerics::kExact);
    View<const float, 3> turns(table.data(), {w.rows, 32, 2});
    ops.head_norm_rope({{w.q.data(), {w.rows, 64, 512}}, turns, 1e-6f});
    for (int head : {0, 31, 63}) {
      std::vector<float> want = w.expected(Numerics::kFast, head);
      ops.rope({{want.data(), {w.rows, 1, 512}}, turns, true});
      double difference = 0, size = 0;
      for (int64_t r = 0; r < w.rows; ++r) {
        for (int64_t e = 0; e < 512; ++e) {
          double x = want[static_cast<size_t>(r * 512 + e)],
                 y = got[static_cast<size_t>((r * 64 + head) * 512 + e)];
          difference += (x - y) * (x - y), size += x * x;
        }
      }
      EXPECT_LE(std::sqrt(difference / size), bound(Numerics::kFast)) << "head " << head;
    }
  }
}

// One product by a power of two is not enough for scales above 2^7.
TEST(CudaAttend, TakesRowsOfAnySize) {
  for (int64_t extra : {0, 20}) {
    WorldShape s{512, 64, 64, 128, 4, EntryChoice::kSelected, 4, 32, 512, {{900, 1}, {70, 1}}};
    for (int64_t i = 0; i < extra; ++i) s.sequences.push_back({10 * i, 1});
    World w(s, Numerics::kFast, 20);
    auto enlarge = [](std::vector<std::byte>& scales, size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i)
        if (i % 8 < 7 && scales[i] != std::byte{0xff} && i / 8 % 3 == 0)
          scales[i] = static_cast<std::byte>(static_cast<int>(scales[i]) + 22);
    };
    enlarge(w.rows_scale, 0, static_cast<size_t>(w.rows) * 8);
    for (float& x : w.q) x *= 0x1p-24f;
    w.upload();
    TestContext c(Numerics::kFast);
    EXPECT_LE(worst_error(w, Numerics::kFast, run(c, w)), bound(Numerics::kFast)) << w.rows << " rows";
  }
}

TEST(CudaAttend, CountsASinkOnceAndTakesOneThatIsMinusInfinity) {
  for (float sink : {30.f, -INFINITY}) {
    for (EntryChoice choice : kChoices) {
      int ratio = choice == EntryChoice::kAll ? 128 : 4, per_page = 128 / ratio;
      World w({512, 64, 64, 128, 4, choice, ratio, per_page, 512, {{5000, 1}, {0, 1}}}, Numerics::kFast, 15);
      for (float& x : w.sink) x = sink;
      w.upload();
      TestContext c(Numerics::kFast);
      EXPECT_LE(worst_error(w, Numerics::kFast, run(c, w)), bound(Numerics::kFast)) << sink;
    }
  }
}

TEST(CudaAttend, LaunchesNothingForNoRows) {
  World w({512, 64, 64, 128, 4, EntryChoice::kNone, 4, 32, 512, {{10, 0}}}, Numerics::kFast, 16);
  TestContext c(Numerics::kFast);
  attend(*c.context, w.device_args());
  commit_window(*c.context, {w.format, {w.d_rows_data, w.d_rows_scale}, w.device_args().batch, w.place});
  must(cudaDeviceSynchronize());
}

TEST(CudaWindow, StoresRotatedRowsAsTheReferenceDoes) {
  for (Numerics numerics : kAllNumerics) {
    KvRowFormat f = KvRowFormat::entry(numerics, 512, 64);
    constexpr int64_t kRows = 37;
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    std::vector<float> kv(kRows * 512), table(kRows * 64);
    for (int64_t t = 0; t < kRows; ++t)
      for (int64_t e = 0; e < 512; ++e)
        kv[t * 512 + e] = std::ldexp(normal(random), static_cast<int>(t) - 20);
    for (size_t i = 0; i < table.size(); i += 2) {
      float angle = 10 * normal(random);
      table[i] = std::cos(angle), table[i + 1] = std::sin(angle);
    }
    std::vector<std::byte> data(kRows * f.data_bytes), scale(kRows * f.scale_bytes + 8);
    ReferenceOps(numerics == Numerics::kExact ? Numerics::kExact : Numerics::kNative)
        .store_window(
            {{kv.data(), {kRows, 512}}, {table.data(), {kRows, 32, 2}}, f, {data.data(), scale.data()}});
    TestContext c(numerics);
    DeviceCopy d_kv(kv), d_table(table);
    DeviceCopy d_data(std::vector(data.size(), std::byte{0xff})),
        d_scale(std::vector(scale.size(), std::byte{0xff}));
    store_window(*c.context,
                 {{d_kv.data, {kRows, 512}}, {d_table.data, {kRows, 32, 2}}, f, {d_data.data, d_scale.data}});
    std::vector<std::byte> got = d_data.fetch(), got_scale = d_scale.fetch();
    EXPECT_EQ(0, std::memcmp(got.data(), data.data(), got.size())) << numerics_name(numerics);
    EXPECT_EQ(0, std::memcmp(got_scale.data(), scale.data(), static_cast<size_t>(kRows * f.scale_bytes)))
        << numerics_name(numerics);
  }
}

TEST(CudaWindow, CommitsTheLastRowsOfEverySequenceToItsRing) {
  for (Numerics numerics : {Numerics::kExact, Numerics::kFast}) {
    World w({128, 64, 1, 5, 2, EntryChoice::kNone, 4, 32, 8, {{3, 10}, {0, 2}, {100, 1}, {50, 0}}}, numerics,
            17);
    TestContext c(numerics);
    AttendArgs a = w.device_args();
    commit_window(*c.context, {w.format, {w.d_rows_data, w.d_rows_scale}, a.batch, w.place});
    std::vector<CacheSequence> sequences;
    for (size_t i = 0; i < w.spans.size(); ++i)
      sequences.push_back(
          {w.spans[i], w.state.data() + static_cast<int64_t>(i) * w.state_bytes, nullptr, nullptr});
    ReferenceOps(Numerics::kExact)
        .commit_window({w.format,
                        {w.rows_data.data(), w.rows_scale.data()},
                        {{sequences.data(), {4}}, {}, 10, 101},
                        w.place});
    must(cudaDeviceSynchronize());
    std::vector<std::byte> got(w.state.size());
    must(cudaMemcpy(got.data(), w.d_state, got.size(), cudaMemcpyDeviceToHost));
    EXPECT_EQ(0, std::memcmp(got.data(), w.state.data(), got.size())) << numerics_name(numerics);
  }
}

}  // namespace
}  // namespace kvasir::cuda
