#include "grammar/code_point_dfa.h"

#include <algorithm>
#include <map>
#include <utility>

namespace kvasir {

CodePointSet normalized(CodePointSet ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const auto& a, const auto& b) { return a.lo < b.lo; });
  CodePointSet out;
  const auto add = [&](uint32_t lo, uint32_t hi) {
    if (lo > hi) return;
    if (!out.empty() && lo <= out.back().hi + 1) {
      out.back().hi = std::max(out.back().hi, hi);
    } else {
      out.push_back({lo, hi});
    }
  };
  for (const CodePointRange& r : ranges) {
    add(r.lo, std::min(r.hi, 0xd7ffu));
    add(std::max(r.lo, 0xe000u), std::min(r.hi, kMaxCodePoint));
  }
  return out;
}

CodePointSet complement(const CodePointSet& set) {
  CodePointSet out;
  uint32_t from = 0;
  for (const CodePointRange& r : set) {
    if (r.lo > from) out.push_back({from, r.lo - 1});
    from = r.hi + 1;
  }
  if (from <= kMaxCodePoint) out.push_back({from, kMaxCodePoint});
  return normalized(std::move(out));
}

uint32_t next_code_point(std::string_view text, size_t& at) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : 0u; };
  const uint32_t lead = byte(at);
  const size_t bytes = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  uint32_t c = bytes == 1 ? lead : lead & (0xffu >> (bytes + 1));
  for (size_t i = 1; i < bytes; ++i) c = c << 6 | (byte(at + i) & 63);
  at += bytes;
  return c;
}

