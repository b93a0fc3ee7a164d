// What stands around the matrices in the CPU backend, at V4-Flash sizes and at a small model's: attention, the
// index scan and the hyper-connections, as shares of what the machine can do, measured in the same run.
//
// Attention counts 4 H D operations a key (q.k and p.v) against the bf16 peak of the registers; the scan 2 Hi Di
// a key against the int8 peak; hyper-connections and one-token steps count bytes against the read bandwidth.
// Times are those of the best pass.
//
//   attention_bench [--threads N] [--isa NAME] [--numerics NAME] [--only attend|index|hc] [--json FILE]
#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/attention.h"
#include "backend/cpu/hyper_connection.h"
#include "backend/cpu/indexer.h"
#include "cli/ceilings.h"
#include "bench/peak_rates.h"
#include "tensor/buffer.h"

namespace kvasir::bench {
namespace {

struct Options {
  int threads = 0;
  cpu::Isa isa = cpu::detect_isa();
  Numerics numerics = Numerics::kFast;
  std::string only, json;
};

struct Measured {
  std::string part, what, unit;
  int64_t tokens, context;
  double seconds, rate, share;
};

struct Bench {
  cpu::CpuContext context;
  double bandwidth = 0, bf16 = 0, int8 = 0;
  std::vector<Measured> results{};

