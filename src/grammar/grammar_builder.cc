// Heights are a least fixpoint: a scalar has 0, an object or array one more than the highest child that it
// must have. What has none when nothing changes any more has no text at all.
#include "grammar/grammar_builder.h"

#include <fmt/core.h>

#include <algorithm>
#include <atomic>

namespace kvasir {
namespace {

// Beyond the depth where only the lowest alternatives are taken; leaves room below JsonValue's 256.
constexpr uint32_t kMaxHeight = 120;

// What may become of a key from each state on. States are settled backwards until nothing changes.
std::vector<ObjectRule::Reach> reach_of(const ByteDfa& keys, int32_t other) {
  const size_t n = keys.num_states();
  std::vector<ObjectRule::Reach> reach(n);
  std::vector<std::vector<int32_t>> from(n);
  std::vector<int32_t> changed;
  for (size_t i = 0; i < n; ++i) {
    const auto state = static_cast<int32_t>(i);
    for (int b = 0; b < 256; ++b) {
      const int32_t to = keys.next(state, static_cast<uint8_t>(b));
      auto* sources = to == ByteDfa::kNone ? nullptr : &from[static_cast<size_t>(to)];
      if (sources != nullptr && (sources->empty() || sources->back() != state)) sources->push_back(state);
    }
    if (!keys.accepts(state)) continue;
    if (keys.label(state) == other) {
      reach[i].other = true;
    } else {
      reach[i].properties.add(static_cast<size_t>(keys.label(state)));
    }
    changed.push_back(state);
  }
  while (!changed.empty()) {
    const ObjectRule::Reach have = reach[static_cast<size_t>(changed.back())];
    const std::vector<int32_t>& sources = from[static_cast<size_t>(changed.back())];
    changed.pop_back();
    for (int32_t source : sources) {
      ObjectRule::Reach& r = reach[static_cast<size_t>(source)];
      const PropertySet all = r.properties | have.properties;
      if (all == r.properties && (r.other || !have.other)) continue;
      r.properties = all;
      r.other = r.other || have.other;
      changed.push_back(source);
    }
  }
  return reach;
}

}  // namespace

GrammarBuilder::GrammarBuilder(SchemaLimits limits)
    : limits_(limits), grammar_(std::make_shared<Grammar>()) {}

Result<uint32_t> GrammarBuilder::add_value(const std::string& path) {
  if (grammar_->values.size() >= limits_.max_nodes) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("{}: the schema has more than {} different values", path, limits_.max_nodes)};
  }
  grammar_->values.push_back({{}, kNever});
  return static_cast<uint32_t>(grammar_->values.size()) - 1;
}

void GrammarBuilder::add_dfa(uint32_t value, SharedDfa dfa) {
  if (dfa == nullptr) return;
  dfa = shared(std::move(dfa));
  const auto [at, added] = dfa_ids_.try_emplace(dfa.get(), static_cast<uint32_t>(grammar_->dfas.size()));
  if (added) grammar_->dfas.push_back(std::move(dfa));
  grammar_->values[value].alternatives.push_back({Alternative::Kind::kDfa, at->second, 0});
}

SharedDfa GrammarBuilder::shared(SharedDfa dfa) {
  const size_t hash = dfa->content_hash();
  const auto [begin, end] = known_dfas_.equal_range(hash);
  for (auto known = begin; known != end; ++known) {
    if (known->second->same_as(*dfa)) return known->second;
  }
  known_dfas_.emplace(hash, dfa);
  return dfa;
}

Status GrammarBuilder::count_states(size_t states, const std::string& path) {
  states_ += states;
  if (states_ <= limits_.max_states) return {};
  return Error{ErrorCode::kUnsupported,
               fmt::format("{}: the schema needs more than {} states", path, limits_.max_states)};
}

Status GrammarBuilder::add_text(uint32_t value, const CodePointDfa& text, TextForm form,
                                const std::string& path) {
  auto dfa = spelled(text, form, limits_.max_text_states);
  if (!dfa) return Error{dfa.error().code, fmt::format("{}: {}", path, dfa.error().message)};
  if (*dfa == nullptr) return {};
  KVASIR_TRY_STATUS(count_states((*dfa)->num_states(), path));
  add_dfa(value, *std::move(dfa));
  return {};
}

void GrammarBuilder::add_counted(uint32_t value, CountedRule rule) {
  if (rule.min > rule.max) return;
  const auto index = static_cast<uint32_t>(grammar_->counted.size());
  grammar_->counted.push_back(std::move(rule));
  grammar_->values[value].alternatives.push_back({Alternative::Kind::kCounted, index, 0});
}

void GrammarBuilder::add_array(uint32_t value, ArrayRule rule) {
  const auto index = static_cast<uint32_t>(grammar_->arrays.size());
  grammar_->arrays.push_back(std::move(rule));
  grammar_->values[value].alternatives.push_back({Alternative::Kind::kArray, index, kNever});
}

void GrammarBuilder::add_object(uint32_t value, ObjectDraft draft) {
  const uint32_t index = add_parameters(std::move(draft));
  grammar_->values[value].alternatives.push_back({Alternative::Kind::kObject, index, kNever});
}

uint32_t GrammarBuilder::add_parameters(ObjectDraft draft) {
  drafts_.push_back(std::move(draft));
  heights_.push_back(kNever);
  return static_cast<uint32_t>(drafts_.size()) - 1;
}

uint32_t GrammarBuilder::height_of(const ObjectRule::Value& value) const {
  uint32_t height = kNever;
  for (uint32_t node : {value.json, value.raw}) {
    if (node != kNoNode) height = std::min(height, grammar_->values[node].height);
  }
  return height;
}

