// Linear layers and experts of the CPU backend at V4-Flash sizes, as shares of what the machine can do.
//
// Decode: bytes of weights read a second, beside the read bandwidth of all threads. Prefill: floating-point
// operations a second, beside oneDNN's bf16 product. Weights come from a pool of several GB, a different part
// each time, so that nothing is found in a cache. Rates and ceilings are those of the best pass, since on a
// shared machine others take time from most of them, and passes are short for that reason. What such a
// machine gives changes from second to second: the ceiling is measured before and after every figure, and
// the larger of the two is the one that it is a share of.
//
//   linear_bench [--threads N] [--isa NAME] [--only decode|prefill] [--json FILE]
#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/experts.h"
#include "backend/cpu/linear.h"
#include "cli/ceilings.h"

namespace kvasir::bench {
namespace {

constexpr int64_t kPoolBytes = int64_t{3} << 30, kScaleBytes = int64_t{256} << 20;

// Endless supply of weights: codes of normally distributed numbers, plausible scales.
class WeightPool {
 public:
  WeightPool(ThreadPool& threads) {
    data_ = *Buffer::make(kPoolBytes, "weights");
    scale_ = *Buffer::make(kScaleBytes, "scales");
    std::vector<uint8_t> codes(1 << 16), scales(1 << 16);
    std::mt19937 rng(1);
    std::normal_distribution<float> normal(0.f, 100.f);
    for (uint8_t& c : codes) c = float_to_e4m3(normal(rng));
    for (uint8_t& s : scales) s = static_cast<uint8_t>(118 + rng() % 4);
    threads.run(kPoolBytes >> 16,
                [&](int64_t i, int) { std::memcpy(data_.data() + (i << 16), codes.data(), 1 << 16); });
    threads.run(kScaleBytes >> 16,
                [&](int64_t i, int) { std::memcpy(scale_.data() + (i << 16), scales.data(), 1 << 16); });
  }
  WeightMatrix next(WeightFormat format, int64_t rows, int64_t cols) {
    WeightMatrix w;
    w.format = format;
    w.rows = rows;
    w.cols = cols;
    int64_t data_bytes = rows * w.data_row_bytes(), scale_bytes = w.bytes() - data_bytes;
    if (at_ + data_bytes > kPoolBytes) at_ = 0;
    if (scale_at_ + scale_bytes > kScaleBytes) scale_at_ = 0;
    w.data = data_.data() + at_;
    w.scale = reinterpret_cast<const uint8_t*>(scale_.data() + scale_at_);
    at_ += data_bytes;
    scale_at_ += scale_bytes;
    return w;
  }
  const uint8_t* data() const { return reinterpret_cast<const uint8_t*>(data_.data()); }

 private:
  Buffer data_, scale_;
  int64_t at_ = 0, scale_at_ = 0;
};

struct Measured {
  std::string part, what, numerics;
  int64_t tokens;
  double seconds, rate, ceiling;
  double share() const { return ceiling > 0 ? rate / ceiling : 0; }
};

enum Part { kDecode, kPrefill };

struct Bench {
  ThreadPool& threads;
  cpu::Isa isa;
  WeightPool& pool;
  OneDnnProduct& product;
  std::vector<Measured> results;

