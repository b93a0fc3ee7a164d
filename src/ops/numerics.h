// Numerics: which roundings a backend performs. Chosen once, when its Ops is made.
#pragma once

#include <cstdint>
#include <string_view>

namespace kvasir {

enum class Numerics : uint8_t {
  // Weights dequantised, activations never quantised nor rounded to bf16, f32 (or f64) arithmetic,
  // f32 cache rows. What the model is, mathematically.
  kExact,
  // Every quantisation and rounding point of the official code (spec 2.3, 2.4): FP8 activations in
  // front of FP8 and FP4 weights, bf16 between modules, FP8 cache rows, FP4 index keys and queries,
  // bf16 index scores.
  kNative,
  // The same stored weights and cache formats; activations are rounded in whatever way this backend
  // computes fastest, provided it stays at least as near to kExact as kNative does, per module.
  kFast,
};

std::string_view numerics_name(Numerics n);                  // "exact", "native", "fast"
bool parse_numerics(std::string_view text, Numerics& out);   // false: unknown name

}  // namespace kvasir
