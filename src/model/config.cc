// What follows from a config's numbers: the kind of each layer, its rotation frequencies, and the
// published shapes. Reading config.json is config_parse.cc. Source: spec 1.1, 1.3, A.5.
#include "model/config.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace kvasir {
namespace {

std::vector<int> alternate(int num_layers, int first_two) {
  std::vector<int> ratios;
  for (int l = 0; l < num_layers; ++l) ratios.push_back(l < 2 ? first_two : l % 2 == 0 ? 4 : 128);
  ratios.push_back(0);  // MTP
  return ratios;
}

}  // namespace

AttentionKind ModelConfig::attention_kind(int layer) const {
  KVASIR_CHECK(layer >= 0 && static_cast<size_t>(layer) < compress_ratios.size(), "layer {} of {} ratios",
               layer, compress_ratios.size());
  int ratio = compress_ratio(layer);
  return ratio == 0 ? AttentionKind::kSwa : ratio == 4 ? AttentionKind::kCsa : AttentionKind::kHca;
}

// Every step is rounded to f32 as in the reference code, and in its order: at position 1,048,575 one
// ulp of a frequency near 1 turns the angle by 0.06 rad (trap 30). The golden values of spec A.5 pin it.
std::vector<float> ModelConfig::inv_freq(int ratio) const {
  KVASIR_CHECK(rope_dim > 0 && rope_dim % 2 == 0, "rope_dim {}", rope_dim);
  const double theta = ratio == 0 ? rope_theta : compress_rope_theta;
  // The dimension whose wavelength turns `turns` times over the original context.
  auto correction = [&](double turns) {
    return rope_dim * std::log(static_cast<double>(yarn_original_context) / (2 * M_PI * turns)) /
           (2 * std::log(theta));
  };
  const double low = std::max(std::floor(correction(yarn_beta_fast)), 0.0);
  double high = std::min(std::ceil(correction(yarn_beta_slow)), static_cast<double>(rope_dim - 1));
  if (low == high) high += 0.001;  // the reference keeps its ramp finite in the same way

  std::vector<float> out;
  for (int i = 0; i < rope_dim / 2; ++i) {
    float f = 1.0f / static_cast<float>(std::pow(theta, 2.0 * i / rope_dim));
    if (ratio != 0) {
      float ramp = static_cast<float>(i - low) / static_cast<float>(high - low);
      float keep = 1.0f - std::clamp(ramp, 0.0f, 1.0f);
      f = f / static_cast<float>(yarn_factor) * (1.0f - keep) + f * keep;
    }
    out.push_back(f);
  }
  return out;
}

ModelConfig flash_config() {
  ModelConfig c;
  c.vocab_size = 129280;
  c.dim = 4096;
  c.num_layers = 43;
  c.num_heads = 64;
  c.head_dim = 512;
  c.rope_dim = 64;
  c.q_rank = 1024;
  c.o_groups = 8;
  c.o_rank = 1024;
  c.window = 128;
  c.compress_ratios = alternate(c.num_layers, 0);
  c.rope_theta = 10000;
  c.compress_rope_theta = 160000;
  c.yarn_factor = 16;
  c.yarn_beta_fast = 32;
  c.yarn_beta_slow = 1;
  c.yarn_original_context = 65536;
  c.max_context = 1048576;
  c.index_heads = 64;
  c.index_dim = 128;
  c.index_topk = 512;
  c.hc = 4;
  c.hc_sinkhorn_iters = 20;
  c.hc_eps = 1e-6f;
  c.num_experts = 256;
  c.num_shared_experts = 1;
  c.experts_per_token = 6;
  c.expert_dim = 2048;
  c.num_hash_layers = 3;
  c.routed_scaling_factor = 1.5f;
  c.swiglu_limit = 10.f;
  c.norm_eps = 1e-6f;
  c.num_mtp = 1;
  c.bos_id = 0;
  c.eos_id = 1;
  return c;
}

ModelConfig pro_config() {
  ModelConfig c = flash_config();  // what differs, spec 1.1
  c.dim = 7168;
  c.num_layers = 61;
  c.num_heads = 128;
  c.q_rank = 1536;
  c.o_groups = 16;
  c.compress_ratios = alternate(c.num_layers, 128);
  c.index_topk = 1024;
  c.num_experts = 384;
  c.expert_dim = 3072;
  c.routed_scaling_factor = 2.5f;
  return c;
}

ModelConfig with_layers(ModelConfig config, int layers) {
  KVASIR_CHECK(layers >= 1 && layers <= config.num_layers, "{} of {} layers", layers, config.num_layers);
  config.compress_ratios.erase(config.compress_ratios.begin() + layers,
                               config.compress_ratios.begin() + config.num_layers);
  config.num_layers = layers;
  config.num_hash_layers = std::min(config.num_hash_layers, layers);
  return config;
}

}  // namespace kvasir
