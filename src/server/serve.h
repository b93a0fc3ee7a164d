// Server: the whole of `kvasir serve`, from settings to the last byte written; serve() adds the signals.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "base/progress.h"
#include "base/result.h"
#include "server/settings.h"

namespace kvasir {

// That the files the settings name can be used: API keys, TLS, replay script, checkpoint config.
Status check_files(const Settings& settings);

class Server {
 public:
  // Loads the model, opens the cache folder, listens. settings.model_dir is not empty.
  static Result<std::unique_ptr<Server>> start(const Settings& settings, ProgressSink* progress);
  // stop() at once, if it has not been called.
  ~Server();

  std::string url() const;
  int port() const;
  const std::string& model_name() const;

  // Takes no new requests, lets the running ones end until `deadline`, then saves the cache. Once.
  void stop(std::chrono::steady_clock::time_point deadline);

 private:
  struct Parts;
  explicit Server(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

// Serves until SIGINT or SIGTERM; then stops, giving running requests settings.drain_seconds, and returns.
// `ready` gets one line with the address once requests are answered. Blocks these signals in the calling
// thread and all that it starts; a second one ends the process at once.
Status serve(const Settings& settings, ProgressSink* progress,
             const std::function<void(const std::string&)>& ready);

}  // namespace kvasir