size_t count_code_points(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

int32_t CodePointDfa::next(int32_t state, uint32_t c) const {
  const auto& edges = states[static_cast<size_t>(state)].edges;
  const auto after =
      std::upper_bound(edges.begin(), edges.end(), c, [](uint32_t x, const Edge& e) { return x < e.lo; });
  if (after == edges.begin() || std::prev(after)->hi < c) return kNone;
  return std::prev(after)->to;
}

int32_t CodePointDfa::label_of(std::string_view text) const {
  if (states.empty()) return kNone;
  int32_t state = 0;
  for (size_t at = 0; at < text.size() && state != kNone;) state = next(state, next_code_point(text, at));
  return state == kNone ? kNone : states[static_cast<size_t>(state)].label;
}

CodePointDfa text_of_length(uint32_t min, uint32_t max) {
  CodePointDfa out;
  if (min > max) return out;
  const uint32_t last = max == kUnbounded ? min : max;
  for (uint32_t i = 0; i <= last; ++i) {
    CodePointDfa::State& state = out.states.emplace_back();
    state.label = i >= min ? 0 : CodePointDfa::kNone;
    if (i == max) break;
    for (const CodePointRange& r : any_code_point()) {
      state.edges.push_back({r.lo, r.hi, static_cast<int32_t>(std::min(i + 1, last))});
    }
  }
  return out;
}

namespace {

// The edges of a state whose characters outside `edges` (single ones, ascending) lead to `rest`.
std::vector<CodePointDfa::Edge> with_rest(const std::map<uint32_t, int32_t>& edges, int32_t rest) {
  std::vector<CodePointDfa::Edge> out;
  for (const CodePointRange& r : any_code_point()) {
    uint32_t from = r.lo;
    for (auto e = edges.lower_bound(r.lo); e != edges.end() && e->first <= r.hi; ++e) {
      if (e->first > from) out.push_back({from, e->first - 1, rest});
      out.push_back({e->first, e->first, e->second});
      from = e->first + 1;
    }
    if (from <= r.hi) out.push_back({from, r.hi, rest});
  }
  return out;
}

}  // namespace

CodePointDfa names_and_rest(const std::vector<std::string>& names) {
  const auto other = static_cast<int32_t>(names.size());
  std::vector<std::map<uint32_t, int32_t>> edges(2);  // state 0: start, state 1: no name any more
  std::vector<int32_t> labels = {other, other};
  for (size_t i = 0; i < names.size(); ++i) {
    int32_t state = 0;
    for (size_t at = 0; at < names[i].size();) {
      const uint32_t c = next_code_point(names[i], at);
      const auto fresh = static_cast<int32_t>(edges.size());
      const auto [edge, added] = edges[static_cast<size_t>(state)].try_emplace(c, fresh);
      state = edge->second;
      if (!added) continue;
      edges.emplace_back();
      labels.push_back(other);
    }
    labels[static_cast<size_t>(state)] = static_cast<int32_t>(i);
  }
  CodePointDfa out;
  for (size_t i = 0; i < edges.size(); ++i) out.states.push_back({with_rest(edges[i], 1), labels[i]});
  return out;
}

CodePointDfa completed(const CodePointDfa& dfa) {
  CodePointDfa out;
  const auto sink = static_cast<int32_t>(dfa.states.size());
  for (const auto& state : dfa.states) {
    CodePointDfa::State& full = out.states.emplace_back();
    full.label = state.label == CodePointDfa::kNone ? 1 : 0;
    size_t e = 0;
    for (const CodePointRange& r : any_code_point()) {
      uint32_t from = r.lo;
      for (; e < state.edges.size() && state.edges[e].lo <= r.hi; ++e) {
        if (state.edges[e].lo > from) full.edges.push_back({from, state.edges[e].lo - 1, sink});
        full.edges.push_back(state.edges[e]);
        from = state.edges[e].hi + 1;
      }
      if (from <= r.hi) full.edges.push_back({from, r.hi, sink});
    }
  }
  out.states.push_back({with_rest({}, sink), 1});
  return out;
}

Result<CodePointDfa> intersect(const CodePointDfa& a, const CodePointDfa& b, const JoinLabels& join,
                               size_t max_states) {
  CodePointDfa out;
  if (a.states.empty() || b.states.empty()) return out;
  std::map<std::pair<int32_t, int32_t>, int32_t> ids;
  std::vector<std::pair<int32_t, int32_t>> pairs;
  const auto id_of = [&](int32_t x, int32_t y) {
    const auto [at, added] = ids.try_emplace({x, y}, static_cast<int32_t>(pairs.size()));
    if (added) pairs.emplace_back(x, y);
    return at->second;
  };
  id_of(0, 0);
  for (size_t i = 0; i < pairs.size(); ++i) {
    if (pairs.size() > max_states) {
      return Error{ErrorCode::kUnsupported, "the constraints on a string need too many states together"};
    }
    const auto& x = a.states[static_cast<size_t>(pairs[i].first)];
    const auto& y = b.states[static_cast<size_t>(pairs[i].second)];
    CodePointDfa::State state;
    if (x.label != CodePointDfa::kNone && y.label != CodePointDfa::kNone)
      state.label = join(x.label, y.label);
    for (size_t p = 0, q = 0; p < x.edges.size() && q < y.edges.size();) {
      const uint32_t lo = std::max(x.edges[p].lo, y.edges[q].lo);
      const uint32_t hi = std::min(x.edges[p].hi, y.edges[q].hi);
      if (lo <= hi) state.edges.push_back({lo, hi, id_of(x.edges[p].to, y.edges[q].to)});
      x.edges[p].hi < y.edges[q].hi ? ++p : ++q;
    }
    out.states.push_back(std::move(state));
  }
  return trimmed(out);
}

CodePointDfa trimmed(const CodePointDfa& dfa) {
  const size_t n = dfa.states.size();
  std::vector<std::vector<int32_t>> from(n);
  std::vector<int32_t> useful;
  std::vector<bool> is_useful(n);
  for (size_t i = 0; i < n; ++i) {
    for (const auto& e : dfa.states[i].edges)
      from[static_cast<size_t>(e.to)].push_back(static_cast<int32_t>(i));
    if (dfa.states[i].label == CodePointDfa::kNone) continue;
    is_useful[i] = true;
    useful.push_back(static_cast<int32_t>(i));
  }
  for (size_t i = 0; i < useful.size(); ++i) {
    for (int32_t before : from[static_cast<size_t>(useful[i])]) {
      if (is_useful[static_cast<size_t>(before)]) continue;
      is_useful[static_cast<size_t>(before)] = true;
      useful.push_back(before);
    }
  }
  CodePointDfa out;
  if (n == 0 || !is_useful[0]) return out;
  std::vector<int32_t> renamed(n, CodePointDfa::kNone);
  for (size_t i = 0, next = 0; i < n; ++i) {
    if (is_useful[i]) renamed[i] = static_cast<int32_t>(next++);
  }
  for (size_t i = 0; i < n; ++i) {
    if (!is_useful[i]) continue;
    CodePointDfa::State state{{}, dfa.states[i].label};
    for (const auto& e : dfa.states[i].edges) {
      if (!is_useful[static_cast<size_t>(e.to)]) continue;
      const int32_t to = renamed[static_cast<size_t>(e.to)];
      if (!state.edges.empty() && state.edges.back().to == to && state.edges.back().hi + 1 == e.lo) {
        state.edges.back().hi = e.hi;
      } else {
        state.edges.push_back({e.lo, e.hi, to});
      }
    }
    out.states.push_back(std::move(state));
  }
  return out;
}

}  // namespace kvasir
