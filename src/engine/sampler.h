// Sampler: logits of one position to one token.
//
// Order: logit bias and penalties, mask, temperature, top-k, top-p, min-p, then one draw. The random number
// of a position depends on the seed and the position alone, so the same seed gives the same text however the
// tokens were computed: in what batch, with or without drafts. Temperature 0 is greedy; ties go to the lowest
// id. Threading: a Sampler is used by one thread; it keeps scratch memory and allocates only at first use.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tensor/view.h"

namespace kvasir {

struct SamplingParams {
  float temperature = 1.0f;  // 0: greedy
  float top_p = 1.0f;        // (0, 1]; 1: off
  int top_k = 0;             // 0: off
  float min_p = 0.0f;        // [0, 1]; share of the best token's probability; 0: off
  uint64_t seed = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;  // token id, added to its logit
  float presence_penalty = 0;   // taken from the logit of each token that the text has already
  float frequency_penalty = 0;  // and this as often as it has it
  int top_logprobs = 0;         // how many alternatives to report; -1: none, not even the token's own
};

struct SampledToken {
  int32_t id = 0;
  float logprob = 0;                           // under the biased distribution at temperature 1
  std::vector<std::pair<int32_t, float>> top;  // the best alternatives and their logprobs, best first
};

class Sampler {
 public:
  explicit Sampler(SamplingParams params) : params_(std::move(params)) {}

  // `logits` has one value per vocabulary entry; `position` is where the new token will stand. `mask`, unless
  // empty, has a bit per entry (token_constraint.h): tokens without theirs are not drawn, whatever their
  // bias, before any other filter. Log probabilities stay those of the whole distribution, so that they
  // compare between constrained and not. `banned`, unless negative, is drawn as little: the same as a mask
  // that lacks one bit, without its cost.
  SampledToken sample(View<const float, 1> logits, int64_t position, std::span<const uint32_t> mask = {},
                      int32_t banned = -1);
  // `id` is part of the text now: penalties count it.
  void accept(int32_t id);
  // `id` as if it had been drawn, with its log probability.
  SampledToken force(View<const float, 1> logits, int32_t id);

 private:
  // `logits` themselves, or logits_ with bias and penalties.
  std::span<const float> bias(View<const float, 1> logits);
  // Of each token relative to the best one, and their sums block by block.
  void fill_weights(std::span<const float> logits, float temperature);
  double total_weight() const;
  int32_t choose(std::span<const float> logits, int64_t position, int32_t banned);
  int32_t draw(std::span<const float> logits, int64_t position, int32_t banned);
  std::span<const float> without(std::span<const float> logits, int32_t banned);
  int32_t draw_of_all(double point) const;
  void gather(bool by_k, bool by_p, double total);
  void fill_logprobs(std::span<const float> logits, SampledToken& token);

  SamplingParams params_;
  std::unordered_map<int32_t, int> counts_;            // of the text's tokens, if a penalty wants to know
  std::vector<float> logits_;                          // biased copy, if there is a bias
  std::vector<float> masked_;                          // a copy with -inf for what the mask forbids
  std::vector<float> weights_;                         // 1 for the best token
  std::vector<double> block_sums_;                     // of weights_
  std::vector<std::pair<float, int32_t>> candidates_;  // weight, id
};

// Uniform in [0, 1), a function of its arguments alone (SplitMix64 finaliser over both).
double uniform_at(uint64_t seed, uint64_t position);

}  // namespace kvasir
