// Filters, the draw and log probabilities; see sampler.h.
#include "engine/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

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

// A word at a time: most masks let whole words through, or none of them.
void copy_masked(std::span<const float> values, std::span<const uint32_t> mask, std::span<float> out) {
  constexpr float kForbidden = -std::numeric_limits<float>::infinity();
  for (size_t begin = 0; begin < values.size(); begin += 32) {
    size_t count = std::min<size_t>(32, values.size() - begin);
    uint32_t word = mask[begin / 32];
    if (word == ~uint32_t{0}) {
      std::copy_n(values.begin() + begin, count, out.begin() + begin);
      continue;
    }
    std::fill_n(out.begin() + begin, count, kForbidden);
    for (; word != 0; word &= word - 1) {
      auto bit = static_cast<size_t>(std::countr_zero(word));
      if (bit < count) out[begin + bit] = values[begin + bit];
    }
  }
}

constexpr size_t kBlock = 64;  // tokens whose weights are summed together

// e^-87 is about where floats end; whatever is below it weighs nothing.
constexpr float kLowest = 87.0f;

// e^-x for x in [0, kLowest], to 2 units in the last place. No library: the same bits on every machine.
constexpr float exp_of_minus(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  float whole = x * -1.44269504f + kRound - kRound;
  float rest = -x - whole * 0.693359375f + whole * 2.12194440e-4f;  // ln 2 in two parts; |rest| <= ln 2 / 2
  float series = (((1.0f / 720 * rest + 1.0f / 120) * rest + 1.0f / 24) * rest + 1.0f / 6) * rest + 0.5f;
  series = (series * rest + 1.0f) * rest + 1.0f;
  return series * std::bit_cast<float>((static_cast<int32_t>(whole) + 127) << 23);
}

// e^x for x <= 0. Floats are not compared, since that may trap and then the compiler does one value at a
// time; the bits of their sizes are. Subtracting the least value makes it 0 and changes nothing that counts.
float weight_of(float x) {
  int32_t size = std::bit_cast<int32_t>(x) & 0x7fffffff;
  constexpr float kLeast = exp_of_minus(kLowest);
  return exp_of_minus(std::bit_cast<float>(std::min(size, std::bit_cast<int32_t>(kLowest)))) - kLeast;
}

double sum_of(std::span<const float> values) {
  constexpr size_t kLanes = 8;
  std::array<double, kLanes> lanes{};
  size_t whole = values.size() / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes)
    for (size_t j = 0; j < kLanes; ++j) lanes[j] += values[i + j];
  double sum = std::accumulate(lanes.begin(), lanes.end(), 0.0);
  for (size_t i = whole; i < values.size(); ++i) sum += values[i];
  return sum;
}

// How many values reach `cut`, and their sum.
std::pair<int64_t, double> above(std::span<const float> values, float cut) {
  constexpr size_t kLanes = 16;
  std::array<float, kLanes> sums{};
  std::array<int32_t, kLanes> counts{};
  size_t whole = values.size() / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) {
      sums[j] += values[i + j] >= cut ? values[i + j] : 0.0f;
      counts[j] += values[i + j] >= cut ? 1 : 0;
    }
  }
  for (size_t i = whole; i < values.size(); ++i) {
    sums[i - whole] += values[i] >= cut ? values[i] : 0.0f;
    counts[i - whole] += values[i] >= cut ? 1 : 0;
  }
  return {std::accumulate(counts.begin(), counts.end(), int64_t{0}),
          std::accumulate(sums.begin(), sums.end(), 0.0)};
}

}  // namespace

double uniform_at(uint64_t seed, uint64_t position) {
  return static_cast<double>(mix(mix(seed) ^ position) >> 11) * 0x1p-53;
}

std::span<const float> Sampler::bias(View<const float, 1> logits) {
  std::span<const float> plain(logits.data(), static_cast<size_t>(logits.shape(0)));
  if (params_.logit_bias.empty() && counts_.empty()) return plain;
  logits_.assign(plain.begin(), plain.end());
  for (auto [id, bias] : params_.logit_bias)
    if (id >= 0 && id < logits.shape(0)) logits_[id] += bias;
  for (auto [id, count] : counts_)
    logits_[id] -= params_.presence_penalty + params_.frequency_penalty * static_cast<float>(count);
  return logits_;
}

void Sampler::accept(int32_t id) {
  if (params_.presence_penalty != 0 || params_.frequency_penalty != 0) ++counts_[id];
}

SampledToken Sampler::sample(View<const float, 1> logits, int64_t position, std::span<const uint32_t> mask,
                             int32_t banned) {
  std::span<const float> biased = bias(logits), allowed = biased;
  if (!mask.empty()) {
    KVASIR_CHECK(mask.size() * 32 >= biased.size(), "a mask of {} words for {} tokens", mask.size(),
                 biased.size());
    masked_.resize(biased.size());
    copy_masked(biased, mask, masked_);
    allowed = masked_;
  }
  SampledToken token;
  token.id = choose(allowed, position, banned);
  if (params_.top_logprobs >= 0) fill_logprobs(biased, token);
  return token;
}

// Rarely is the banned token the best one; only then are the logits copied. Else it is enough not to draw it.
int32_t Sampler::choose(std::span<const float> logits, int64_t position, int32_t banned) {
  if (params_.temperature <= 0) {
    int32_t best = best_of(logits);
    return best == banned ? best_of(without(logits, banned)) : best;
  }
  if (banned >= 0 && logits[static_cast<size_t>(banned)] >= max_of(logits))
    return draw(without(logits, banned), position, -1);
  return draw(logits, position, banned);
}

