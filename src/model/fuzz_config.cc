// libFuzzer: a config.json of any bytes is either refused in one line or gives sizes that the tensor table
// can be built from without an overflow.
#include <cstdlib>
#include <limits>

#include "model/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvasir;
  std::vector<std::string> warnings;
  auto config = parse_config({reinterpret_cast<const char*>(data), size}, "fuzz", warnings);
  if (!config) {
    const std::string& message = config.error().message;
    if (message.empty() || message.size() > 1000 || message.find('\n') != std::string::npos) std::abort();
    return 0;
  }
  for (const std::string& w : warnings) {
    if (w.find('\n') != std::string::npos) std::abort();
  }
  const ModelConfig& c = *config;
  for (int l = 0; l < c.num_layers; ++l) c.attention_kind(l);
  if (c.num_mtp > 0 && c.attention_kind(c.num_layers) != AttentionKind::kSwa) std::abort();
  for (int ratio : {0, 4}) {
    std::vector<float> f = c.inv_freq(ratio);
    if (f.size() != static_cast<size_t>(c.rope_dim / 2)) std::abort();
    for (float x : f) {
      if (!(x > 0) && !(x == 0)) std::abort();  // NaN
    }
  }
  if (c.dim % 32 || c.num_heads % c.o_groups || c.num_hash_layers > c.num_layers ||
      c.experts_per_token > c.num_experts)
    std::abort();
  return 0;
}
