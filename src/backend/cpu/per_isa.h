// One kernel table per instruction set, and the choice among them.
//
// A kernel source (compiled once per set, see CMakeLists.txt) defines `const Table name` in its own
// namespace; KVASIR_PER_ISA(Table, name) in its header declares all copies and `name(isa)`, which picks one.
#pragma once

#include "backend/cpu/isa.h"
#include "base/check.h"

#if defined(__x86_64__)
#define KVASIR_PER_ISA(Table, name)                                   \
  namespace portable {                                                \
  extern const Table name;                                            \
  }                                                                   \
  namespace avx2 {                                                    \
  extern const Table name;                                            \
  }                                                                   \
  namespace avx512 {                                                  \
  extern const Table name;                                            \
  }                                                                   \
  namespace amx {                                                     \
  extern const Table name;                                            \
  }                                                                   \
  inline const Table& name(Isa isa) {                                 \
    switch (isa) {                                                    \
      case Isa::kPortable:                                            \
        return portable::name;                                        \
      case Isa::kAvx2:                                                \
        return avx2::name;                                            \
      case Isa::kAvx512:                                              \
        return avx512::name;                                          \
      case Isa::kAmx:                                                 \
        return amx::name;                                             \
    }                                                                 \
    KVASIR_CHECK(false, "instruction set {}", static_cast<int>(isa)); \
  }
#else
#define KVASIR_PER_ISA(Table, name) \
  namespace portable {              \
  extern const Table name;          \
  }                                 \
  inline const Table& name(Isa) { return portable::name; }
#endif