uint32_t GrammarBuilder::object_height(const ObjectDraft& draft) const {
  uint32_t highest = 0, count = 0, required = 0, highest_of_all = 0;
  for (const ObjectDraft::Property& p : draft.properties) {
    if (usable(p)) {
      ++count;
      highest_of_all = std::max(highest_of_all, height_of(p.value));
    } else if (p.required) {
      return kNever;
    }
    if (!p.required) continue;
    ++required;
    highest = std::max(highest, height_of(p.value));
  }
  if (height_of(draft.other) != kNever) {
    ++count;
    highest_of_all = std::max(highest_of_all, height_of(draft.other));
  }
  if (required > draft.max_properties) return kNever;
  if (required < draft.min_properties) {
    if (count < draft.min_properties) return kNever;
    highest = highest_of_all;  // whichever of them are chosen
  }
  return highest + 1;
}

uint32_t GrammarBuilder::array_height(const ArrayRule& rule) const {
  if (rule.min > rule.max) return kNever;
  uint32_t highest = 0;
  const uint32_t items = std::min(rule.min, static_cast<uint32_t>(rule.prefix.size()) + 1);
  for (uint32_t i = 0; i < items; ++i) {
    const uint32_t item = rule.item(i);
    const uint32_t height = item == kNoNode ? kNever : grammar_->values[item].height;
    if (height == kNever) return kNever;
    highest = std::max(highest, height);
  }
  return highest + 1;
}

// Rounds: in round h everything of height h or less is known, so there are as many as the greatest height.
void GrammarBuilder::settle() {
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = 0; i < drafts_.size(); ++i) {
      const uint32_t height = object_height(drafts_[i]);
      changed = changed || height < heights_[i];
      heights_[i] = std::min(heights_[i], height);
    }
    for (ValueRule& value : grammar_->values) {
      for (Alternative& a : value.alternatives) {
        if (a.kind == Alternative::Kind::kObject) a.height = heights_[a.index];
        if (a.kind == Alternative::Kind::kArray)
          a.height = std::min(a.height, array_height(grammar_->arrays[a.index]));
        changed = changed || a.height < value.height;
        value.height = std::min(value.height, a.height);
      }
    }
  }
}

Result<SharedGrammar> GrammarBuilder::finish() {
  static std::atomic<uint64_t> next_id = 1;
  settle();
  for (ValueRule& value : grammar_->values) {
    std::erase_if(value.alternatives, [](const Alternative& a) { return a.height == kNever; });
    if (value.height != kNever && value.height > kMaxHeight) {
      return Error{ErrorCode::kUnsupported,
                   fmt::format("the schema demands more than {} levels", kMaxHeight)};
    }
  }
  for (ArrayRule& rule : grammar_->arrays) finish_array(rule);
  grammar_->objects.resize(drafts_.size());
  for (uint32_t i = 0; i < drafts_.size(); ++i) {
    if (heights_[i] != kNever) KVASIR_TRY_STATUS(finish_object(i));
  }
  grammar_->id = next_id++;
  return SharedGrammar(grammar_);
}

// The first item that has no value ends the array.
void GrammarBuilder::finish_array(ArrayRule& rule) {
  const auto limit = std::min(rule.max, static_cast<uint32_t>(rule.prefix.size()) + 1);
  for (uint32_t i = 0; i < limit; ++i) {
    const uint32_t item = rule.item(i);
    if (item == kNoNode || !has_text(item)) rule.max = std::min(rule.max, i);
  }
}

Status GrammarBuilder::finish_object(uint32_t index) {
  const ObjectDraft& draft = drafts_[index];
  ObjectRule& rule = grammar_->objects[index];
  const auto drop_empty = [&](ObjectRule::Value value) {
    for (uint32_t* node : {&value.json, &value.raw}) {
      if (*node != kNoNode && !has_text(*node)) *node = kNoNode;
    }
    return value;
  };
  std::vector<std::string> names;
  for (size_t i = 0; i < draft.properties.size(); ++i) {
    const ObjectDraft::Property& p = draft.properties[i];
    names.push_back(p.name);
    rule.values.push_back(drop_empty(p.value));
    if (usable(p)) rule.properties.add(i);
    if (p.required) rule.required.add(i);
  }
  rule.takes_other = height_of(draft.other) != kNever;
  rule.values.push_back(drop_empty(draft.other));
  rule.min_properties = draft.min_properties;
  rule.max_properties = draft.max_properties;

  // Names of properties were checked one by one; only other keys still have to be of `other_names`.
  const auto num_names = static_cast<int32_t>(names.size());
  const auto keep = [&](int32_t name, int32_t not_allowed) {
    const bool kept = name == num_names ? rule.takes_other && not_allowed == 0
                                        : rule.properties.has(static_cast<size_t>(name));
    return kept ? name : CodePointDfa::kNone;
  };
  const CodePointDfa others =
      draft.other_names ? completed(*draft.other_names) : text_of_length(0, kUnbounded);
  auto keys = intersect(names_and_rest(names), others, keep, limits_.max_text_states);
  if (!keys) return Error{keys.error().code, fmt::format("{}: {}", draft.path, keys.error().message)};
  auto dfa = spelled(*keys, draft.form, limits_.max_text_states);
  if (!dfa) return Error{dfa.error().code, fmt::format("{}: {}", draft.path, dfa.error().message)};
  if (*dfa == nullptr) return {};
  rule.keys = shared(*std::move(dfa));
  KVASIR_TRY_STATUS(count_states(rule.keys->num_states(), draft.path));
  rule.reach = reach_of(*rule.keys, num_names);
  return {};
}

}  // namespace kvasir
