// Timing of plain reads and of oneDNN's matrix product; see ceilings.h.
#include "cli/ceilings.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <thread>
#include <vector>
#ifdef KVASIR_ONEDNN
#include <dnnl.hpp>

extern "C" void omp_set_num_threads(int);  // of libgomp, which oneDNN runs on
#endif

namespace kvasir::bench {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double best_seconds(double budget, const std::function<void()>& pass) {
  pass();
  double best = 1e9, begin = now();
  for (int i = 0; i < 3 || now() - begin < budget; ++i) {
    std::this_thread::sleep_for(std::chrono::duration<double>(std::min(0.1, 4 * best)));
    double start = now();
    pass();
    best = std::min(best, now() - start);
  }
  return best;
}

namespace {

uint64_t read_span(const uint8_t* p, int64_t bytes) {
  constexpr int64_t kAhead = 8192, kStep = 256;
  uint64_t sums[kStep / 8] = {};
  for (int64_t i = 0; i + kStep <= bytes; i += kStep) {
    for (int64_t line = 0; line < kStep; line += 64) __builtin_prefetch(p + i + kAhead + line, 0, 3);
    uint64_t words[kStep / 8];
    std::memcpy(words, p + i, kStep);
    for (int64_t j = 0; j < kStep / 8; ++j) sums[j] ^= words[j];
  }
  uint64_t all = 0;
  for (uint64_t s : sums) all ^= s;
  return all;
}

}  // namespace

double read_bandwidth(ThreadPool& pool, const uint8_t* data, int64_t bytes, double budget) {
  // Passes over 256 MB, another part of the memory each time: short enough that on a shared machine some run
  // undisturbed, larger than any cache.
  constexpr int64_t kPass = int64_t{256} << 20;
  std::vector<uint64_t> sums(pool.size());  // one a task: what was read must be used, or nothing would be
  const int64_t share = kPass / pool.size(), parts = bytes / kPass;
  int64_t pass = 0;
  double seconds = best_seconds(budget, [&] {
    const uint8_t* part = data + pass++ % parts * kPass;
    pool.run(pool.size(), [&](int64_t task, int) { sums[task] ^= read_span(part + task * share, share); });
  });
  volatile uint64_t sink = std::accumulate(sums.begin(), sums.end(), uint64_t{0});
  (void)sink;
  return static_cast<double>(share * pool.size()) / seconds;
}

#ifdef KVASIR_ONEDNN

namespace {
constexpr int64_t kM = 4096, kN = 4096, kK = 512;
}

struct OneDnnProduct::Plan {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  dnnl::matmul::primitive_desc description;
  dnnl::matmul product;
  dnnl::memory a, b, c;
};

OneDnnProduct::OneDnnProduct(int threads) {
  omp_set_num_threads(threads);  // the environment variable is read before main
  using dnnl::memory;
  try {
    plan_ = std::make_unique<Plan>();
    auto any = memory::format_tag::any;
    memory::desc a({kM, kK}, memory::data_type::bf16, any), b({kK, kN}, memory::data_type::bf16, any);
    memory::desc c({kM, kN}, memory::data_type::f32, any);
    plan_->description = dnnl::matmul::primitive_desc(dnnl::matmul::desc(a, b, c), plan_->engine);
    plan_->product = dnnl::matmul(plan_->description);
    plan_->a = memory(plan_->description.src_desc(), plan_->engine);
    plan_->b = memory(plan_->description.weights_desc(), plan_->engine);
    plan_->c = memory(plan_->description.dst_desc(), plan_->engine);
    std::memset(plan_->a.get_data_handle(), 0, plan_->description.src_desc().get_size());
    std::memset(plan_->b.get_data_handle(), 0, plan_->description.weights_desc().get_size());
    source_ = std::string("oneDNN bf16 4096x4096x512, ") + plan_->description.impl_info_str();
  } catch (const dnnl::error& e) {
    plan_.reset();
    source_ = std::string("not measured: oneDNN refused: ") + e.what();
  }
}

double OneDnnProduct::flops(double budget) {
  if (!plan_) return 0;
  double seconds = best_seconds(budget, [&] {
    plan_->product.execute(
        plan_->stream, {{DNNL_ARG_SRC, plan_->a}, {DNNL_ARG_WEIGHTS, plan_->b}, {DNNL_ARG_DST, plan_->c}});
    plan_->stream.wait();
  });
  return 2.0 * kM * kN * kK / seconds;
}

#else

struct OneDnnProduct::Plan {};
OneDnnProduct::OneDnnProduct(int) : source_("not measured: built without oneDNN (libdnnl-dev)") {}
double OneDnnProduct::flops(double) { return 0; }

#endif

OneDnnProduct::~OneDnnProduct() = default;

}  // namespace kvasir::bench
