// The formatter of each dialect, chosen in one place.
#include "api/response_formatter.h"
#include "base/check.h"

namespace kvasir {

std::unique_ptr<ResponseFormatter> make_formatter(const ChatRequest& request, ResponseContext context) {
  switch (request.dialect) {
    case Dialect::kChat:
      return make_chat_formatter(request, std::move(context));
    case Dialect::kResponses:
      return make_responses_formatter(request, std::move(context));
    case Dialect::kMessages:
      return make_messages_formatter(request, std::move(context));
    case Dialect::kCompletions:
      return make_completion_formatter(request, std::move(context));
  }
  KVASIR_CHECK(false, "dialect {}", static_cast<int>(request.dialect));
  return nullptr;
}

}  // namespace kvasir