  // Of as many passes as fit in half a second, at least three.
  double best_seconds(const std::function<void()>& pass) {
    double best = 1e9, began = now();
    for (int n = 0; n < 3 || now() - began < 0.5; ++n) {
      double start = now();
      pass();
      best = std::min(best, now() - start);
    }
    return best;
  }
  void report(const char* part, std::string what, int64_t tokens, int64_t tokens_before, const char* unit, double work, double peak,
              double seconds) {
    results.push_back({part, std::move(what), unit, tokens, tokens_before, seconds, work / seconds, peak > 0 ? work / seconds / peak : 0});
    const Measured& m = results.back();
    fmt::print("{:7} {:34} T {:4}  context {:8}  {:10.1f} us  {:8.1f} {:6}  {:5.1f} %\n", m.part, m.what, m.tokens, m.context,
               m.seconds * 1e6, m.rate * 1e-9, m.unit, 100 * m.share);
    std::fflush(stdout);
  }
};

std::vector<float> normal_values(int64_t n, float sigma) {
  std::vector<float> v(static_cast<size_t>(std::min<int64_t>(n, 1 << 16)));
  std::mt19937 rng(1);
  std::normal_distribution<float> normal(0.f, sigma);
  for (float& x : v) x = normal(rng);
  std::vector<float> all(static_cast<size_t>(n));
  for (size_t i = 0; i < all.size(); ++i) all[i] = v[i % v.size()];
  return all;
}

// Pages that hold `count` rows of one section, encoded from random values (1,024 different ones).
struct Pages {
  Pages(const KvRowFormat& f, int64_t count, int rows_per_page) {
    section.rows_per_page = rows_per_page;
    section.scale_offset = int64_t{rows_per_page} * f.data_bytes;
    int64_t bytes = (section.scale_offset + int64_t{rows_per_page} * f.scale_bytes + 63) / 64 * 64;
    int64_t n = (count + rows_per_page - 1) / rows_per_page;
    memory = *Buffer::make(n * bytes, "pages");
    auto values = normal_values(int64_t{f.dim} * 1024, 1.f);
    std::vector<std::byte> data(static_cast<size_t>(f.data_bytes) * 1024), scale(static_cast<size_t>(f.scale_bytes) * 1024 + 1);
    KvRows encoded{data.data(), scale.data()};
    for (int64_t r = 0; r < 1024; ++r) encode_row(f, &values[static_cast<size_t>(r * f.dim)], encoded.row_data(f, r), encoded.row_scale(f, r));
    for (int64_t p = 0; p < n; ++p) {
      pages.push_back(memory.data() + p * bytes);
      KvRows rows = section.in_page(pages.back());
      for (int64_t r = 0; r < rows_per_page; ++r) {
        int64_t source = (p * rows_per_page + r) * 7 % 1024;
        std::memcpy(rows.row_data(f, r), encoded.row_data(f, source), static_cast<size_t>(f.data_bytes));
        std::memcpy(rows.row_scale(f, r), encoded.row_scale(f, source), static_cast<size_t>(f.scale_bytes));
      }
    }
  }
  PageSection section;
  Buffer memory;
  std::vector<std::byte*> pages;
};

void attend_case(Bench& b, const char* name, int heads, int dim, int rope, EntryChoice choice, int ratio, int64_t topk, int64_t tokens,
                 int64_t start) {
  KvRowFormat f = KvRowFormat::entry(b.context.numerics, dim, rope);
  int64_t window = 128, entries = choice == EntryChoice::kNone ? 0 : (start + tokens) / ratio;
  Pages pages(f, std::max<int64_t>(entries, 1), ratio == 128 ? 1 : 32);
  Pages own(f, 256 + tokens, static_cast<int>(256 + tokens));
  KvRows rows = own.section.in_page(own.pages[0]);
  auto q = normal_values(tokens * heads * dim, 1.f), out = q;
  std::vector<float> sink(static_cast<size_t>(heads), 0.5f);
  std::vector<int32_t> selected(static_cast<size_t>(tokens * std::max<int64_t>(topk, 1)), -1);
  std::mt19937 rng(3);
  int64_t keys = 0;
  for (int64_t i = 0; i < tokens; ++i) {
    int64_t visible = choice == EntryChoice::kNone ? 0 : (start + i + 1) / ratio, n = std::min(visible, topk);
    if (choice == EntryChoice::kSelected) {
      std::vector<int32_t> all;
      for (int64_t k = 0; k < n; ++k) all.push_back(static_cast<int32_t>(k * visible / n + static_cast<int64_t>(rng()) % std::max<int64_t>(1, visible / n)));
      std::copy(all.begin(), all.end(), selected.begin() + i * topk);
      visible = n;
    }
    keys += std::min(window, start + i + 1) + visible;
  }
  AttendSequence a;
  a.q = View<const float, 3>(q.data(), {tokens, heads, dim});
  a.sink = View<const float, 1>(sink.data(), {heads});
  a.start = start;
  a.format = f;
  a.ring = rows;
  a.ring_capacity = 160;
  a.rows = {rows.row_data(f, 200), rows.row_scale(f, 200)};
  a.choice = choice;
  a.ratio = ratio;
  if (choice == EntryChoice::kSelected) a.selected = View<const int32_t, 2>(selected.data(), {tokens, topk});
  a.pages = pages.pages.data();
  a.entries = pages.section;
  a.out = View<float, 3>(out.data(), {tokens, heads, dim});
  double seconds = b.best_seconds([&] { cpu::attend(b.context, a); });
  b.report("attend", name, tokens, start, "GFLOP/s", 4.0 * heads * dim * static_cast<double>(keys), b.bf16, seconds);
}

void index_case(Bench& b, const char* name, int heads, int dim, int64_t topk, int64_t tokens, int64_t start) {
  KvRowFormat f = KvRowFormat::index_key(b.context.numerics, dim);
  Pages pages(f, (start + tokens) / 4, 32);
  auto q = normal_values(tokens * heads * dim, 1.f), weight = normal_values(tokens * heads, 0.1f);
  std::vector<int32_t> selected(static_cast<size_t>(tokens * topk));
  IndexSelectSequence a;
  a.q = View<const float, 3>(q.data(), {tokens, heads, dim});
  a.weight = View<const float, 2>(weight.data(), {tokens, heads});
  a.start = start;
  a.format = f;
  a.pages = pages.pages.data();
  a.keys = pages.section;
  a.selected = View<int32_t, 2>(selected.data(), {tokens, topk});
  double work = 0;
  for (int64_t i = 0; i < tokens; ++i) work += 2.0 * heads * dim * static_cast<double>((start + i + 1) / 4);
  double seconds = b.best_seconds([&] { cpu::index_select(b.context, a); });
  b.report("index", name, tokens, start, "GOP/s", work, b.int8, seconds);
}

void hyper_connection_case(Bench& b, int64_t dim, int64_t tokens) {
  constexpr int64_t kHc = 4, kColumns = 24;
  int copies = static_cast<int>(std::max<int64_t>(1, (int64_t{64} << 20) / (kColumns * kHc * dim * 4)));  // fn comes from memory
  auto fn = normal_values(copies * kColumns * kHc * dim, 0.01f), streams = normal_values(tokens * kHc * dim, 1.f);
  auto y = normal_values(tokens * dim, 1.f), x = y;
  std::vector<float> base(kColumns, 0.1f), scale(3, 1.f), post(static_cast<size_t>(tokens * kHc)), comb(static_cast<size_t>(tokens * kHc * kHc));
  HcPreArgs pre;
  pre.w.base = View<const float, 1>(base.data(), {kColumns});
  pre.w.scale = View<const float, 1>(scale.data(), {3});
  pre.streams = View<const float, 3>(streams.data(), {tokens, kHc, dim});
  pre.x = View<float, 2>(x.data(), {tokens, dim});
  pre.post = View<float, 2>(post.data(), {tokens, kHc});
  pre.comb = View<float, 3>(comb.data(), {tokens, kHc, kHc});
  int turn = 0;
  double seconds = b.best_seconds([&] {
    pre.w.fn = View<const float, 2>(&fn[static_cast<size_t>(turn++ % copies * kColumns * kHc * dim)], {kColumns, kHc * dim});
    cpu::hc_pre(b.context, pre);
  });
  double stream_bytes = 4.0 * static_cast<double>(tokens * kHc * dim), row_bytes = 4.0 * static_cast<double>(tokens * dim);
  b.report("hc", "hc_pre", tokens, 0, "GB/s", stream_bytes + row_bytes + 4.0 * kColumns * kHc * static_cast<double>(dim), b.bandwidth, seconds);
  HcPostArgs after{View<const float, 2>(y.data(), {tokens, dim}), pre.post, pre.comb, View<float, 3>(streams.data(), {tokens, kHc, dim})};
  for (float& c : comb) c = 0.25f;
  seconds = b.best_seconds([&] { cpu::hc_post(b.context, after); });
  b.report("hc", "hc_post", tokens, 0, "GB/s", 2 * stream_bytes + row_bytes, b.bandwidth, seconds);
}

void run(Bench& b, const std::string& only) {
  using enum EntryChoice;
  if (only.empty() || only == "attend") {
    for (int64_t start : {8191, 131071}) {
      attend_case(b, "flash SWA decode", 64, 512, 64, kNone, 0, 0, 1, start);
      attend_case(b, "flash CSA decode", 64, 512, 64, kSelected, 4, 512, 1, start);
      attend_case(b, "flash HCA decode", 64, 512, 64, kAll, 128, 0, 1, start);
      attend_case(b, "flash CSA prefill", 64, 512, 64, kSelected, 4, 512, 128, start - 127);
      attend_case(b, "flash HCA prefill", 64, 512, 64, kAll, 128, 0, 128, start - 127);
    }
    attend_case(b, "small 8x96 CSA prefill", 8, 96, 32, kSelected, 4, 512, 512, 131071 - 511);
    attend_case(b, "small 8x96 HCA prefill", 8, 96, 32, kAll, 128, 0, 512, 1048575 - 511);
    attend_case(b, "small 8x96 HCA decode", 8, 96, 32, kAll, 128, 0, 1, 1048575);
  }
  if (only.empty() || only == "index") {
    for (int64_t start : {8191, 131071}) {
      index_case(b, "flash 64x128 decode", 64, 128, 512, 1, start);
      index_case(b, "flash 64x128 prefill", 64, 128, 512, 128, start - 127);
    }
    index_case(b, "flash 64x128 decode", 64, 128, 512, 1, 1048575);
    index_case(b, "small 4x64 prefill", 4, 64, 512, 512, 131071 - 511);
    index_case(b, "small 4x64 prefill", 4, 64, 512, 512, 1048575 - 511);
    index_case(b, "small 4x64 decode", 4, 64, 512, 1, 1048575);
  }
  if (only.empty() || only == "hc")
    for (int64_t tokens : {1, 8, 512}) hyper_connection_case(b, 4096, tokens);
}

bool write_json(const Bench& b, const Options& o, const std::string& command) {
  std::FILE* file = std::fopen(o.json.c_str(), "w");
  if (file == nullptr) return false;
  fmt::print(file, "{{\n  \"command\": \"{}\",\n  \"isa\": \"{}\",\n  \"numerics\": \"{}\",\n  \"threads\": {},\n", command,
             cpu::isa_name(o.isa), numerics_name(o.numerics), b.context.pool.size());
  fmt::print(file, "  \"ceilings\": {{\"read_gb_s\": {:.1f}, \"bf16_gflop_s\": {:.0f}, \"int8_gop_s\": {:.0f}}},\n  \"results\": [\n",
             b.bandwidth * 1e-9, b.bf16 * 1e-9, b.int8 * 1e-9);
  for (size_t i = 0; i < b.results.size(); ++i) {
    const Measured& m = b.results[i];
    fmt::print(file,
               "    {{\"part\": \"{}\", \"what\": \"{}\", \"tokens\": {}, \"context\": {}, \"us\": {:.1f}, \"rate\": {:.1f}, \"unit\": "
               "\"{}\", \"share\": {:.3f}}}{}\n",
               m.part, m.what, m.tokens, m.context, m.seconds * 1e6, m.rate * 1e-9, m.unit, m.share, i + 1 < b.results.size() ? "," : "");
  }
  fmt::print(file, "  ]\n}}\n");
  return std::fclose(file) == 0;
}

bool parse(int argc, char** argv, Options& o) {
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string name = argv[i], value = argv[i + 1];
    if (name == "--threads") o.threads = std::atoi(value.c_str());
    else if (name == "--isa" && cpu::parse_isa(value, o.isa)) continue;
    else if (name == "--numerics" && parse_numerics(value, o.numerics)) continue;
    else if (name == "--only") o.only = value;
    else if (name == "--json") o.json = value;
    else return false;
  }
  return argc % 2 == 1 && cpu::isa_available(o.isa);
}

int bench_main(int argc, char** argv) {
  Options o;
  if (!parse(argc, argv, o)) {
    fmt::print(stderr, "usage: attention_bench [--threads N] [--isa NAME] [--numerics NAME] [--only attend|index|hc] [--json FILE]\n");
    return 2;
  }
  ThreadPool pool(o.threads);
  Bench b{.context = {.pool = pool, .numerics = o.numerics, .isa = o.isa}};
  {
    constexpr int64_t kBytes = int64_t{1} << 30;
    Buffer memory = *Buffer::make(kBytes, "memory to read");
    pool.run(kBytes >> 20, [&](int64_t i, int) { std::memset(memory.data() + (i << 20), 1, 1 << 20); });
    b.bandwidth = read_bandwidth(pool, reinterpret_cast<const uint8_t*>(memory.data()), kBytes, 1.0);
  }
  b.bf16 = peak_bf16(pool);
  b.int8 = peak_int8(pool);
  fmt::print("{} threads, {}, {}: reads {:.1f} GB/s, bf16 {:.0f} GFLOP/s, int8 {:.0f} GOP/s\n", pool.size(), cpu::isa_name(o.isa),
             numerics_name(o.numerics), b.bandwidth * 1e-9, b.bf16 * 1e-9, b.int8 * 1e-9);
  run(b, o.only);
  std::string command = "attention_bench";
  for (int i = 1; i < argc; ++i) command += std::string(" ") + argv[i];
  if (!o.json.empty() && !write_json(b, o, command)) {
    fmt::print(stderr, "cannot write {}\n", o.json);
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace kvasir::bench

int main(int argc, char** argv) { return kvasir::bench::bench_main(argc, argv); }
