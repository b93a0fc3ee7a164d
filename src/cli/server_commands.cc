// See server_commands.h.
#include "cli/server_commands.h"

#include "cli/flag_kinds.h"
#include "server/settings.h"

namespace kvasir {

// The flags are the server's own table of settings; a value is tried at once, so that the error names its
// flag.
void declare(CLI::App& app, ServeOptions& o) {
  app.add_option("--config", o.config, "TOML file of settings; flags win over it")->type_name("FILE");
  app.add_flag("--check-config", o.check_config,
               "Check settings and the files they name, print them all, and end");
  for (const Setting& setting : setting_list()) {
    std::string key = setting.key;
    auto assign = [&o, key](const std::string& text) { o.settings.emplace_back(key, text); };
    auto check = [&setting](std::string& text) {
      Settings scratch;
      auto status = setting.read(scratch, text);
      return status ? std::string() : status.error().message;
    };
    app.add_option_function<std::string>(key == "model.dir" ? "-m,--model" : setting.flag, assign,
                                         setting.help)
        ->check(CLI::Validator(check, ""))
        ->type_name(setting.type)
        ->default_str(setting.write(Settings()))
        ->group(key.substr(0, key.find('.')));
  }
}

void declare(CLI::App& app, KeyOptions& o) {
  app.add_option("name", o.name, "Who it is for; shows in logs and metrics")->type_name("NAME")->required();
  app.add_option("--file", o.file, "Key file to add its hash to; made if it is not there")
      ->type_name("FILE")
      ->required();
  app.add_option("--max-streams", o.max_streams, "Requests it may run at once; 0: the server's limit")
      ->transform(between<int64_t>(0, 1 << 20))
      ->type_name("N");
}

void declare(CLI::App& app, CacheOptions& o) {
  auto action = [](std::string& text) {
    for (const char* known : {"stat", "ls", "verify", "prune", "export", "import"}) {
      if (text == known) return std::string();
    }
    return fmt::format("'{}' is not one of stat|ls|verify|prune|export|import", text);
  };
  app.add_option("action", o.action,
                 "stat: sizes by model; ls: prefixes; verify: read and check every byte; prune: forget "
                 "--prefix or shrink to "
                 "--max-bytes; export FILE, import FILE: --prefix or everything")
      ->check(CLI::Validator(action, ""))
      ->type_name("stat|ls|verify|prune|export|import")
      ->required();
  app.add_option("file", o.file, "Of export and import (the cache's folder: --cache-dir)")->type_name("FILE");
  app.add_option("--cache-dir", o.folder, "The cache's folder (default: ~/.cache/kvasir)")->type_name("DIR");
  app.add_option("--prefix", o.prefix, "Only this prefix, by its id in ls")->type_name("ID");
  app.add_option("--model", o.model, "Only the model whose weights' hash begins so")->type_name("HASH");
  app.add_option("--max-bytes", o.max_bytes, "Shrink to this size")
      ->transform(between<int64_t>(1, int64_t{1} << 60))
      ->type_name("N");
  declare_json(app, o.json, "A JSON object in place of the table");
}

void declare(CLI::App& app, ExportGgufOptions& o) {
  declare_model(app, o.model_dir);
  app.add_option("--out", o.out_file, "The file to write")->type_name("FILE")->required();
  add_choice<GgufWeights>(
      app, "--type", o.weights,
      {{"f32", GgufWeights::kF32},
       {"bf16", GgufWeights::kBf16},
       {"q8_0", GgufWeights::kQ8_0},
       {"mxfp4", GgufWeights::kMxfp4}},
      "Of matrices. q8_0: FP8 and FP4 become Q8_0, BF16 stays; mxfp4: the same, with FP4 experts bit for bit")
      ->default_str("bf16");
  app.add_flag("--mtp", o.mtp,
               "Also the MTP block (llama.cpp before August 2026 takes it for one more layer)");
  declare_json(app, o.json, "A JSON object in place of the line");
}

Status check(const CacheOptions& o) {
  bool wants_file = o.action == "export" || o.action == "import";
  if (wants_file && o.file.empty())
    return Error{ErrorCode::kInvalid, fmt::format("{}: which FILE?", o.action)};
  if (!wants_file && !o.file.empty()) {
    return Error{ErrorCode::kInvalid,
                 fmt::format("{}: '{}' is one word too many; a cache's folder is named by --cache-dir {}",
                             o.action, o.file, o.file)};
  }
  if (o.action == "prune" && o.prefix.empty() && o.max_bytes == 0)
    return Error{ErrorCode::kInvalid, "prune: --prefix ID or --max-bytes N?"};
  return {};
}

}  // namespace kvasir
