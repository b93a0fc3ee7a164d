#include "grammar/output_constraint.h"

#include <fmt/core.h>

#include <algorithm>

#include "base/check.h"

namespace kvasir {

const std::vector<std::string>& OutputPlan::weakened() const {
  static const std::vector<std::string> none;
  return grammar == nullptr ? none : grammar->weakened;
}

Result<OutputPlan> plan_output(const OutputRequest& request, GrammarCache& grammars) {
  using ToolUse = OutputRequest::ToolUse;
  const bool demanded = request.tool_use == ToolUse::kRequired || request.tool_use == ToolUse::kNamed;
  if (demanded && request.tools.empty()) {
    return Error{ErrorCode::kInvalid, "a tool call is required and no tools are offered"};
  }
  GrammarRequest wanted;
  wanted.parallel_calls = request.parallel_calls;
  if (request.tool_use != ToolUse::kNone) wanted.tools = request.tools;
  if (request.tool_use == ToolUse::kNamed) {
    std::erase_if(wanted.tools, [&](const GrammarTool& tool) {
      const JsonValue* name = tool.function.find("name");
      return name == nullptr || !name->is_string() || name->as_string() != request.named_tool;
    });
    if (wanted.tools.empty()) {
      return Error{ErrorCode::kNotFound, fmt::format("no tool is named '{}'", request.named_tool)};
    }
  }
  if (!demanded) {
    wanted.content = request.format;
    wanted.schema = request.schema;
    wanted.schema_path = request.schema_path;
  }
  OutputPlan plan;
  const bool has_format = wanted.content != GrammarRequest::Content::kNone;
  if (wanted.tools.empty() && !has_format) return plan;
  plan.mode = demanded || has_format ? OutputPlan::Mode::kGrammar : OutputPlan::Mode::kAuto;
  KVASIR_TRY(plan.grammar, grammars.get(wanted));
  return plan;
}

OutputConstraint::OutputConstraint(OutputPlan plan, std::shared_ptr<MaskCache> cache)
    : plan_(std::move(plan)), cache_(std::move(cache)) {}

Result<std::unique_ptr<OutputConstraint>> OutputConstraint::make(OutputPlan plan,
                                                                 std::shared_ptr<MaskCache> cache,
                                                                 bool in_reasoning, std::string_view begun) {
  KVASIR_CHECK(plan.mode == OutputPlan::Mode::kNoTools || plan.grammar != nullptr,
               "a plan without its grammar");
  KVASIR_CHECK(!in_reasoning || begun.empty(), "an answer has begun inside the reasoning");
  if (in_reasoning && cache->vocabulary().end_think() < 0) {
    return Error{ErrorCode::kInvalid, "the tokenizer has no token that ends a reasoning"};
  }
  std::unique_ptr<OutputConstraint> c(new OutputConstraint(std::move(plan), std::move(cache)));
  if (in_reasoning) {
    c->state_ = State::kReasoning;
    return c;
  }
  c->begin_answer();
  c->after_less_ = begun.ends_with('<');
  if (c->state_ == State::kGrammar && !begun.empty() && !c->matcher_->accept_bytes(begun)) {
    return Error{ErrorCode::kInvalid,
                 "the text that the answer begins with does not fit the response format"};
  }
  return c;
}

void OutputConstraint::begin_answer() {
  state_ = State::kText;
  after_less_ = false;
  if (plan_.mode != OutputPlan::Mode::kGrammar) return;
  state_ = State::kGrammar;
  matcher_.emplace(plan_.grammar, cache_);
}

int32_t OutputConstraint::only_ban() const {
  const Vocabulary& v = cache_->vocabulary();
  switch (state_) {
    case State::kReasoning:
      if (plan_.mode == OutputPlan::Mode::kAuto) return -1;
      return plan_.mode == OutputPlan::Mode::kGrammar ? v.eos() : v.dsml();
    case State::kText:
      return plan_.mode == OutputPlan::Mode::kAuto && after_less_ ? -1 : v.dsml();
    case State::kGrammar:
    case State::kEnded:
    case State::kDerailed:
      return -1;
  }
  return -1;
}

bool OutputConstraint::restrict(std::span<uint32_t> mask) {
  const Vocabulary& v = cache_->vocabulary();
  KVASIR_CHECK(mask.size() >= v.mask_words(), "a mask of {} words for {} tokens", mask.size(), v.size());
  if (state_ == State::kGrammar) {
    matcher_->fill_mask(mask);
    return true;
  }
  int32_t banned = only_ban();
  if (banned < 0) return false;
  mask[static_cast<size_t>(banned) / 32] &= ~(1u << (static_cast<uint32_t>(banned) % 32));
  return true;
}

void OutputConstraint::accept(int32_t token) {
  const Vocabulary& v = cache_->vocabulary();
  switch (state_) {
    case State::kReasoning:
      if (token == v.end_think()) begin_answer();
      return;
    case State::kText:
      if (token == v.dsml() && after_less_ && plan_.mode == OutputPlan::Mode::kAuto) {
        state_ = State::kGrammar;
        matcher_.emplace(plan_.grammar, cache_, StackMachine::Start::kOpenedBlock);
        return;
      }
      after_less_ = v.bytes(token).ends_with('<');
      return;
    case State::kGrammar:
      if (token == v.eos() && matcher_->can_end()) {
        state_ = State::kEnded;
      } else if (!matcher_->accept(token)) {
        state_ = State::kDerailed;
      }
      return;
    case State::kEnded:
    case State::kDerailed:
      return;
  }
}

}  // namespace kvasir
