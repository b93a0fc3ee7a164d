// Instruction sets that the CPU backend has kernels for, and which of them this machine can run.
//
// Kernel sources are compiled once per set (CMakeLists.txt here), each copy in a namespace of its own
// named by KVASIR_ISA; those files use raw pointers and no STL, since a template instantiated there could be
// kept by the linker for baseline code too (spec/dependencies.md, trap 4).
#pragma once

#include <string_view>

namespace kvasir::cpu {

enum class Isa {
  kPortable,  // plain C++, whatever the compiler makes of it
  kAvx2,      // AVX2 + FMA + F16C
  kAvx512,    // AVX-512 F/BW/VL/DQ/VBMI + VNNI + BF16 (Zen 4, Sapphire Rapids and later)
  kAmx,       // kAvx512 + AMX tiles (int8, bf16), permission granted by the kernel
};

std::string_view isa_name(Isa isa);              // "portable", "avx2", "avx512", "amx"
bool parse_isa(std::string_view text, Isa& out);
// The best set this machine can run, by CPUID feature bits and, for AMX, by asking the kernel.
Isa detect_isa();
// True when this machine can run kernels of `isa`.
bool isa_available(Isa isa);

}  // namespace kvasir::cpu
