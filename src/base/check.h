// KVASIR_CHECK: aborts with values when kvasir itself is wrong (a broken invariant, a wrong shape).
//
//   KVASIR_CHECK(q.shape(0) == tokens, "q has {} rows, the batch {} tokens", q.shape(0), tokens);
//
// Never for bad input: that is a Result (result.h). KVASIR_DCHECK vanishes under NDEBUG.
#pragma once

#include <fmt/core.h>

#include <string_view>

namespace kvasir {

[[noreturn]] void check_failed(const char* file, int line, const char* expression, std::string_view message);

}  // namespace kvasir

#define KVASIR_CHECK(condition, ...)                                                            \
  do {                                                                                          \
    if (!(condition)) [[unlikely]]                                                              \
      ::kvasir::check_failed(__FILE__, __LINE__, #condition, fmt::format("" __VA_ARGS__));      \
  } while (0)

#ifdef NDEBUG
#define KVASIR_DCHECK(condition, ...) \
  do {                                \
    (void)sizeof(condition);          \
  } while (0)
#else
#define KVASIR_DCHECK(condition, ...) KVASIR_CHECK(condition, __VA_ARGS__)
#endif
