// From a request's words to the grammar room's; see constraints.h.
#include "server/constraints.h"

#include <fmt/core.h>

#include <utility>

#include "grammar/output_constraint.h"
#include "server/log.h"

namespace kvasir {
namespace {

OutputRequest::ToolUse tool_use(const ChatRequest& request) {
  if (!request.offers_tools()) return OutputRequest::ToolUse::kNone;
  switch (request.tool_use) {
    case ToolUse::kNone:
      return OutputRequest::ToolUse::kNone;
    case ToolUse::kAuto:
      return OutputRequest::ToolUse::kAuto;
    case ToolUse::kRequired:
      return OutputRequest::ToolUse::kRequired;
    case ToolUse::kNamed:
      return OutputRequest::ToolUse::kNamed;
  }
  return OutputRequest::ToolUse::kNone;
}

OutputRequest output_request(const ChatRequest& request) {
  OutputRequest out;
  out.tool_use = tool_use(request);
  out.named_tool = request.forced_tool;
  if (request.offers_tools()) {
    for (size_t i = 0; i < request.tools.size(); ++i) {
      out.tools.push_back(
          {request.conversation.tools[i], fmt::format("/tools/{}", i), request.tools[i].strict});
    }
  }
  switch (request.reply_format.kind) {
    case ReplyFormat::Kind::kText:
      break;
    case ReplyFormat::Kind::kJsonObject:
      out.format = GrammarRequest::Content::kJsonObject;
      break;
    case ReplyFormat::Kind::kJsonSchema:
      out.format = GrammarRequest::Content::kJsonSchema;
      out.schema = request.reply_format.schema;
      break;
  }
  return out;
}

// The text that the answer goes on from: an open-ended assistant message at the end.
std::string_view begun_text(const ChatRequest& request) {
  const auto& messages = request.conversation.messages;
  return !messages.empty() && messages.back().open_ended ? std::string_view(messages.back().content)
                                                         : std::string_view();
}

}  // namespace

struct Constraints::Impl {
  Impl(std::shared_ptr<const Vocabulary> vocabulary, Log& l)
      : masks(std::make_shared<MaskCache>(std::move(vocabulary))), log(l) {}

  GrammarCache grammars;
  std::shared_ptr<MaskCache> masks;
  Log& log;
};

Constraints::Constraints(std::shared_ptr<const Vocabulary> vocabulary, Log& log)
    : impl_(std::make_unique<Impl>(std::move(vocabulary), log)) {}

Constraints::~Constraints() = default;

Result<std::unique_ptr<TokenConstraint>> Constraints::make(const ChatRequest& request, bool in_reasoning) {
  if (request.raw) return std::unique_ptr<TokenConstraint>();
  KVASIR_TRY(OutputPlan plan, plan_output(output_request(request), impl_->grammars));
  for (const std::string& place : plan.weakened()) impl_->log.debug("weakened", {{"schema", place}});
  KVASIR_TRY(auto constraint,
             OutputConstraint::make(std::move(plan), impl_->masks, in_reasoning, begun_text(request)));
  return std::unique_ptr<TokenConstraint>(std::move(constraint));
}

}  // namespace kvasir
