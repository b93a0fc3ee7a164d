// Masks by walking the trie of tokens: whole the first time a frame is met, then only where a token leaves
// it.
#include "grammar/grammar_matcher.h"

#include <algorithm>
#include <array>
#include <bit>

namespace kvasir {
namespace {

constexpr size_t kFewTokens = 1024;     // as a list smaller and as fast as a set of 129,280 bits
constexpr size_t kCompactAfter = 4096;  // stacks
constexpr uint8_t kMaxOpenings = 16;  // levels that one token opens; a rare token that opens more is left out

void set_bit(std::span<uint32_t> mask, int32_t token) {
  mask[static_cast<size_t>(token) / 32] |= 1u << (static_cast<uint32_t>(token) % 32);
}

bool has_bit(std::span<const uint32_t> mask, int32_t token) {
  return (mask[static_cast<size_t>(token) / 32] >> (static_cast<uint32_t>(token) % 32) & 1) != 0;
}

void remove_duplicates(std::vector<StackMachine::Config>& configs) {
  for (size_t i = 1; i < configs.size();) {
    const auto here = configs.begin() + static_cast<ptrdiff_t>(i);
    if (std::find(configs.begin(), here, *here) != here) {
      configs.erase(here);
    } else {
      ++i;
    }
  }
}

}  // namespace

GrammarMatcher::GrammarMatcher(SharedGrammar grammar, std::shared_ptr<MaskCache> cache,
                               StackMachine::Start where)
    : grammar_(std::move(grammar)),
      cache_(std::move(cache)),
      machine_(*grammar_),
      configs_(machine_.start(where)),
      last_mask_(cache_->vocabulary().mask_words()),
      levels_(cache_->vocabulary().max_depth() + 2) {}

bool GrammarMatcher::accept(int32_t token) {
  const Vocabulary& v = cache_->vocabulary();
  if (token == v.dsml()) return advance(std::array<Symbol, 1>{kDsmlSymbol});
  const std::string_view bytes = v.bytes(token);
  return !bytes.empty() && accept_bytes(bytes);
}

bool GrammarMatcher::accept_bytes(std::string_view bytes) {
  std::vector<Symbol> symbols;
  for (char c : bytes) symbols.push_back(static_cast<uint8_t>(c));
  return advance(symbols);
}

bool GrammarMatcher::advance(std::span<const Symbol> symbols) {
  std::vector<Config> now = configs_, next;
  for (Symbol symbol : symbols) {
    next.clear();
    for (const Config& c : now) machine_.step(c, symbol, next);
    if (next.size() > 1) remove_duplicates(next);
    if (next.empty()) return false;
    now.swap(next);
  }
  configs_ = std::move(now);
  if (machine_.mark() > kCompactAfter) {
    machine_.compact(configs_);
    masked_.clear();
  }
  return true;
}

bool GrammarMatcher::can_end() const {
  return std::any_of(configs_.begin(), configs_.end(), [&](const Config& c) {
    return c.below == StackMachine::kBottom && machine_.is_complete(c.top);
  });
}

void GrammarMatcher::fill_mask(std::span<uint32_t> mask) {
  const size_t words = last_mask_.size();
  if (masked_ != configs_) {
    std::fill(last_mask_.begin(), last_mask_.end(), 0);
    const size_t mark = machine_.mark();
    for (const Config& c : configs_) add_tokens(c, last_mask_);
    machine_.rewind(mark);
    if (can_end()) set_bit(last_mask_, cache_->vocabulary().eos());
    masked_ = configs_;
  }
  std::copy(last_mask_.begin(), last_mask_.end(), mask.begin());
  std::fill(mask.begin() + static_cast<ptrdiff_t>(words), mask.end(), 0);
}

void GrammarMatcher::add_tokens(const Config& config, std::span<uint32_t> mask) {
  const std::shared_ptr<const FrameMask> known = mask_of(config.top);
  const std::vector<Vocabulary::TrieNode>& trie = cache_->vocabulary().trie();
  for (size_t i = 0; i < known->words.size(); ++i) mask[i] |= known->words[i];
  for (int32_t token : known->tokens) set_bit(mask, token);
  if (machine_.is_free_key(config.top)) {
    for (const FrameMask::Exit& exit : known->exits) {
      Config next = config;
      if (!machine_.move_key(next.top, exit.state)) continue;
      if (trie[exit.node].token >= 0) set_bit(mask, trie[exit.node].token);
      walk(exit.node + 1, trie[exit.node].end, next, mask, nullptr);
    }
    return;
  }
  if (config.below == StackMachine::kBottom) return;
  const Config below = machine_.waiting(config.below);
  for (const FrameMask::Exit& exit : known->exits) {
    if (exit.node == FrameMask::kRoot) {
      add_tokens(below, mask);
    } else {
      walk(exit.node + 1, trie[exit.node].end, below, mask, nullptr);
    }
  }
}

// Frames that differ only in what no token can tell share a key.
MaskCache::Key GrammarMatcher::key_of(const Frame& frame) const {
  switch (frame.kind) {
    case Frame::Kind::kDfa:
      return {grammar_->dfas[frame.rule]->id(), {.kind = frame.kind, .state = frame.state}};
    case Frame::Kind::kCounted: {
      const CountedRule& rule = grammar_->counted[frame.rule];
      const uint32_t longest = cache_->vocabulary().max_depth() + 1;
      const uint32_t missing = std::min(longest, frame.count < rule.min ? rule.min - frame.count : 0);
      const uint32_t room = rule.max == UINT32_MAX ? longest : std::min(longest, rule.max - frame.count);
      return {rule.dfa->id(), {.kind = frame.kind, .state = frame.state, .count = missing, .blank = room}};
    }
    default: {
      if (machine_.is_free_key(frame)) {
        return {machine_.object_of(frame).keys->id(), {.kind = frame.kind, .state = frame.state}};
      }
      MaskCache::Key key{grammar_->id, frame};
      key.frame.room = std::min(frame.room, kMaxOpenings);
      return key;
    }
  }
}

std::shared_ptr<const FrameMask> GrammarMatcher::mask_of(const Frame& frame) {
  const MaskCache::Key key = key_of(frame);
  if (auto known = cache_->find(key)) return known;
  const Vocabulary& v = cache_->vocabulary();
  auto fresh = std::make_shared<FrameMask>();
  std::vector<uint32_t> words(v.mask_words());
  if (machine_.is_free_key(frame)) {
    walk_key(machine_.object_of(frame), frame.state, words, fresh->exits);
  } else {
    std::vector<uint32_t> exits;
    if (machine_.is_complete(frame)) exits.push_back(FrameMask::kRoot);
    if (frame.kind == Frame::Kind::kDfa) {
      walk_automaton(*grammar_->dfas[frame.rule], frame.state, words, exits);
    } else {
      // Of counted text the key has other counts in it than the frame.
      const Frame& walked = frame.kind == Frame::Kind::kCounted ? frame : key.frame;
      const size_t mark = machine_.mark();
      walk(0, static_cast<uint32_t>(v.trie().size()), {walked, StackMachine::kOpen}, words, &exits);
      machine_.rewind(mark);
    }
    keep_exits(words, exits, *fresh);
  }
  for (size_t i = 0; i < words.size() && fresh->tokens.size() <= kFewTokens; ++i) {
    for (uint32_t word = words[i]; word != 0; word &= word - 1) {
      fresh->tokens.push_back(static_cast<int32_t>(i * 32) + std::countr_zero(word));
    }
  }
  if (fresh->tokens.size() > kFewTokens) {
    fresh->tokens.clear();
    fresh->words = std::move(words);
  }
  fresh->tokens.shrink_to_fit();
  cache_->insert(key, fresh);
  return fresh;
}

// Places behind which every token fits anyway need no walk.
void GrammarMatcher::keep_exits(const std::vector<uint32_t>& words, const std::vector<uint32_t>& exits,
                                FrameMask& mask) const {
  const std::vector<Vocabulary::TrieNode>& trie = cache_->vocabulary().trie();
  for (uint32_t exit : exits) {
    const uint32_t begin = exit == FrameMask::kRoot ? 0 : exit + 1;
    const uint32_t end = exit == FrameMask::kRoot ? static_cast<uint32_t>(trie.size()) : trie[exit].end;
    for (uint32_t i = begin; i < end; ++i) {
      if (trie[i].token < 0 || has_bit(words, trie[i].token)) continue;
      mask.exits.push_back({exit, 0});
      break;
    }
  }
}

// Inside a key that need not be a property's. Where it ends, or could only be a property's, the object
// decides.
void GrammarMatcher::walk_key(const ObjectRule& rule, int32_t state, std::vector<uint32_t>& words,
                              std::vector<FrameMask::Exit>& exits) const {
  const std::vector<Vocabulary::TrieNode>& trie = cache_->vocabulary().trie();
  std::vector<int32_t> states(cache_->vocabulary().max_depth() + 2);
  states[0] = state;
  for (uint32_t i = 0; i < trie.size();) {
    const Vocabulary::TrieNode& node = trie[i];
    const int32_t to = node.symbol > 255
                           ? ByteDfa::kNone
                           : rule.keys->next(states[node.depth], static_cast<uint8_t>(node.symbol));
    if (to == ByteDfa::kNone || rule.keys->accepts(to) || !rule.reach[static_cast<size_t>(to)].other) {
      if (to != ByteDfa::kNone) exits.push_back({i, to});
      i = node.end;
      continue;
    }
    states[node.depth + 1u] = to;
    if (node.token >= 0) set_bit(words, node.token);
    ++i;
  }
}

// The same as walk() for a frame that is nothing but an automaton; most of the vocabulary is met here.
void GrammarMatcher::walk_automaton(const ByteDfa& dfa, int32_t state, std::vector<uint32_t>& words,
                                    std::vector<uint32_t>& exits) {
  const std::vector<Vocabulary::TrieNode>& trie = cache_->vocabulary().trie();
  std::vector<int32_t> states(cache_->vocabulary().max_depth() + 2);
  states[0] = state;
  for (uint32_t i = 0; i < trie.size();) {
    const Vocabulary::TrieNode& node = trie[i];
    const int32_t to =
        node.symbol > 255 ? ByteDfa::kNone : dfa.next(states[node.depth], static_cast<uint8_t>(node.symbol));
    if (to == ByteDfa::kNone) {
      i = node.end;
      continue;
    }
    states[node.depth + 1u] = to;
    if (node.token >= 0) set_bit(words, node.token);
    if (node.end > i + 1 && dfa.accepts(to)) exits.push_back(i);
    ++i;
  }
}

// Sets the bits of the tokens in trie[begin, end) that `config` can take, counted from the depth of `begin`.
void GrammarMatcher::walk(uint32_t begin, uint32_t end, const Config& config, std::span<uint32_t> mask,
                          std::vector<uint32_t>* exits) {
  const std::vector<Vocabulary::TrieNode>& trie = cache_->vocabulary().trie();
  if (begin >= end) return;
  const uint32_t base = trie[begin].depth;
  levels_[0].assign(1, config);
  for (uint32_t i = begin; i < end;) {
    const Vocabulary::TrieNode& node = trie[i];
    std::vector<Config>& next = levels_[node.depth - base + 1];
    next.clear();
    for (const Config& c : levels_[node.depth - base]) machine_.step(c, node.symbol, next);
    if (next.empty()) {
      i = node.end;
      continue;
    }
    if (next.size() > 1) remove_duplicates(next);
    if (node.token >= 0) set_bit(mask, node.token);
    const auto leaves = [&](const Config& c) {
      return c.below == StackMachine::kOpen && machine_.is_complete(c.top);
    };
    if (exits != nullptr && node.end > i + 1 && std::any_of(next.begin(), next.end(), leaves))
      exits->push_back(i);
    ++i;
  }
}

}  // namespace kvasir
