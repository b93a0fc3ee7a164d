// Decoding allocates nothing: every operator new during warm decode steps is counted.
#include <atomic>
#include <cstdlib>
#include <new>

#include "oracle_fixture.h"

namespace {
std::atomic<int64_t> allocations{0};
}

// noinline: inlined, g++ 12 sees malloc paired with delete and warns.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* p = std::malloc(bytes == 0 ? 1 : bytes)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace kvasir {
namespace {

class Allocation : public testing::TestWithParam<Numerics> {};

TEST_P(Allocation, DecodeStepsAllocateNothing) {
  auto runner = make_runner(oracle_model().model, {BackendKind::kCpu, cpu::detect_isa()}, GetParam(), 64);
  auto sequence = runner->make_sequence();
  ASSERT_TRUE(sequence);
  ASSERT_TRUE(sequence->reserve(400));
  std::vector<int32_t> prompt(200);
  for (int i = 0; i < 200; ++i) prompt[i] = i * 7 % 512;
  for (int at = 0; at < 200; at += 50) {
    Runner::Item item{&*sequence, std::span(prompt).subspan(at, 50), Runner::Logits::kLast};
    ASSERT_TRUE(runner->step({&item, 1}));
  }
  auto decode = [&](int steps) {
    for (int i = 0; i < steps; ++i) {
      Runner::Item item{&*sequence, std::span(prompt).subspan(i, 1), Runner::Logits::kLast};
      ASSERT_TRUE(runner->step({&item, 1}));
    }
  };
  decode(8);  // scratch memory grows to its final size
  int64_t pages = runner->pool().total_pages(), before = allocations.load();
  decode(140);  // over a page boundary and every residue of both ratios
  EXPECT_EQ(allocations.load() - before, 0);
  EXPECT_EQ(runner->pool().total_pages(), pages);
}

INSTANTIATE_TEST_SUITE_P(AllNumerics, Allocation, testing::Values(Numerics::kExact, Numerics::kNative, Numerics::kFast),
                         [](const auto& test) { return std::string(numerics_name(test.param)); });

}  // namespace
}  // namespace kvasir
