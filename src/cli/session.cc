// From flags to a loaded model; see session.h.
#include "cli/session.h"

#include <cstdio>
#include <filesystem>

#include "backend/backend.h"
#include "cli/error.h"
#include "model/place.h"

namespace kvasir {

Result<std::string> bundled_model_dir() {
  std::error_code ec;
  std::filesystem::path binary = std::filesystem::read_symlink("/proc/self/exe", ec);
  if (!ec) {
    for (const char* place : {"../models/nano", "../share/kvasir/models/nano"}) {
      std::filesystem::path dir = (binary.parent_path() / place).lexically_normal();
      if (std::filesystem::exists(dir / "config.json", ec)) return dir.string();
    }
  }
  return Error{ErrorCode::kNotFound, "the bundled model is not beside the binary (models/nano or share/kvasir/models/nano): name a folder with -m"};
}

Result<std::unique_ptr<Ops>> make_ops(const ComputeOptions& compute) {
  BackendOptions options;
  options.kind = compute.backend;
  options.numerics = compute.chosen_numerics();
  options.cpu_isa = compute.cpu_isa;
  options.threads = compute.threads;
  options.cuda_device = compute.device;
  return make_ops(options);
}

Result<std::unique_ptr<Session>> open_session(const std::string& dir, const ComputeOptions& compute, const RunnerOptions& options,
                                              ProgressSink* progress) {
  auto session = std::make_unique<Session>();
  session->dir = dir;
  if (dir.empty()) {
    KVASIR_TRY(session->dir, bundled_model_dir());
  }
  session->numerics = compute.chosen_numerics();
  KVASIR_TRY(auto ops, make_ops(compute));
  LoadOptions load;
  load.prefetch = true;
  load.progress = progress;
  KVASIR_TRY(session->loaded, load_checkpoint(session->dir, load));
  for (const std::string& note : session->loaded.notes) std::fprintf(stderr, "%s\n", error_line(note).c_str());
  if (!ops->memory().on_host()) {
    KVASIR_TRY(session->loaded.model, place_model(session->loaded.model, ops->memory(), progress));
  }
  KVASIR_TRY(session->runner, Runner::make(session->loaded.model, std::move(ops), options));
  return session;
}

}  // namespace kvasir
