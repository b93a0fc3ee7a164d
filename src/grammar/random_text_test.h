// Random texts under the masks of a grammar, for tests.
#pragma once

#include <bit>
#include <cstring>
#include <optional>
#include <random>

#include "grammar/grammar_test_data.h"

namespace kvasir {

inline bool has_bit(const std::vector<uint32_t>& mask, int32_t token) {
  return (mask[static_cast<size_t>(token) / 32] >> (token % 32) & 1) != 0;
}

inline std::vector<int32_t> allowed(const std::vector<uint32_t>& mask) {
  std::vector<int32_t> out;
  for (size_t i = 0; i < mask.size(); ++i) {
    for (uint32_t word = mask[i]; word != 0; word &= word - 1) {
      out.push_back(static_cast<int32_t>(i * 32) + std::countr_zero(word));
    }
  }
  return out;
}

// Samples until the end. After `patience` tokens the end is taken where it may come, and what closes things
// is preferred. Nothing: chance has not found the end (a required key among free ones); the mask was never
// empty.
inline std::optional<std::string> random_text(const SharedGrammar& grammar, std::mt19937& random,
                                              size_t patience) {
  const Vocabulary& v = *v4_vocabulary();
  GrammarMatcher matcher(grammar, shared_cache());
  std::vector<uint32_t> mask(v.mask_words());
  std::string text;
  for (size_t n = 0; n < 1500; ++n) {
    matcher.fill_mask(mask);
    const std::vector<int32_t> tokens = allowed(mask);
    if (tokens.empty()) {
      ADD_FAILURE() << "nothing may follow " << text;
      return text;
    }
    int32_t token = tokens[random() % tokens.size()];
    if (n > patience) {
      std::vector<int32_t> closing;
      for (int32_t t : tokens) {
        if (v.bytes(t).size() == 1 && std::strchr("\"}]", v.bytes(t)[0]) != nullptr) closing.push_back(t);
      }
      // A key that is not wanted any more is closed rarely, so that it differs from those before it.
      if (!closing.empty() && random() % 4 != 0) token = closing[random() % closing.size()];
      if (has_bit(mask, v.eos())) token = v.eos();
    }
    if (token == v.eos()) {
      EXPECT_TRUE(matcher.can_end()) << text;
      return text;
    }
    text += token == v.dsml() ? std::string("｜DSML｜") : std::string(v.bytes(token));
    if (!matcher.accept(token)) {
      ADD_FAILURE() << "the mask allows what the matcher refuses: " << text;
      return text;
    }
  }
  return std::nullopt;
}

}  // namespace kvasir
