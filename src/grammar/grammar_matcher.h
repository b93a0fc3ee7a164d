// GrammarMatcher: follows one text under a grammar and says which tokens may come next.
//
// After warm-up a mask costs a copy, or a union of remembered sets and a short walk for tokens that leave the
// innermost rule. One per text; not for use by two threads at once.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "grammar/grammar.h"
#include "grammar/mask_cache.h"
#include "grammar/stack_machine.h"

namespace kvasir {

class GrammarMatcher {
 public:
  GrammarMatcher(SharedGrammar grammar, std::shared_ptr<MaskCache> cache,
                 StackMachine::Start where = StackMachine::Start::kText);

  // Whether the symbols may follow; if not, nothing changes. Of a token: its bytes, or ｜DSML｜.
  bool accept(int32_t token);
  bool accept_bytes(std::string_view bytes);
  // The text may end here.
  bool can_end() const;

  // Sets the bits of the tokens that may come, the end token included, and clears all others; `mask` has at
  // least vocabulary().mask_words() words.
  void fill_mask(std::span<uint32_t> mask);

 private:
  using Config = StackMachine::Config;

  bool advance(std::span<const Symbol> symbols);
  void add_tokens(const Config& config, std::span<uint32_t> mask);
  std::shared_ptr<const FrameMask> mask_of(const Frame& frame);
  MaskCache::Key key_of(const Frame& frame) const;
  void keep_exits(const std::vector<uint32_t>& words, const std::vector<uint32_t>& exits,
                  FrameMask& mask) const;
  void walk_key(const ObjectRule& rule, int32_t state, std::vector<uint32_t>& words,
                std::vector<FrameMask::Exit>& exits) const;
  void walk_automaton(const ByteDfa& dfa, int32_t state, std::vector<uint32_t>& words,
                      std::vector<uint32_t>& exits);
  void walk(uint32_t begin, uint32_t end, const Config& config, std::span<uint32_t> mask,
            std::vector<uint32_t>* exits);

  SharedGrammar grammar_;
  std::shared_ptr<MaskCache> cache_;
  StackMachine machine_;
  std::vector<Config> configs_;
  std::vector<Config> masked_;  // the configurations that last_mask_ belongs to
  std::vector<uint32_t> last_mask_;
  std::vector<std::vector<Config>> levels_;  // of walk(), kept for their memory
};

}  // namespace kvasir
