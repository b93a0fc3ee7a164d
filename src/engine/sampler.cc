// Filters, the draw and log probabilities; see sampler.h.
#include "engine/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace kvasir {
namespace {

uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// Heaviest first; among equals the lowest id.
bool before(const std::pair<float, int32_t>& a, const std::pair<float, int32_t>& b) {
  return a.first != b.first ? a.first > b.first : a.second < b.second;
}

// Sixteen running maxima: unlike std::max_element this is one vector instruction for several values.
float max_of(std::span<const float> values) {
  constexpr size_t kLanes = 16;
  std::array<float, kLanes> lanes;
  lanes.fill(-std::numeric_limits<float>::infinity());
  size_t whole = values.size() / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes)
    for (size_t j = 0; j < kLanes; ++j) lanes[j] = values[i + j] > lanes[j] ? values[i + j] : lanes[j];
  float max = *std::max_element(lanes.begin(), lanes.end());
  for (size_t i = whole; i < values.size(); ++i) max = std::max(max, values[i]);
  return max;
}

// The lowest id of the greatest value; 0 if none compares (all NaN).
int32_t best_of(std::span<const float> values) {
  auto at = std::find(values.begin(), values.end(), max_of(values));
  return at == values.end() ? 0 : static_cast<int32_t>(at - values.begin());
}

}  // namespace

double uniform_at(uint64_t seed, uint64_t position) {
  return static_cast<double>(mix(mix(seed) ^ position) >> 11) * 0x1p-53;
}

std::span<const float> Sampler::bias(View<const float, 1> logits) {
  std::span<const float> plain(logits.data(), static_cast<size_t>(logits.shape(0)));
  if (params_.logit_bias.empty()) return plain;
  logits_.assign(plain.begin(), plain.end());
  for (auto [id, bias] : params_.logit_bias)
    if (id >= 0 && id < logits.shape(0)) logits_[id] += bias;
  return logits_;
}

SampledToken Sampler::sample(View<const float, 1> logits, int64_t position, std::span<const uint32_t> mask) {
  std::span<const float> biased = bias(logits), allowed = biased;
  if (!mask.empty()) {
    KVASIR_CHECK(mask.size() * 32 >= biased.size(), "a mask of {} words for {} tokens", mask.size(), biased.size());
    masked_.resize(biased.size());
    for (size_t i = 0; i < biased.size(); ++i)
      masked_[i] = mask[i / 32] >> (i % 32) & 1 ? biased[i] : -std::numeric_limits<float>::infinity();
    allowed = masked_;
  }
  SampledToken token;
  token.id = params_.temperature > 0 ? draw(allowed, position) : best_of(allowed);
  if (params_.top_logprobs >= 0) fill_logprobs(biased, token);
  return token;
}

SampledToken Sampler::force(View<const float, 1> logits, int32_t id) {
  std::span<const float> biased = bias(logits);
  SampledToken token;
  token.id = id;
  if (params_.top_logprobs >= 0) fill_logprobs(biased, token);
  return token;
}

int32_t Sampler::draw(std::span<const float> logits, int64_t position) {
  float max = max_of(logits);
  candidates_.clear();
  double total = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    float weight = std::exp((logits[i] - max) / params_.temperature);  // 1 for the best token
    if (weight < params_.min_p || weight == 0) continue;
    candidates_.emplace_back(weight, static_cast<int32_t>(i));
    total += weight;
  }
  // min-p compares with the best weight alone, so doing it before top-k and top-p keeps the same tokens;
  // top-p's total must still count what min-p removed.
  if (params_.min_p > 0) {
    total = 0;
    for (float l : logits) total += std::exp((l - max) / params_.temperature);
  }
  bool by_id = true;  // candidates_ ascend by id until a filter has moved them
  if (params_.top_k > 0 && params_.top_k < static_cast<int>(candidates_.size())) {
    by_id = false;
    std::nth_element(candidates_.begin(), candidates_.begin() + params_.top_k, candidates_.end(), before);
    candidates_.resize(params_.top_k);
    total = 0;
    for (const auto& c : candidates_) total += c.first;
  }
  if (params_.top_p < 1) {
    std::sort(candidates_.begin(), candidates_.end(), before);
    double sum = 0;
    size_t keep = 0;
    while (keep < candidates_.size() && sum < params_.top_p * total) sum += candidates_[keep++].first;
    candidates_.resize(std::max<size_t>(1, keep));
  } else if (!by_id) {
    std::sort(candidates_.begin(), candidates_.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  }
  double sum = 0;
  for (const auto& c : candidates_) sum += c.first;
  double point = uniform_at(params_.seed, static_cast<uint64_t>(position)) * sum;
  for (const auto& c : candidates_) {
    point -= c.first;
    if (point < 0) return c.second;
  }
  return candidates_.back().second;
}

void Sampler::fill_logprobs(std::span<const float> logits, SampledToken& token) {
  float max = max_of(logits);
  double sum = 0;
  for (float l : logits) sum += std::exp(static_cast<double>(l - max));
  double log_sum = max + std::log(sum);
  token.logprob = static_cast<float>(logits[token.id] - log_sum);
  if (params_.top_logprobs == 0) return;
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) candidates_.emplace_back(logits[i], static_cast<int32_t>(i));
  auto end = candidates_.begin() + std::min<size_t>(params_.top_logprobs, candidates_.size());
  std::partial_sort(candidates_.begin(), end, candidates_.end(), before);
  for (auto it = candidates_.begin(); it != end; ++it) token.top.emplace_back(it->second, static_cast<float>(it->first - log_sum));
}

}  // namespace kvasir
