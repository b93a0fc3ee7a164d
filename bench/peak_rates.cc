// 24 independent sums, as a good product loop has them, spelled in assembly since a compiler would notice
// that they are equal; the best of several short passes.
#include "bench/peak_rates.h"

#include <algorithm>

#include "backend/cpu/isa.h"
#include "cli/ceilings.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kvasir::bench {
namespace {

constexpr int64_t kRounds = 2'000'000;
constexpr int kSums = 24, kPasses = 8;

#if defined(__x86_64__)
[[gnu::target("avx512f,avx512bf16")]] float bf16_rounds(int64_t rounds) {
  __m512 sums[kSums];
#pragma GCC unroll 24
  for (auto& s : sums) s = _mm512_setzero_ps();
  __m512i a = _mm512_set1_epi32(0x3f803f80), b = _mm512_set1_epi32(0x30003000);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 24
    for (auto& s : sums) __asm__ volatile("vdpbf16ps %2, %1, %0" : "+v"(s) : "v"(a), "v"(b));
  }
#pragma GCC unroll 24
  for (int i = 1; i < kSums; ++i) sums[0] += sums[i];
  return ((float*)&sums[0])[0];
}

[[gnu::target("avx512f,avx512vnni")]] int int8_rounds(int64_t rounds) {
  __m512i sums[kSums];
#pragma GCC unroll 24
  for (auto& s : sums) s = _mm512_setzero_si512();
  __m512i a = _mm512_set1_epi32(0x01010101), b = a;
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 24
    for (auto& s : sums) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(s) : "v"(a), "v"(b));
  }
#pragma GCC unroll 24
  for (int i = 1; i < kSums; ++i) sums[0] = _mm512_add_epi32(sums[0], sums[i]);
  return _mm512_cvtsi512_si32(sums[0]);
}
#endif

template <class Fn>
double best_rate(ThreadPool& pool, double operations, Fn fn) {
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    double start = now();
    pool.run(pool.size(), [&](int64_t, int) { fn(); });
    best = std::max(best, operations * pool.size() / (now() - start));
  }
  return best;
}

}  // namespace

double peak_bf16(ThreadPool& pool) {
#if defined(__x86_64__)
  if (cpu::isa_available(cpu::Isa::kAvx512)) {
    return best_rate(pool, 2.0 * 32 * kSums * kRounds, [] {
      volatile float sink = bf16_rounds(kRounds);
      (void)sink;
    });
  }
#endif
  (void)pool;
  return 0;
}

double peak_int8(ThreadPool& pool) {
#if defined(__x86_64__)
  if (cpu::isa_available(cpu::Isa::kAvx512)) {
    return best_rate(pool, 2.0 * 64 * kSums * kRounds, [] {
      volatile int sink = int8_rounds(kRounds);
      (void)sink;
    });
  }
#endif
  (void)pool;
  return 0;
}

}  // namespace kvasir::bench
