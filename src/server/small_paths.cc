// The paths that generate nothing: models, tokens of a text, health, metrics, balance.
#include <fmt/core.h>

#include "api/models.h"
#include "server/call.h"

namespace kvasir {

Task<> App::models(Call& call) {
  ModelInfo model{parts_.model_name, parts_.started, parts_.engine.max_context()};
  if (call.argument.empty()) {
    co_await send_json(call, 200, models_body(std::vector<ModelInfo>(1, model)));
  } else if (call.argument == parts_.model_name) {
    co_await send_json(call, 200, model_body(model));
  } else {
    co_await send_error(
        call,
        ApiError{Fault::kNotFound, fmt::format("no model '{}'; there is '{}'", call.argument, model.id), 0});
  }
}

Task<> App::tokenize(Call& call) {
  auto request = parse_tokenize(call.http.body, api_options_);
  if (!request) co_return co_await send_error(call, api_error(request.error()));
  std::vector<int32_t> ids;
  if (request->chat) {
    auto prompt = build_prompt(*request->chat, parts_.tokenizer, {});
    if (!prompt) co_return co_await send_error(call, api_error(prompt.error()));
    ids = std::move(prompt->ids);
  } else {
    ids = tokenize_text(*request, parts_.tokenizer);
  }
  co_await send_json(call, 200, tokenize_body(ids, parts_.engine.max_context()));
}

Task<> App::detokenize(Call& call) {
  auto ids = parse_detokenize(call.http.body, api_options_, parts_.tokenizer.vocab_size());
  if (!ids) co_return co_await send_error(call, api_error(ids.error()));
  co_await send_json(call, 200, detokenize_body(*ids, parts_.tokenizer));
}

Task<> App::health(Call& call) {
  EngineMetrics now = parts_.engine.metrics();
  Health health = now.healthy ? Health::kOk : Health::kFailed;
  co_await send_json(call, health_status(health), health_body(health, now.running, now.waiting));
}

Task<> App::show_metrics(Call& call) {
  co_await send(call, 200, "text/plain; version=0.0.4; charset=utf-8",
                parts_.metrics.text(parts_.engine.metrics()));
}

Task<> App::balance(Call& call) { co_await send_json(call, 200, balance_body()); }

}  // namespace kvasir
