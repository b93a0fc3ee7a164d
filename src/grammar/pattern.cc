// Thompson's construction, then subsets. Anchors are edges that cost nothing but may be taken only at the
// start or at the end of the text; everything after a match that needs no anchor is one accepting state, so
// the tail of an unanchored pattern never multiplies states.
#include "grammar/pattern.h"

#include <algorithm>
#include <map>
#include <utility>

#include "grammar/pattern_tree.h"

namespace kvasir {
namespace {

constexpr size_t kMaxNfaStates = 20000;
constexpr size_t kMaxDfaStates = 4000;
constexpr size_t kMaxNfaCalls = 100000;        // `(){5000}` in itself makes no state and takes time
constexpr size_t kMaxSubsetWork = 20'000'000;  // visits of a state or an edge: well under a second

struct NfaState {
  std::vector<int32_t> free;  // edges that read nothing
  int32_t at_begin = -1;      // such an edge, only at the start of the text
  int32_t at_end = -1;        // only at the end
  CodePointSet set = {};
  int32_t to = -1;  // after one of `set`
};

class Nfa {
 public:
  // The state from which `node` leads to `to`, or -1: too many states.
  int32_t add(const PatternNode& node, int32_t to) {
    if (++calls_ > kMaxNfaCalls) return -1;
    switch (node.kind) {
      case PatternNode::Kind::kSet:
        return make({.free = {}, .set = node.set, .to = to});
      case PatternNode::Kind::kBegin:
        return make({.free = {}, .at_begin = to});
      case PatternNode::Kind::kEnd:
        return make({.free = {}, .at_end = to});
      case PatternNode::Kind::kSequence:
        for (size_t i = node.children.size(); i-- > 0 && to >= 0;) to = add(node.children[i], to);
        return to;
      case PatternNode::Kind::kChoice: {
        std::vector<int32_t> heads;
        for (const PatternNode& child : node.children) {
          heads.push_back(add(child, to));
          if (heads.back() < 0) return -1;
        }
        return make({.free = std::move(heads)});
      }
      case PatternNode::Kind::kRepeat:
        return add_repeat(node, to);
    }
    return -1;
  }

  int32_t make(NfaState state) {
    if (states_.size() >= kMaxNfaStates) return -1;
    states_.push_back(std::move(state));
    return static_cast<int32_t>(states_.size()) - 1;
  }
  NfaState& operator[](int32_t i) { return states_[static_cast<size_t>(i)]; }
  size_t size() const { return states_.size(); }

 private:
  int32_t add_repeat(const PatternNode& node, int32_t to) {
    const PatternNode& child = node.children[0];
    int32_t head = to;
    if (node.max == kUnbounded) {
      head = make({.free = {to}});
      if (head < 0) return -1;
      const int32_t body = add(child, head);
      if (body < 0) return -1;
      (*this)[head].free.push_back(body);
    } else {
      for (uint32_t i = node.min; i < node.max && head >= 0; ++i) {
        const int32_t body = add(child, head);
        head = body < 0 ? -1 : make({.free = {body, to}});
      }
    }
    for (uint32_t i = 0; i < node.min && head >= 0; ++i) head = add(child, head);
    return head;
  }

  std::vector<NfaState> states_;
  size_t calls_ = 0;
};

class SubsetBuilder {
 public:
  SubsetBuilder(Nfa& nfa, int32_t accept) : nfa_(nfa), accept_(accept), seen_(nfa.size()) {}

  Result<CodePointDfa> build(int32_t start) {
    id_of(closure({start}, true, false));
    for (size_t i = 0; i < sets_.size() && sets_.size() <= kMaxDfaStates && work_ <= kMaxSubsetWork; ++i) {
      const std::vector<int32_t> set = sets_[i];
      CodePointDfa::State state;
      if (contains(set, accept_) || contains(closure(set, i == 0, true), accept_)) state.label = 0;
      add_edges(set, state);
      dfa_.states.push_back(std::move(state));
    }
    if (sets_.size() > kMaxDfaStates || work_ > kMaxSubsetWork) {
      return Error{ErrorCode::kUnsupported, "the pattern needs too many states"};
    }
    return trimmed(dfa_);
  }

