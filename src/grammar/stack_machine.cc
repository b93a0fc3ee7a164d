// Frames of automata, objects and arrays, and the stacks below them. Tool blocks are in block_machine.cc.
//
// A frame is popped late: when it is complete and a symbol comes that it cannot take, or also can, the symbol
// is offered to what waits below as well. So "12" needs no look-ahead to know whether the number goes on. A
// value is entered early, as soon as it may begin, so that its frame is on top and its mask is found under
// its own name.
#include "grammar/stack_machine.h"

namespace kvasir {
namespace {

using Config = StackMachine::Config;

constexpr uint8_t kRoom = 64;  // levels; what must still come after them fits into JsonValue's limit
constexpr uint32_t kMaxIndent = 64;
constexpr size_t kBuckets = 4096;  // a power of two

// Arrays have no keys and skip those phases.
enum ObjectPhase : uint8_t { kOpening, kFirst, kKey, kColon, kBeforeValue, kAfterValue, kAfterComma, kDone };

// One more symbol of white space, or false.
bool take_blank(uint32_t& blank, Symbol symbol) {
  if (blank == 0 && symbol == ' ') {
    blank = 1;
  } else if (blank == 0 && symbol == '\n') {
    blank = 2;
  } else if (blank >= 2 && blank < 2 + kMaxIndent && (symbol == ' ' || symbol == '\t')) {
    ++blank;
  } else {
    return false;
  }
  return true;
}

}  // namespace

uint32_t hash_of(const Frame& f, int32_t below) {
  uint64_t h = 0x9e3779b97f4a7c15;
  const auto mix = [&](uint64_t x) {
    h = (h ^ x) * 0xff51afd7ed558ccd;
    h ^= h >> 32;
  };
  mix(static_cast<uint64_t>(f.kind) << 32 | static_cast<uint64_t>(f.phase) << 8 | f.room);
  mix(static_cast<uint64_t>(f.rule) << 32 | static_cast<uint32_t>(f.state));
  mix(static_cast<uint64_t>(f.count) << 32 | f.blank);
  for (uint64_t word : f.seen.words) mix(word);
  mix(static_cast<uint32_t>(below));
  return static_cast<uint32_t>(h);
}

StackMachine::StackMachine(const Grammar& grammar) : grammar_(grammar), buckets_(kBuckets, kBottom) {}

std::vector<Config> StackMachine::start(Start where) {
  std::vector<Config> out;
  if (where == Start::kOpenedBlock) {
    out.push_back({opened_block(), kBottom});
    return out;
  }
  if (grammar_.start.value != kNoNode) enter(grammar_.start.value, kRoom, kBottom, out);
  if (grammar_.start.block) out.push_back({{.kind = Frame::Kind::kBlock, .room = kRoom}, kBottom});
  return out;
}

int32_t StackMachine::push(const Frame& frame, int32_t below) {
  const uint32_t hash = hash_of(frame, below);
  int32_t& bucket = buckets_[hash % kBuckets];
  for (int32_t i = bucket; i >= 0; i = nodes_[static_cast<size_t>(i)].next) {
    const Node& node = nodes_[static_cast<size_t>(i)];
    if (node.hash == hash && node.below == below && node.frame == frame) return i;
  }
  nodes_.push_back({frame, below, bucket, hash});
  bucket = static_cast<int32_t>(nodes_.size()) - 1;
  return bucket;
}

StackMachine::Config StackMachine::waiting(int32_t stack) const {
  const Node& node = nodes_[static_cast<size_t>(stack)];
  return {node.frame, node.below};
}

void StackMachine::rewind(size_t mark) {
  while (nodes_.size() > mark) {  // the newest of a bucket is always its first
    buckets_[nodes_.back().hash % kBuckets] = nodes_.back().next;
    nodes_.pop_back();
  }
}

void StackMachine::compact(std::vector<Config>& configs) {
  const std::vector<Node> old = std::move(nodes_);
  nodes_.clear();
  buckets_.assign(kBuckets, kBottom);
  for (Config& c : configs) c.below = move(old, c.below);
}

int32_t StackMachine::move(const std::vector<Node>& from, int32_t stack) {
  if (stack < 0) return stack;
  const Node& node = from[static_cast<size_t>(stack)];
  return push(node.frame, move(from, node.below));  // as deep as the text's nesting
}

bool StackMachine::is_complete(const Frame& f) const {
  switch (f.kind) {
    case Frame::Kind::kDfa:
      return grammar_.dfas[f.rule]->accepts(f.state);
    case Frame::Kind::kCounted: {
      const CountedRule& rule = grammar_.counted[f.rule];
      return rule.dfa->accepts(f.state) && f.count >= rule.min;
    }
    case Frame::Kind::kObject:
    case Frame::Kind::kArray:
      return f.phase == kDone;
    case Frame::Kind::kParameters:
    case Frame::Kind::kBlock:
      return is_block_complete(f);
  }
  return false;
}

void StackMachine::step(const Config& c, Symbol symbol, std::vector<Config>& out) {
  switch (c.top.kind) {
    case Frame::Kind::kDfa:
      step_dfa(c, symbol, out);
      break;
    case Frame::Kind::kCounted:
      step_counted(c, symbol, out);
      break;
    case Frame::Kind::kObject:
      step_object(c, symbol, out);
      break;
    case Frame::Kind::kArray:
      step_array(c, symbol, out);
      break;
    case Frame::Kind::kParameters:
      step_parameters(c, symbol, out);
      break;
    case Frame::Kind::kBlock:
      step_block(c, symbol, out);
      break;
  }
  if (c.below >= 0 && is_complete(c.top)) step(waiting(c.below), symbol, out);
}

// Adds the value's alternatives, none of which has taken a symbol yet.
void StackMachine::enter(uint32_t value, uint8_t room, int32_t below, std::vector<Config>& out) {
  const ValueRule& rule = grammar_.values[value];
  Frame frame;
  frame.room = room;
  for (const Alternative& a : rule.alternatives) {
    if (room == 0 && a.height != rule.height) continue;
    frame.rule = a.index;
    switch (a.kind) {
      case Alternative::Kind::kDfa:
        frame.kind = Frame::Kind::kDfa;
        break;
      case Alternative::Kind::kCounted:
        frame.kind = Frame::Kind::kCounted;
        break;
      case Alternative::Kind::kObject:
        frame.kind = Frame::Kind::kObject;
        break;
      case Alternative::Kind::kArray:
        frame.kind = Frame::Kind::kArray;
        break;
    }
    out.push_back({frame, below});
  }
}

void StackMachine::enter_value(uint32_t value, const Frame& next, int32_t below, std::vector<Config>& out) {
  enter(value, static_cast<uint8_t>(next.room > 0 ? next.room - 1 : 0), push(next, below), out);
}

void StackMachine::step_dfa(const Config& c, Symbol symbol, std::vector<Config>& out) {
  if (symbol > 255) return;
  const int32_t to = grammar_.dfas[c.top.rule]->next(c.top.state, static_cast<uint8_t>(symbol));
  if (to == ByteDfa::kNone) return;
  out.push_back(c);
  out.back().top.state = to;
}

void StackMachine::step_counted(const Config& c, Symbol symbol, std::vector<Config>& out) {
  if (symbol > 255) return;
  Frame f = c.top;
  const CountedRule& rule = grammar_.counted[f.rule];
  const int32_t to = rule.dfa->next(f.state, static_cast<uint8_t>(symbol));
  if (to == ByteDfa::kNone) return;
  if (f.state == rule.body) {
    const bool ends = to != rule.body && rule.dfa->accepts(to);
    if (ends ? f.count < rule.min : f.count >= rule.max) return;
  }
  const bool opened = f.state == 0 && rule.body != 0;  // the opening quote is no character
  if (to == rule.body && !opened && (rule.max != UINT32_MAX || f.count < rule.min)) ++f.count;
  f.state = to;
  out.push_back({f, c.below});
}

StackMachine::Keys StackMachine::keys_left(const Frame& frame, const ObjectRule& rule) const {
  const PropertySet required = rule.required.without(frame.seen);
  const size_t seen = frame.seen.count(), missing = required.count();
  if (seen + missing >= rule.max_properties) return {required, false};
  if (frame.room == 0 && seen + missing >= rule.min_properties) return {required, false};
  return {rule.properties.without(frame.seen), rule.takes_other};
}

bool StackMachine::can_close(const Frame& frame, const ObjectRule& rule) const {
  return rule.required.without(frame.seen).empty() && frame.seen.count() >= rule.min_properties;
}

bool StackMachine::is_free_key(const Frame& f) const {
  const bool in_key = f.kind == Frame::Kind::kObject ? f.phase == kKey : is_parameter_key(f);
  if (!in_key) return false;
  const ObjectRule& rule = object_of(f);
  return rule.takes_other && rule.reach[static_cast<size_t>(f.state)].other && keys_left(f, rule).other;
}

bool StackMachine::step_key(Frame& f, Symbol symbol) const {
  const SharedDfa& keys = object_of(f).keys;
  if (symbol > 255 || keys == nullptr) return false;
  const int32_t to = keys->next(f.state, static_cast<uint8_t>(symbol));
  return to != ByteDfa::kNone && move_key(f, to);
}

bool StackMachine::move_key(Frame& f, int32_t state) const {
  const ObjectRule& rule = object_of(f);
  const ObjectRule::Reach& reach = rule.reach[static_cast<size_t>(state)];
  const Keys left = keys_left(f, rule);
  if (!reach.properties.intersects(left.properties) && !(reach.other && left.other)) return false;
  f.state = state;
  if (!rule.keys->accepts(state)) return true;
  const int32_t label = rule.keys->label(state);  // the closing quote has come
  f.seen.add(static_cast<size_t>(label));
  if (f.kind == Frame::Kind::kParameters) {
    end_parameter_key(f, label);
  } else {
    f.state = label;
    f.phase = kColon;
  }
  return true;
}

// After ':': the value, or white space before it.
void StackMachine::enter_member(Frame f, int32_t below, std::vector<Config>& out) {
  out.push_back({f, below});
  const uint32_t value = object_of(f).values[static_cast<size_t>(f.state)].json;
  f.phase = kAfterValue;
  f.state = 0;
  f.blank = 0;
  enter_value(value, f, below, out);
}

// The next item of an array; white space before it is the caller's.
void StackMachine::enter_item(Frame f, int32_t below, std::vector<Config>& out) {
  const ArrayRule& rule = grammar_.arrays[f.rule];
  if (f.count >= rule.max || (f.room == 0 && f.count >= rule.min)) return;
  const uint32_t item = rule.item(f.count);
  // Beyond the last bound the number of items no longer matters, so equal places stay equal.
  if (rule.max != UINT32_MAX || f.count < rule.min || f.count < rule.prefix.size()) ++f.count;
  f.phase = kAfterValue;
  f.blank = 0;
  enter_value(item, f, below, out);
}

void StackMachine::step_object(const Config& c, Symbol symbol, std::vector<Config>& out) {
  const ObjectRule& rule = grammar_.objects[c.top.rule];
  Frame f = c.top;
  const auto go = [&](ObjectPhase phase) {
    f.phase = phase;
    f.blank = 0;
    out.push_back({f, c.below});
  };
  const auto stay = [&] { out.push_back({f, c.below}); };
  switch (f.phase) {
    case kOpening:
      if (symbol == '{') go(kFirst);
      return;
    case kFirst:
      if (symbol == '}' && can_close(f, rule)) return go(kDone);
      [[fallthrough]];
    case kAfterComma:
      if (symbol == '"' && !keys_left(f, rule).none()) return go(kKey);
      if (take_blank(f.blank, symbol)) stay();
      return;
    case kKey:
      if (step_key(f, symbol)) stay();
      return;
    case kColon:
      if (symbol != ':') return;
      f.phase = kBeforeValue;
      return enter_member(f, c.below, out);
    case kBeforeValue:
      if (take_blank(f.blank, symbol)) enter_member(f, c.below, out);
      return;
    case kAfterValue:
      if (symbol == ',' && f.blank == 0 && !keys_left(f, rule).none()) return go(kAfterComma);
      if (!can_close(f, rule)) return;
      if (symbol == '}') return go(kDone);
      if (take_blank(f.blank, symbol)) stay();
      return;
    default:
      return;
  }
}

void StackMachine::step_array(const Config& c, Symbol symbol, std::vector<Config>& out) {
  const ArrayRule& rule = grammar_.arrays[c.top.rule];
  Frame f = c.top;
  const bool can_end = f.count >= rule.min;
  const bool more = f.count < rule.max && (f.room > 0 || !can_end);
  const auto stay = [&](uint8_t phase) {
    f.phase = phase;
    out.push_back({f, c.below});
  };
  switch (f.phase) {
    case kOpening:
      if (symbol != '[') return;
      stay(kFirst);
      return enter_item(f, c.below, out);
    case kFirst:
      if (symbol == ']' && can_end) return stay(kDone);
      [[fallthrough]];
    case kAfterComma:
      if (!take_blank(f.blank, symbol)) return;
      stay(f.phase);
      return enter_item(f, c.below, out);
    case kAfterValue:
      if (symbol == ',' && f.blank == 0 && more) {
        stay(kAfterComma);
        return enter_item(f, c.below, out);
      }
      if (!can_end) return;
      if (symbol == ']') return stay(kDone);
      if (take_blank(f.blank, symbol)) stay(kAfterValue);
      return;
    default:
      return;
  }
}

}  // namespace kvasir
