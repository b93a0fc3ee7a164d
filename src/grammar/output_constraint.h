// OutputConstraint: what the engine may sample in one completion, from the prompt's end to the end token.
//
//                </think>             "<" then ｜DSML｜
//   reasoning ───────────► text ─────────────────────────► grammar ──► end token
//       │                  (tools offered, choice is free)     ▲
//       └──────────────────────────────────────────────────────┘
//             a format or a tool call is demanded
//
// Reasoning is free text, tool blocks in it included (PAR-4), but cannot end the completion while something
// is demanded. In text ｜DSML｜ may stand only after '<', where it opens a block (PAR-9). Inside the grammar
// every added token but ｜DSML｜ is banned. Where no tools are offered ｜DSML｜ is banned everywhere. One per
// completion, used by the engine thread. Source: protocol.md 2.1 (block C), 3, THK-4, ENC-10.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/token_constraint.h"
#include "grammar/compile_grammar.h"
#include "grammar/grammar_cache.h"
#include "grammar/grammar_matcher.h"

namespace kvasir {

// What a request wants of a completion, in neutral words.
struct OutputRequest {
  enum class ToolUse {
    kNone,  // no tools, or tool_choice none
    kAuto,
    kRequired,  // at least one call, straight after the reasoning
    kNamed,     // the same, of `named_tool` only
  };

  ToolUse tool_use = ToolUse::kNone;
  std::string named_tool;
  std::vector<GrammarTool> tools;
  bool parallel_calls = true;
  // kNone: any text. A format binds the text, not tool calls; with kRequired and kNamed there is no text.
  GrammarRequest::Content format = GrammarRequest::Content::kNone;
  JsonValue schema;
  std::string schema_path;
};

// The same for every completion of a request. Immutable.
struct OutputPlan {
  enum class Mode {
    kNoTools,  // any text without tool blocks
    kAuto,     // any text, then perhaps a block of the grammar
    kGrammar,  // what the grammar says
  };

  Mode mode = Mode::kNoTools;
  SharedGrammar grammar;  // null with kNoTools

  // What was asked for and is not enforced, with its place; for the log.
  const std::vector<std::string>& weakened() const;
};

// kInvalid, kUnsupported: the place in the request and what is wrong there. kNotFound: no tool of that name.
Result<OutputPlan> plan_output(const OutputRequest& request, GrammarCache& grammars);

class OutputConstraint final : public TokenConstraint {
 public:
  // `in_reasoning`: the prompt ends with <think>. `begun`: text of the answer that the prompt already holds
  // (prefix completion); kInvalid if it cannot be the beginning of what the plan allows.
  static Result<std::unique_ptr<OutputConstraint>> make(OutputPlan plan, std::shared_ptr<MaskCache> cache,
                                                        bool in_reasoning, std::string_view begun = {});

  bool restrict(std::span<uint32_t> mask) override;
  int32_t only_ban() const override;
  void accept(int32_t token) override;

  // A token came that was not allowed (tokens can be forced, see Request::script); nothing is constrained
  // since.
  bool derailed() const { return state_ == State::kDerailed; }
  // The text is under the grammar now.
  bool in_grammar() const { return state_ == State::kGrammar; }

 private:
  enum class State { kReasoning, kText, kGrammar, kEnded, kDerailed };

  OutputConstraint(OutputPlan plan, std::shared_ptr<MaskCache> cache);
  void begin_answer();

  const OutputPlan plan_;
  const std::shared_ptr<MaskCache> cache_;
  State state_ = State::kText;
  bool after_less_ = false;  // kText: the last byte is '<'
  std::optional<GrammarMatcher> matcher_;
};

}  // namespace kvasir
