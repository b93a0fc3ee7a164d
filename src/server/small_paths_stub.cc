#include "server/call.h"
namespace kvasir {
Task<> App::tokenize(Call& call) { co_await send_json(call, 200, "{}"); }
Task<> App::detokenize(Call& call) { co_await send_json(call, 200, "{}"); }
Task<> App::models(Call& call) { co_await send_json(call, 200, "{\"object\":\"list\",\"data\":[{\"id\":\"nano\"}]}"); }
Task<> App::serve_sessions(Call& call) { co_await send_json(call, 200, "{}"); }
}
namespace kvasir { std::unique_ptr<ResponseFormatter> make_formatter(const ChatRequest& r, ResponseContext c) { return make_chat_formatter(r, std::move(c)); } }
