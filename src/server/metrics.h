// Metrics: what /metrics shows, in Prometheus' text form.
//
// The engine's counters are read when they are asked for; what only the server knows (requests by endpoint
// and status, times) is counted here as it happens. Names are kvasir_*; docs/api.md lists them. Any thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "engine/engine.h"

namespace kvasir {

class Metrics {
 public:
  Metrics();
  ~Metrics();

  void request(std::string_view endpoint, int status, double seconds);
  void first_token(double seconds);
  void usage(int64_t prompt_tokens, int64_t hit_tokens, int64_t output_tokens, int64_t reasoning_tokens);
  void aborted();  // the client went away first

  // Everything, with the engine's state as of now.
  std::string text(const EngineMetrics& engine);

 private:
  struct Families;
  std::unique_ptr<Families> families_;
};

}  // namespace kvasir
