// The names under which a tensor may stand in a checkpoint: the official one, and those that transformers
// gives it when it saves a fine-tune, where the experts of a layer are fused into one tensor.
// Source: spec 9.3.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kvasir {

// Which part of the stored tensor the official name means.
enum class StoredPart : uint8_t {
  kWhole,
  kExpert,           // [E, rows, cols]: expert `expert`
  kExpertFirstHalf,  // [E, 2*rows, cols]: the first half of its rows (gate)
  kExpertLastHalf,   // [E, 2*rows, cols]: the other half (up)
};

struct StoredName {
  std::string name;
  StoredPart part = StoredPart::kWhole;
  int64_t expert = 0;
};

// The transformers names of an official tensor name (weight or scale), most recent spelling first.
// Empty for names that transformers does not save (mtp.*).
std::vector<StoredName> transformers_names(std::string_view official);

}  // namespace kvasir
