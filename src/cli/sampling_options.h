// SamplingOptions: how generate and chat choose each next token. Defaults are those of the released
// generation_config.json: temperature 1, nothing cut off.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace kvasir {

enum class ThinkChoice : uint8_t { kOff, kHigh, kMax };
enum class DraftChoice : uint8_t { kNone, kMtp };

struct SamplingOptions {
  double temperature = 1;                             // --temperature; 0 is greedy
  double top_p = 1;                                   // --top-p; 1 keeps all
  int top_k = 0;                                      // --top-k; 0 keeps all
  double min_p = 0;                                   // --min-p; 0 keeps all
  std::optional<uint64_t> seed;                       // --seed; unset: drawn from the system and reported
  std::vector<std::string> stop;                      // --stop, repeatable
  std::vector<std::pair<int64_t, float>> logit_bias;  // --logit-bias ID:BIAS, repeatable
  DraftChoice draft = DraftChoice::kNone;             // --draft mtp
};

}  // namespace kvasir
