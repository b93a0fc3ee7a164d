// kvasir serve: see serve.h. What the server does is in room server.
#include "cli/serve.h"

#include <cstdio>

#include "cli/error.h"
#include "cli/progress_bar.h"
#include "cli/session.h"
#include "server/serve.h"

namespace kvasir {
namespace {

Result<Settings> read_settings(const ServeOptions& options) {
  Settings settings;
  if (!options.config.empty()) KVASIR_TRY_STATUS(read_settings_file(options.config, settings));
  for (const auto& [key, text] : options.settings) KVASIR_TRY_STATUS(set_setting(settings, key, text));
  if (settings.model_dir.empty()) {
    KVASIR_TRY(settings.model_dir, bundled_model_dir());
  }
  KVASIR_TRY_STATUS(check_settings(settings));
  return settings;
}

}  // namespace

int run_serve(const ServeOptions& options) {
  auto settings = read_settings(options);
  if (!settings) return report_error(settings.error());
  if (options.check_config) {
    if (auto files = check_files(*settings); !files) return report_error(files.error());
    std::fputs(settings_text(*settings).c_str(), stdout);
    return kExitOk;
  }
  ProgressBar bar;
  auto served = serve(*settings, &bar, [](const std::string& line) {
    std::puts(line.c_str());
    std::fflush(stdout);
  });
  return served ? kExitOk : report_error(served.error());
}

}  // namespace kvasir