  double ceiling(Part part) {
    return part == kDecode ? read_bandwidth(threads, pool.data(), int64_t{2} << 30, 0.3) : product.flops(0.4);
  }
  // `pass` makes `calls` calls and returns what they read (decode) or computed (prefill).
  template <class Pass>
  void measure(Part part, std::string what, Numerics numerics, int64_t tokens, int64_t calls, Pass pass) {
    const double before = ceiling(part);
    double amount = 0, seconds = best_seconds(0.8, [&] { amount = pass(); });
    Measured m{part == kDecode ? "decode" : "prefill", std::move(what),
               std::string(numerics_name(numerics)),   tokens,
               seconds / static_cast<double>(calls),   amount / seconds,
               std::max(before, ceiling(part))};
    fmt::print("{:8} {:34} {:7} T={:<5} {:10.3f} ms {:8.1f} of {:7.1f} {} {:5.2f}\n", m.part, m.what,
               m.numerics, tokens, m.seconds * 1e3, m.rate / 1e9, m.ceiling / 1e9,
               part == kDecode ? "GB/s" : "GFLOP/s", m.share());
    std::fflush(stdout);
    results.push_back(std::move(m));
  }
};

struct Shape {
  const char* name;
  WeightFormat format;
  int64_t rows, cols;
  LinearKind kind;
};
constexpr Shape kShapes[] = {
    {"wq_b fp8 [32768,1024]", WeightFormat::kFp8Block128, 32768, 1024, LinearKind::kQuantised},
    {"wo_b fp8 [4096,8192]", WeightFormat::kFp8Block128, 4096, 8192, LinearKind::kQuantised},
    {"wo_a fp8 [8192,4096] bf16 input", WeightFormat::kFp8Block128, 8192, 4096, LinearKind::kBf16},
    {"wkv fp8 [512,4096]", WeightFormat::kFp8Block128, 512, 4096, LinearKind::kQuantised},
    {"compressor bf16 [1024,4096]", WeightFormat::kBf16, 1024, 4096, LinearKind::kFloat},
    {"head bf16 [129280,4096]", WeightFormat::kBf16, 129280, 4096, LinearKind::kFloat},
    {"expert w1 fp4 [2048,4096]", WeightFormat::kFp4Group32, 2048, 4096, LinearKind::kQuantised},
};

std::vector<float> random_rows(int64_t count) {
  std::mt19937 rng(2);
  std::normal_distribution<float> normal(0.f, 1.f);
  std::vector<float> x(static_cast<size_t>(count));
  for (float& v : x) v = round_bf16(normal(rng));
  return x;
}

void bench_linear(Bench& b, Part part, const Shape& s, Numerics numerics, int64_t tokens) {
  cpu::CpuContext context{b.threads, numerics, b.isa};
  std::vector<float> x = random_rows(tokens * s.cols), out(static_cast<size_t>(tokens * s.rows));
  const double bytes = static_cast<double>(b.pool.next(s.format, s.rows, s.cols).bytes());
  const double flops = 2.0 * static_cast<double>(tokens * s.rows * s.cols);
  // Small matrices go by the dozen, so that one pass takes a time that can be measured.
  const auto calls =
      part == kPrefill ? int64_t{1} : std::max<int64_t>(1, static_cast<int64_t>(100e6 / bytes));
  b.measure(part, s.name, numerics, tokens, calls, [&] {
    for (int64_t i = 0; i < calls; ++i)
      cpu::linear(context,
                  {b.pool.next(s.format, s.rows, s.cols), View<const float, 2>(x.data(), {tokens, s.cols}),
                   View<float, 2>(out.data(), {tokens, s.rows}), s.kind});
    return static_cast<double>(calls) * (part == kDecode ? bytes : flops);
  });
}

void bench_experts(Bench& b, Part part, Numerics numerics, int64_t tokens) {
  constexpr int64_t kDim = 4096, kInner = 2048, kExperts = 256, kTop = 6;
  cpu::CpuContext context{b.threads, numerics, b.isa};
  std::vector<float> x = random_rows(tokens * kDim), out(x.size());
  std::vector<int32_t> ids(static_cast<size_t>(tokens * kTop));
  std::vector<float> weights(ids.size(), 0.25f);
  std::vector<ExpertWeights> routed(kExperts);
  auto draw = [&](WeightFormat f) {
    return ExpertWeights{b.pool.next(f, kInner, kDim), b.pool.next(f, kInner, kDim),
                         b.pool.next(f, kDim, kInner)};
  };
  for (ExpertWeights& e : routed) e = draw(WeightFormat::kFp4Group32);
  ExpertsArgs args;
  args.x = View<const float, 2>(x.data(), {tokens, kDim});
  args.routed = {routed.data(), {kExperts}};
  args.shared = draw(WeightFormat::kFp8Block128);
  args.experts = View<const int32_t, 2>(ids.data(), {tokens, kTop});
  args.weights = View<const float, 2>(weights.data(), {tokens, kTop});
  args.out = View<float, 2>(out.data(), {tokens, kDim});
  std::mt19937 rng(3);
  b.measure(part, "experts 6 of 256 fp4 + shared fp8", numerics, tokens, 1, [&] {
    for (int64_t t = 0; t < tokens; ++t) {  // different experts each time: nothing stays in the cache
      for (int64_t s = 0; s < kTop; ++s) {
        auto* mine = ids.data() + t * kTop;
        do mine[s] = static_cast<int32_t>(rng() % kExperts);
        while (std::find(mine, mine + s, mine[s]) != mine + s);
      }
    }
    cpu::experts(context, args);
    if (part == kPrefill) return 2.0 * 3 * kDim * kInner * (kTop + 1) * static_cast<double>(tokens);
    std::vector<int32_t> used = ids;
    std::sort(used.begin(), used.end());
    auto distinct = std::unique(used.begin(), used.end()) - used.begin();
    return static_cast<double>(distinct * 3 * routed[0].w1.bytes() + 3 * args.shared.w1.bytes());
  });
}

void write_json(const Bench& b, const std::string& path, const std::string& command) {
  std::FILE* f = std::fopen(path.c_str(), "w");
  if (f == nullptr) {
    fmt::print(stderr, "linear_bench: cannot write {}: {}\n", path, std::strerror(errno));
    return;
  }
  fmt::print(f, "{{\n  \"command\": \"{}\",\n  \"isa\": \"{}\",\n  \"threads\": {},\n", command,
             cpu::isa_name(b.isa), b.threads.size());
  fmt::print(f, "  \"ceilings\": {{\"decode\": \"read bandwidth of all threads\", \"prefill\": \"{}\"}},\n",
             b.product.source());
  fmt::print(f, "  \"results\": [\n");
  for (size_t i = 0; i < b.results.size(); ++i) {
    const Measured& m = b.results[i];
    fmt::print(f,
               "    {{\"part\": \"{}\", \"what\": \"{}\", \"numerics\": \"{}\", \"tokens\": {}, \"seconds\": "
               "{:.6g}, "
               "\"unit\": \"{}\", \"rate\": {:.4g}, \"ceiling\": {:.4g}, \"share\": {:.3f}}}{}\n",
               m.part, m.what, m.numerics, m.tokens, m.seconds, m.part == "decode" ? "bytes/s" : "flop/s",
               m.rate, m.ceiling, m.share(), i + 1 < b.results.size() ? "," : "");
  }
  fmt::print(f, "  ]\n}}\n");
  std::fclose(f);
}

int main_with(int argc, char** argv) {
  int threads = 0;
  cpu::Isa isa = cpu::detect_isa();
  std::string only, json, command = "linear_bench";
  for (int i = 1; i < argc; ++i) command += std::string(" ") + argv[i];
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string key = argv[i], value = argv[i + 1];
    if (key == "--threads")
      threads = std::stoi(value);
    else if (key == "--isa" && cpu::parse_isa(value, isa) && cpu::isa_available(isa))
      continue;
    else if (key == "--only")
      only = value;
    else if (key == "--json")
      json = value;
    else {
      fmt::print(stderr, "linear_bench: cannot take {} {}\n", key, value);
      return 2;
    }
  }
  ThreadPool pool(threads);
  WeightPool weights(pool);
  OneDnnProduct product(pool.size());
  Bench b{pool, isa, weights, product, {}};
  fmt::print("isa {}, {} threads; decode beside the read bandwidth, prefill beside {}\n", cpu::isa_name(isa),
             pool.size(), product.source());
  if (only != "prefill") {
    for (Numerics numerics : {Numerics::kFast, Numerics::kNative}) {
      for (const Shape& s : kShapes) bench_linear(b, kDecode, s, numerics, 1);
      bench_experts(b, kDecode, numerics, 1);
    }
    for (int64_t tokens : {2, 4, 8}) {
      bench_linear(b, kDecode, kShapes[1], Numerics::kFast, tokens);
      bench_linear(b, kDecode, kShapes[4], Numerics::kFast, tokens);
      bench_experts(b, kDecode, Numerics::kFast, tokens);
    }
    bench_experts(b, kDecode, Numerics::kExact, 1);
  }
  if (only != "decode") {
    for (int64_t tokens : {512, 4096}) {
      for (const Shape& s : kShapes)
        if (s.rows < 100000) bench_linear(b, kPrefill, s, Numerics::kFast, tokens);
      bench_experts(b, kPrefill, Numerics::kFast, tokens);
    }
    bench_linear(b, kPrefill, kShapes[1], Numerics::kFast, 64);
    bench_experts(b, kPrefill, Numerics::kFast, 64);
    for (Numerics numerics : {Numerics::kNative, Numerics::kExact}) {
      bench_linear(b, kPrefill, kShapes[1], numerics, 512);
      bench_experts(b, kPrefill, numerics, 512);
    }
  }
  if (!json.empty()) write_json(b, json, command);
  return 0;
}

}  // namespace
}  // namespace kvasir::bench

int main(int argc, char** argv) { return kvasir::bench::main_with(argc, argv); }
