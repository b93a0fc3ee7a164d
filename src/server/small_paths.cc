// The paths that generate nothing: models, tokens of a text, health, metrics, balance.
#include <fmt/core.h>

#include "api/models.h"
#include "server/call.h"

namespace kvasir {

HttpResponse App::models(Call& call) {
  ModelInfo model{parts_.model_name, parts_.started, parts_.engine.max_context()};
  if (call.argument.empty()) return json_response(200, models_body({model}));
  if (call.argument == model.id) return json_response(200, model_body(model));
  return error_response(
      call, {Fault::kNotFound, fmt::format("no model '{}'; there is '{}'", call.argument, model.id), 0});
}

HttpResponse App::tokenize(Call& call) {
  auto request = parse_tokenize(call.http.body, api_options_);
  if (!request) return error_response(call, api_error(request.error()));
  if (!request->chat)
    return json_response(
        200, tokenize_body(tokenize_text(*request, parts_.tokenizer), parts_.engine.max_context()));
  auto prompt = build_prompt(*request->chat, parts_.tokenizer, {});
  if (!prompt) return error_response(call, api_error(prompt.error()));
  return json_response(200, tokenize_body(prompt->ids, parts_.engine.max_context()));
}

HttpResponse App::detokenize(Call& call) {
  auto ids = parse_detokenize(call.http.body, api_options_, parts_.tokenizer.vocab_size());
  if (!ids) return error_response(call, api_error(ids.error()));
  return json_response(200, detokenize_body(*ids, parts_.tokenizer));
}

HttpResponse App::health(Call&) {
  EngineMetrics now = parts_.engine.metrics();
  Health health = now.healthy ? Health::kOk : Health::kFailed;
  return json_response(health_status(health), health_body(health, now.running, now.waiting));
}

HttpResponse App::show_metrics(Call&) {
  return {200,
          {{"Content-Type", "text/plain; version=0.0.4; charset=utf-8"}},
          parts_.metrics.text(parts_.engine.metrics())};
}

HttpResponse App::balance(Call&) { return json_response(200, balance_body()); }

}  // namespace kvasir