std::span<const float> Sampler::without(std::span<const float> logits, int32_t banned) {
  if (logits.data() != masked_.data()) masked_.assign(logits.begin(), logits.end());
  masked_[static_cast<size_t>(banned)] = -std::numeric_limits<float>::infinity();
  return masked_;
}

SampledToken Sampler::force(View<const float, 1> logits, int32_t id) {
  std::span<const float> biased = bias(logits);
  SampledToken token;
  token.id = id;
  if (params_.top_logprobs >= 0) fill_logprobs(biased, token);
  return token;
}

void Sampler::fill_weights(std::span<const float> logits, float temperature) {
  float max = max_of(logits);
  weights_.resize(logits.size());
  const float* in = logits.data();
  float* out = weights_.data();
  for (size_t i = 0; i < logits.size(); ++i) out[i] = weight_of((in[i] - max) / temperature);
  block_sums_.clear();
  for (size_t begin = 0; begin < weights_.size(); begin += kBlock)
    block_sums_.push_back(
        sum_of(std::span(weights_).subspan(begin, std::min(kBlock, weights_.size() - begin))));
}

double Sampler::total_weight() const { return std::accumulate(block_sums_.begin(), block_sums_.end(), 0.0); }

int32_t Sampler::draw(std::span<const float> logits, int64_t position, int32_t banned) {
  fill_weights(logits, params_.temperature);
  if (banned >= 0) {
    auto at = static_cast<size_t>(banned), begin = at / kBlock * kBlock;
    weights_[at] = 0;
    block_sums_[at / kBlock] =
        sum_of(std::span(weights_).subspan(begin, std::min(kBlock, weights_.size() - begin)));
  }
  double total = total_weight();
  if (!(total > 0)) return best_of(logits);
  double uniform = uniform_at(params_.seed, static_cast<uint64_t>(position));
  bool by_k = params_.top_k > 0 && params_.top_k < std::ssize(logits);
  bool by_p = params_.top_p < 1;
  if (!by_k && !by_p && params_.min_p <= 0) return draw_of_all(uniform * total);

  gather(by_k, by_p, total);
  if (by_k || by_p) std::sort(candidates_.begin(), candidates_.end(), before);
  if (by_k && params_.top_k <= std::ssize(candidates_)) {
    candidates_.resize(params_.top_k);
    total = 0;
    for (const auto& c : candidates_) total += c.first;
  }
  if (by_p) {
    double sum = 0;
    size_t keep = 0;
    while (keep < candidates_.size() && sum < params_.top_p * total) sum += candidates_[keep++].first;
    candidates_.resize(std::max<size_t>(1, keep));
  }
  std::erase_if(candidates_, [&](const auto& c) { return c.first < params_.min_p; });
  double sum = 0;
  for (const auto& c : candidates_) sum += c.first;
  double point = uniform * sum;
  for (const auto& c : candidates_) {
    point -= c.first;
    if (point < 0) return c.second;
  }
  return candidates_.back().second;
}

// Whole blocks are passed over by their sums.
int32_t Sampler::draw_of_all(double point) const {
  size_t last = 0;
  for (size_t block = 0; block < block_sums_.size(); ++block) {
    if (point >= block_sums_[block]) {
      point -= block_sums_[block];
      continue;
    }
    size_t begin = block * kBlock, end = std::min(begin + kBlock, weights_.size());
    for (size_t i = begin; i < end; ++i) {
      if (weights_[i] == 0) continue;
      last = i;
      point -= weights_[i];
      if (point < 0) return static_cast<int32_t>(i);
    }
  }
  // Sums that were rounded differently: the last that was passed.
  return weights_[last] > 0 ? static_cast<int32_t>(last) : best_of(weights_);
}

// The heaviest tokens, by id: all that the filters can keep, and mostly few more, so that not the whole
// vocabulary is sorted.
void Sampler::gather(bool by_k, bool by_p, double total) {
  float floor = by_k ? 0 : params_.min_p;
  float cut = by_k || by_p ? 1 : floor;
  while (by_k || by_p) {
    cut = std::max(cut / 16, floor);
    auto [count, mass] = above(weights_, cut);
    bool enough = by_k ? count >= params_.top_k : mass >= params_.top_p * total;
    if (enough || cut <= floor) break;
  }
  candidates_.clear();
  for (size_t i = 0; i < weights_.size(); ++i)
    if (weights_[i] >= cut && weights_[i] > 0) candidates_.emplace_back(weights_[i], static_cast<int32_t>(i));
}

void Sampler::fill_logprobs(std::span<const float> logits, SampledToken& token) {
  fill_weights(logits, 1);
  double log_sum = max_of(logits) + std::log(total_weight());
  token.logprob = static_cast<float>(logits[token.id] - log_sum);
  if (params_.top_logprobs == 0) return;
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) candidates_.emplace_back(logits[i], static_cast<int32_t>(i));
  auto end = candidates_.begin() + std::min<size_t>(params_.top_logprobs, candidates_.size());
  std::partial_sort(candidates_.begin(), end, candidates_.end(), before);
  for (auto it = candidates_.begin(); it != end; ++it)
    token.top.emplace_back(it->second, static_cast<float>(it->first - log_sum));
}

}  // namespace kvasir