 private:
  static bool contains(const std::vector<int32_t>& set, int32_t x) {
    return std::binary_search(set.begin(), set.end(), x);
  }

  // Everything reached without reading, ascending; only the accepting state if that is reached.
  std::vector<int32_t> closure(std::vector<int32_t> from, bool at_begin, bool at_end) {
    std::vector<int32_t> reached;
    const auto visit = [&](int32_t s) {
      if (s < 0 || seen_[static_cast<size_t>(s)]) return;
      seen_[static_cast<size_t>(s)] = true;
      reached.push_back(s);
    };
    for (int32_t s : from) visit(s);
    for (size_t i = 0; i < reached.size(); ++i) {
      const NfaState& state = nfa_[reached[i]];
      for (int32_t s : state.free) visit(s);
      if (at_begin) visit(state.at_begin);
      if (at_end) visit(state.at_end);
    }
    for (int32_t s : reached) seen_[static_cast<size_t>(s)] = false;
    work_ += reached.size();
    std::sort(reached.begin(), reached.end());
    if (contains(reached, accept_)) return {accept_};
    // States that neither read nor end the text do not tell sets apart.
    std::erase_if(reached, [&](int32_t s) { return nfa_[s].to < 0 && nfa_[s].at_end < 0; });
    return reached;
  }

  int32_t id_of(std::vector<int32_t> set) {
    const auto [at, added] = ids_.try_emplace(std::move(set), static_cast<int32_t>(sets_.size()));
    if (added) sets_.push_back(at->first);
    return at->second;
  }

  void add_edges(const std::vector<int32_t>& set, CodePointDfa::State& state) {
    std::vector<uint32_t> cuts;  // where the set of followers may change
    for (int32_t s : set) {
      for (const CodePointRange& r : nfa_[s].set) {
        cuts.push_back(r.lo);
        cuts.push_back(r.hi + 1);
      }
    }
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    work_ += set.size() * (cuts.size() + 1);
    if (work_ > kMaxSubsetWork) return;
    std::vector<std::vector<int32_t>> followers(cuts.size());
    const auto place = [&](uint32_t c) {
      return static_cast<size_t>(std::lower_bound(cuts.begin(), cuts.end(), c) - cuts.begin());
    };
    for (int32_t s : set) {
      for (const CodePointRange& r : nfa_[s].set) {
        for (size_t i = place(r.lo); i < place(r.hi + 1); ++i) followers[i].push_back(nfa_[s].to);
      }
    }
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      if (followers[i].empty()) continue;
      const int32_t to = id_of(closure(std::move(followers[i]), false, false));
      state.edges.push_back({cuts[i], cuts[i + 1] - 1, to});
    }
  }

  Nfa& nfa_;
  int32_t accept_;
  std::vector<bool> seen_;
  std::map<std::vector<int32_t>, int32_t> ids_;
  std::vector<std::vector<int32_t>> sets_;
  CodePointDfa dfa_;
  size_t work_ = 0;
};

}  // namespace

Result<CodePointDfa> pattern_dfa(std::string_view pattern) {
  KVASIR_TRY(const PatternNode tree, parse_pattern(pattern));
  Nfa nfa;
  const int32_t accept = nfa.make({.free = {}, .set = any_code_point()});
  nfa[accept].to = accept;
  const int32_t match = nfa.add(tree, accept);
  const int32_t start = match < 0 ? -1 : nfa.make({.free = {match}, .set = any_code_point()});
  if (start < 0) return Error{ErrorCode::kUnsupported, "the pattern is too large"};
  nfa[start].to = start;
  return SubsetBuilder(nfa, accept).build(start);
}

}  // namespace kvasir
