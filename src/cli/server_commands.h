// Flags of the subcommands around the server: serve, key, cache, export-gguf. Only for command_line.cc.
#pragma once

#include "base/result.h"
#include "cli/cache_command.h"
#include "cli/export_gguf.h"
#include "cli/key.h"
#include "cli/serve.h"

namespace CLI {
class App;
}

namespace kvasir {

void declare(CLI::App& app, ServeOptions& o);
void declare(CLI::App& app, KeyOptions& o);
void declare(CLI::App& app, CacheOptions& o);
void declare(CLI::App& app, ExportGgufOptions& o);

// What one flag alone cannot tell.
Status check(const CacheOptions& o);

}  // namespace kvasir
