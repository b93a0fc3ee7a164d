// Frames of a tool block, exactly as the chat template renders it (protocol.md 2.1, block C):
//
//   \n\n<｜DSML｜tool_calls>\n
//   <｜DSML｜invoke name="NAME">\n
//   <｜DSML｜parameter name="KEY" string="true">RAW</｜DSML｜parameter>\n      or string="false" and JSON
//   </｜DSML｜invoke>\n                                                      after no parameter: \n first
//   </｜DSML｜tool_calls>
//
// Where two fixed texts may follow, both are tried; the special token or the letter after it tells them
// apart.
#include <string_view>

#include "grammar/stack_machine.h"

namespace kvasir {
namespace {

using Config = StackMachine::Config;

constexpr uint8_t kRoom = 64;  // levels of JSON in a value, as for a JSON text

enum BlockPhase : uint8_t {
  kHead,
  kInvoke,
  kToolName,
  kToolNameEnd,
  kBeforeParameters,
  kNextInvoke,
  kCloseBlock,
  kBlockDone
};
enum ParametersPhase : uint8_t {
  kFirst,
  kEmptyClose,
  kOpenParameter,
  kKey,
  kIsString,
  kTrue,
  kFalse,
  kValue,
  kCloseParameter,
  kNext,
  kCloseInvoke,
  kDone
};

constexpr size_t kOpenedAt = 4;  // symbols of the head that "<｜DSML｜" ends

// '@' stands for ｜DSML｜; none of the texts holds one.
std::string_view block_text(uint8_t phase) {
  switch (phase) {
    case kHead:
      return "\n\n<@tool_calls>\n";
    case kInvoke:
      return "<@invoke name=\"";
    case kToolNameEnd:
      return ">\n";
    case kCloseBlock:
      return "</@tool_calls>";
    default:
      return {};
  }
}

std::string_view parameters_text(uint8_t phase) {
  switch (phase) {
    case kEmptyClose:
      return "\n</@invoke>\n";
    case kOpenParameter:
      return "<@parameter name=\"";
    case kTrue:
      return " string=\"true\">";
    case kFalse:
      return " string=\"false\">";
    case kCloseParameter:
      return "</@parameter>\n";
    case kCloseInvoke:
      return "</@invoke>\n";
    default:
      return {};
  }
}

// One symbol of a fixed text, after whose last `next` begins.
void step_fixed(const Config& c, std::string_view text, Symbol symbol, uint8_t phase, uint8_t next,
                std::vector<Config>& out) {
  const auto at = static_cast<size_t>(c.top.state);
  const Symbol wanted = text[at] == '@' ? kDsmlSymbol : static_cast<uint8_t>(text[at]);
  if (symbol != wanted) return;
  out.push_back(c);
  Frame& f = out.back().top;
  const bool last = at + 1 == text.size();
  f.phase = last ? next : phase;
  f.state = last ? 0 : static_cast<int32_t>(at) + 1;
}

}  // namespace

Frame StackMachine::opened_block() {
  return {
      .kind = Frame::Kind::kBlock, .phase = kHead, .room = kRoom, .state = static_cast<int32_t>(kOpenedAt)};
}

bool StackMachine::is_block_complete(const Frame& f) const {
  return f.phase == (f.kind == Frame::Kind::kBlock ? uint8_t{kBlockDone} : uint8_t{kDone});
}

bool StackMachine::is_parameter_key(const Frame& f) {
  return f.kind == Frame::Kind::kParameters && f.phase == kKey;
}

void StackMachine::end_parameter_key(Frame& f, int32_t label) {
  f.count = static_cast<uint32_t>(label);
  f.phase = kIsString;
  f.state = 0;
}

// After the opening tag, whose end says of which form the value is.
void StackMachine::enter_parameter(Frame f, bool raw, int32_t below, std::vector<Config>& out) {
  const ObjectRule::Value& value = object_of(f).values[f.count];
  f.phase = kCloseParameter;
  f.count = 0;
  enter_value(raw ? value.raw : value.json, f, below, out);
}

void StackMachine::step_block(const Config& c, Symbol symbol, std::vector<Config>& out) {
  const BlockRule& rule = grammar_.block;
  switch (c.top.phase) {
    case kHead:
      return step_fixed(c, block_text(kHead), symbol, kHead, kInvoke, out);
    case kInvoke:
      return step_fixed(c, block_text(kInvoke), symbol, kInvoke, kToolName, out);
    case kToolName: {
      if (symbol > 255) return;
      const int32_t to = rule.tool_names->next(c.top.state, static_cast<uint8_t>(symbol));
      if (to == ByteDfa::kNone) return;
      out.push_back(c);
      Frame& f = out.back().top;
      f.state = to;
      if (!rule.tool_names->accepts(to)) return;
      f.count = static_cast<uint32_t>(rule.tool_names->label(to));
      f.phase = kToolNameEnd;
      f.state = 0;
      return;
    }
    case kToolNameEnd:
      return step_fixed(c, block_text(kToolNameEnd), symbol, kToolNameEnd, kBeforeParameters, out);
    case kBeforeParameters: {
      Frame next = c.top;
      next.phase = kNextInvoke;
      next.count = 0;
      const int32_t stack = push(next, c.below);
      for (uint32_t object : rule.tools[c.top.count]) {
        step({{.kind = Frame::Kind::kParameters, .phase = kFirst, .room = c.top.room, .rule = object}, stack},
             symbol, out);
      }
      return;
    }
    case kNextInvoke:
      if (!rule.one_call) step_fixed(c, block_text(kInvoke), symbol, kInvoke, kToolName, out);
      return step_fixed(c, block_text(kCloseBlock), symbol, kCloseBlock, kBlockDone, out);
    case kCloseBlock:
      return step_fixed(c, block_text(kCloseBlock), symbol, kCloseBlock, kBlockDone, out);
    default:
      return;
  }
}

void StackMachine::step_parameters(const Config& c, Symbol symbol, std::vector<Config>& out) {
  const ObjectRule& rule = grammar_.objects[c.top.rule];
  const auto fixed = [&](ParametersPhase phase, ParametersPhase next) {
    step_fixed(c, parameters_text(phase), symbol, phase, next, out);
  };
  // The last symbol of an opening tag begins the value.
  const auto open_value = [&](ParametersPhase phase) {
    const size_t before = out.size();
    fixed(phase, kValue);
    if (out.size() == before || out.back().top.phase != kValue) return;
    const Frame f = out.back().top;
    out.pop_back();
    enter_parameter(f, phase == kTrue, c.below, out);
  };
  switch (c.top.phase) {
    case kFirst:
    case kNext:
      if (!keys_left(c.top, rule).none()) fixed(kOpenParameter, kKey);
      if (!can_close(c.top, rule)) return;
      return c.top.phase == kFirst ? fixed(kEmptyClose, kDone) : fixed(kCloseInvoke, kDone);
    case kOpenParameter:
      return fixed(kOpenParameter, kKey);
    case kKey: {
      Frame f = c.top;
      if (step_key(f, symbol)) out.push_back({f, c.below});
      return;
    }
    case kIsString:
      if (rule.values[c.top.count].raw != kNoNode) fixed(kTrue, kValue);
      if (rule.values[c.top.count].json != kNoNode) fixed(kFalse, kValue);
      return;
    case kTrue:
      return open_value(kTrue);
    case kFalse:
      return open_value(kFalse);
    case kCloseParameter:
      return fixed(kCloseParameter, kNext);
    case kEmptyClose:
      return fixed(kEmptyClose, kDone);
    case kCloseInvoke:
      return fixed(kCloseInvoke, kDone);
    default:
      return;
  }
}

}  // namespace kvasir
