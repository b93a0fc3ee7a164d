// StackMachine: runs a grammar one symbol at a time.
//
// A text so far is a few configurations (more than one only while alternatives have not parted): a frame,
// which is where the text is in one rule, on a stack of frames that wait for it. Stacks share their tails and
// equal stacks have equal numbers, so a stack is compared, copied and remembered as one integer.
//
// White space in JSON, bounded so that no text goes on for ever: after '{', '[', ',', ':' and before '}' and
// ']' there may be one blank, or one line end with up to 64 blanks or tabs; nowhere else. One per text; not
// for use by two threads at once.
#pragma once

#include <cstdint>
#include <vector>

#include "grammar/grammar.h"
#include "grammar/vocabulary.h"

namespace kvasir {

struct Frame {
  enum class Kind : uint8_t { kDfa, kCounted, kObject, kArray, kParameters, kBlock };

  Kind kind = Kind::kDfa;
  uint8_t phase = 0;
  uint8_t room = 0;  // levels that may still open; at 0 only what ends soonest is taken
  uint32_t rule = 0;
  int32_t state = 0;   // of the automaton, or the place in a fixed text
  uint32_t count = 0;  // characters, items, or calls
  uint32_t blank = 0;  // white space so far: 0 none, 1 a blank, 2 and up a line end and indentation
  PropertySet seen = {};

  bool operator==(const Frame&) const = default;
};

uint32_t hash_of(const Frame& frame, int32_t below);

class StackMachine {
 public:
  static constexpr int32_t kBottom = -1;  // below the last frame: the text may end
  static constexpr int32_t kOpen = -2;    // what waits is unknown: for masks that fit every stack

  struct Config {
    Frame top;
    int32_t below = kBottom;

    bool operator==(const Config&) const = default;
  };

  explicit StackMachine(const Grammar& grammar);

  enum class Start {
    kText,        // the whole text: a value or a block, as the grammar says
    kOpenedBlock  // a block whose "<｜DSML｜" is already there
  };
  std::vector<Config> start(Start where);
  // Appends what `config` becomes after `symbol`: nothing if it cannot follow.
  void step(const Config& config, Symbol symbol, std::vector<Config>& out);
  // The frame has all it needs, so what is below it may go on.
  bool is_complete(const Frame& frame) const;
  // The frame is inside a key that need not be a property's. What tokens stay inside it does not depend on
  // the frame then, only on the state of the key's automaton.
  bool is_free_key(const Frame& frame) const;
  const ObjectRule& object_of(const Frame& frame) const { return grammar_.objects[frame.rule]; }
  // A frame inside a key after the key has come to `state`: false if no such key is left.
  bool move_key(Frame& frame, int32_t state) const;
  // The configuration of what waits at `stack`, which is neither kBottom nor kOpen.
  Config waiting(int32_t stack) const;

  // Stacks made after mark() are forgotten by rewind().
  size_t mark() const { return nodes_.size(); }
  void rewind(size_t mark);
  // Forgets every stack but those of `configs`, which are renumbered.
  void compact(std::vector<Config>& configs);

 private:
  struct Node {
    Frame frame;
    int32_t below;
    int32_t next;  // with the same hash
    uint32_t hash;
  };

  int32_t push(const Frame& frame, int32_t below);
  int32_t move(const std::vector<Node>& from, int32_t stack);
  void enter(uint32_t value, uint8_t room, int32_t below, std::vector<Config>& out);
  // The beginning of a value, after which `next` goes on.
  void enter_value(uint32_t value, const Frame& next, int32_t below, std::vector<Config>& out);
  void enter_member(Frame frame, int32_t below, std::vector<Config>& out);
  void enter_item(Frame frame, int32_t below, std::vector<Config>& out);
  void enter_parameter(Frame frame, bool raw, int32_t below, std::vector<Config>& out);

  void step_dfa(const Config& c, Symbol symbol, std::vector<Config>& out);
  void step_counted(const Config& c, Symbol symbol, std::vector<Config>& out);
  void step_object(const Config& c, Symbol symbol, std::vector<Config>& out);
  void step_array(const Config& c, Symbol symbol, std::vector<Config>& out);
  void step_parameters(const Config& c, Symbol symbol, std::vector<Config>& out);
  void step_block(const Config& c, Symbol symbol, std::vector<Config>& out);
  bool step_key(Frame& frame, Symbol symbol) const;
  static Frame opened_block();
  bool is_block_complete(const Frame& frame) const;
  static bool is_parameter_key(const Frame& frame);
  static void end_parameter_key(Frame& frame, int32_t label);

  struct Keys {
    PropertySet properties;
    bool other = false;

    bool none() const { return !other && properties.empty(); }
  };
  Keys keys_left(const Frame& frame, const ObjectRule& rule) const;
  bool can_close(const Frame& frame, const ObjectRule& rule) const;

  const Grammar& grammar_;
  std::vector<Node> nodes_;
  std::vector<int32_t> buckets_;
};

}  // namespace kvasir
