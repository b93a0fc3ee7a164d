// Every flag of every subcommand. Names and meanings are promises of the README; ranges are checked here,
// once, so that the subcommands may rely on them. CLI11 costs seconds per file and stays in this one.
#include "cli/command_line.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdio>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "cli/bench.h"
#include "cli/cache_command.h"
#include "cli/chat.h"
#include "cli/error.h"
#include "cli/export_gguf.h"
#include "cli/generate.h"
#include "cli/inspect.h"
#include "cli/key.h"
#include "cli/logits.h"
#include "cli/memory.h"
#include "cli/perplexity.h"
#include "cli/serve.h"
#include "cli/tokenize.h"
#include "server/settings.h"

namespace kvasir {
namespace {

constexpr int64_t kMaxContext = 1'073'741'824;  // far above any model's; no byte count leaves int64
constexpr int64_t kMaxBatch = 4096;
constexpr int kMaxThreads = 1024;

// The whole of `text` as a decimal number.
template <class T>
bool parse_number(std::string_view text, T& out) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size();
}

// A number within [low, high], for Option::transform. CLI11's own conversions take -1 for an unsigned number,
// 010 for 8, and let NaN through its Range; so the text is parsed here and handed on in plain form.
template <class T>
CLI::Validator between(T low, T high) {
  auto check = [=](std::string& text) {
    T value{};
    if (!parse_number(text, value) || !(value >= low && value <= high)) {
      return fmt::format("'{}' is not a number from {} to {}", text, low, high);
    }
    text = fmt::format("{}", value);
    return std::string();
  };
  return CLI::Validator(check, "");
}

// An option whose value is one of a few words. `target` may be the enum or an optional of it.
template <class Enum, class Target>
CLI::Option* add_choice(CLI::App& app, const std::string& flag, Target& target,
                        std::vector<std::pair<std::string, Enum>> choices, const std::string& help) {
  std::string names;
  for (const auto& choice : choices) names += (names.empty() ? "" : "|") + choice.first;
  auto check = [choices, names](std::string& text) {
    for (const auto& choice : choices) {
      if (choice.first == text) return std::string();
    }
    return fmt::format("'{}' is not one of {}", text, names);
  };
  auto assign = [choices, &target](const std::string& text) {
    for (const auto& choice : choices) {
      if (choice.first == text) target = choice.second;
    }
  };
  return app.add_option_function<std::string>(flag, assign, help)
      ->check(CLI::Validator(check, ""))
      ->type_name(names);
}

void declare_compute(CLI::App& app, ComputeOptions& o) {
  app.add_option("--threads", o.threads, "Threads that compute (default: one per core)")
      ->transform(between(1, kMaxThreads))
      ->type_name("N")
      ->group("Compute");
  add_choice<Numerics>(
      app, "--numerics", o.numerics,
      {{"exact", Numerics::kExact}, {"native", Numerics::kNative}, {"fast", Numerics::kFast}},
      "Roundings: none; the official ones; the backend's fastest (default: fast, exact on reference)")
      ->group("Compute");
  add_choice<BackendKind>(app, "--backend", o.backend,
                            {{"reference", BackendKind::kReference}, {"cpu", BackendKind::kCpu}, {"cuda", BackendKind::kCuda}},
                            "The scalar oracle, the CPU kernels or an NVIDIA GPU")
      ->default_str("cpu")
      ->group("Compute");
  app.add_option("--device", o.device, "GPU of --backend cuda, counted as nvidia-smi does")
      ->transform(between(0, 1023))
      ->type_name("N")
      ->group("Compute");
  auto runs_here = [](std::string& text) {
    cpu::Isa isa;
    if (!cpu::parse_isa(text, isa) || cpu::isa_available(isa)) return std::string();
    return fmt::format("this machine cannot run {}; the best it has is {}", text,
                       cpu::isa_name(cpu::detect_isa()));
  };
  add_choice<cpu::Isa>(app, "--cpu-isa", o.cpu_isa,
                       {{"portable", cpu::Isa::kPortable},
                        {"avx2", cpu::Isa::kAvx2},
                        {"avx512", cpu::Isa::kAvx512},
                        {"amx", cpu::Isa::kAmx}},
                       "Instruction set of the CPU kernels (default: the best this machine has)")
      ->check(CLI::Validator(runs_here, ""))
      ->group("Compute");
}

void declare_model(CLI::App& app, std::string& model_dir) {
  app.add_option("-m,--model", model_dir, "Checkpoint folder (default: the bundled model)")->type_name("DIR");
}

void declare_think(CLI::App& app, ThinkChoice& think) {
  add_choice<ThinkChoice>(
      app, "--think", think,
      {{"off", ThinkChoice::kOff}, {"high", ThinkChoice::kHigh}, {"max", ThinkChoice::kMax}},
      "Reason before answering, and how hard")
      ->default_str("off");
}

void declare_max_tokens(CLI::App& app, int64_t& max_tokens, const std::string& help) {
  app.add_option("--max-tokens", max_tokens, help)
      ->transform(between<int64_t>(1, kMaxContext))
      ->type_name("N")
      ->capture_default_str();
}

void declare_json(CLI::App& app, bool& json, const std::string& help) { app.add_flag("--json", json, help); }

std::string parse_logit_bias(const std::string& text, std::pair<int64_t, float>& out) {
  size_t colon = text.find(':');
  bool parsed = colon != std::string::npos &&
                parse_number(std::string_view(text).substr(0, colon), out.first) &&
                parse_number(std::string_view(text).substr(colon + 1), out.second);
  if (parsed && out.first >= 0 && out.second >= -100 && out.second <= 100) return {};
  return fmt::format("'{}' is not ID:BIAS with a token id and a number from -100 to 100", text);
}

void declare_sampling(CLI::App& app, SamplingOptions& o) {
  const char* group = "Sampling";
  app.add_option("--temperature", o.temperature, "0 always takes the likeliest token")
      ->transform(between(0.0, 100.0))
      ->type_name("X")
      ->capture_default_str()
      ->group(group);
  app.add_option("--top-p", o.top_p, "Keep the likeliest tokens that together reach this probability")
      ->transform(between(1e-6, 1.0))
      ->type_name("X")
      ->capture_default_str()
      ->group(group);
  app.add_option("--top-k", o.top_k, "Keep the N likeliest tokens; 0 keeps all")
      ->transform(between(0, std::numeric_limits<int>::max()))
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
  app.add_option("--min-p", o.min_p,
                 "Drop tokens less likely than this share of the likeliest one's probability")
      ->transform(between(0.0, 1.0))
      ->type_name("X")
      ->capture_default_str()
      ->group(group);
  app.add_option("--seed", o.seed, "The same seed gives the same text (default: a fresh one)")
      ->transform(between<uint64_t>(0, std::numeric_limits<uint64_t>::max()))
      ->type_name("N")
      ->group(group);
  app.add_option("--stop", o.stop, "End before this text; may be given again")
      ->allow_extra_args(false)
      ->type_name("TEXT")
      ->group(group);
  auto assign = [&o](const std::vector<std::string>& texts) {
    for (const std::string& text : texts) {
      std::pair<int64_t, float> bias;
      if (parse_logit_bias(text, bias).empty())
        o.logit_bias.push_back(bias);  // all are: the check below came first
    }
  };
  auto check = [](std::string& text) {
    std::pair<int64_t, float> bias;
    return parse_logit_bias(text, bias);
  };
  app.add_option_function<std::vector<std::string>>("--logit-bias", assign,
                                                    "Added to a token's logit; may be given again")
      ->check(CLI::Validator(check, ""))
      ->allow_extra_args(false)
      ->type_name("ID:BIAS")
      ->group(group);
  add_choice<DraftChoice>(app, "--draft", o.draft, {{"mtp", DraftChoice::kMtp}},
                          "Speculate with the model's MTP block; never changes what is sampled")
      ->group(group);
}

void declare(CLI::App& app, GenerateOptions& o) {
  declare_model(app, o.model_dir);
  app.add_option("-p,--prompt", o.prompt, "What to ask; after the files, if there are any")
      ->type_name("TEXT");
  app.add_option("-f,--file", o.files, "Files to put in the prompt with their names; may be given again")
      ->type_name("FILE");
  auto* raw = app.add_flag("--raw", o.raw, "Continue the prompt as it is, without the chat template");
  declare_think(app, o.think);
  raw->excludes("--think");
  declare_max_tokens(app, o.max_tokens, "Stop after so many new tokens");
  declare_sampling(app, o.sampling);
  app.add_option("--logprobs", o.logprobs,
                 "Log probabilities of each token and the N likeliest beside it, with --json")
      ->transform(between(1, 20))
      ->type_name("N");
  declare_json(app, o.json, "One JSON object: text, token ids, finish reason and statistics");
  declare_compute(app, o.compute);
}

void declare(CLI::App& app, ChatOptions& o) {
  declare_model(app, o.model_dir);
  declare_think(app, o.think);
  declare_max_tokens(app, o.max_tokens, "Stop an answer after so many tokens");
  declare_sampling(app, o.sampling);
  declare_compute(app, o.compute);
}

void declare(CLI::App& app, LogitsOptions& o) {
  app.add_option("-m,--model", o.model_dir, "Checkpoint folder")->type_name("DIR")->required();
  app.add_option("--ids", o.ids_file, "JSON array of token ids")->type_name("FILE")->required();
  auto* out =
      app.add_option("--out", o.out_file, "Where to write `logits` [rows, vocab] f32")->type_name("FILE");
  auto* rows = app.add_option("--rows", o.rows, "Token positions to write (default: all)")
                   ->delimiter(',')
                   ->allow_extra_args(false)
                   ->transform(between<int64_t>(0, kMaxContext))
                   ->type_name("A,B,C");
  app.add_option("--chunk", o.chunk, "Tokens per prefill step (default: kvasir's own choice)")
      ->transform(between<int64_t>(1, kMaxContext))
      ->type_name("N");
  auto* tap = app.add_flag("--tap", o.tap, "Also write the intermediate tensors of every module");
  auto* inject =
      app.add_option("--inject", o.inject_file,
                     "Replace module inputs by this file's layers.L.attn.in, layers.L.ffn.in and mtp.in")
          ->type_name("FILE");
  app.add_option("--greedy", o.greedy,
                 "Instead of logits: print the N ids that greedily continue the input, as a JSON array")
      ->transform(between<int64_t>(1, kMaxContext))
      ->type_name("N")
      ->excludes(out)
      ->excludes(rows)
      ->excludes(tap)
      ->excludes(inject);
  declare_compute(app, o.compute);
}

void declare(CLI::App& app, PerplexityOptions& o) {
  declare_model(app, o.model_dir);
  app.add_option("-f,--file", o.file, "Text to predict")->type_name("FILE")->required();
  declare_json(app, o.json, "A JSON object in place of the line");
  declare_compute(app, o.compute);
}

void declare(CLI::App& app, TokenizeOptions& o) {
  declare_model(app, o.model_dir);
  auto* text = app.add_option("-p,--prompt", o.text, "Text to encode")->type_name("TEXT");
  app.add_option("-f,--file", o.file, "File to encode (default, without -p: standard input)")
      ->type_name("FILE")
      ->excludes(text);
  declare_json(app, o.json, "A JSON object with `ids` and `count`");
}

void declare(CLI::App& app, InspectOptions& o) {
  app.add_option("dir", o.dir, "Checkpoint folder")->type_name("DIR")->required();
  app.add_flag("--verify", o.verify, "Read every tensor and look for NaN and invalid scales");
  declare_json(app, o.json, "A JSON object in place of the text");
}

void declare(CLI::App& app, MemoryOptions& o) {
  app.add_option("-m,--model", o.model, "V4-Flash, V4-Pro, or a folder with a config.json of the family")
      ->type_name("flash|pro|DIR")
      ->required();
  app.add_option("--context", o.context, "Tokens of context")
      ->transform(between<int64_t>(1, kMaxContext))
      ->type_name("N")
      ->capture_default_str();
  declare_json(app, o.json, "A JSON object in place of the tables");
}

void declare(CLI::App& app, CacheOptions& o) {
  auto action = [](std::string& text) {
    for (const char* known : {"stat", "ls", "verify", "prune", "export", "import"}) {
      if (text == known) return std::string();
    }
    return fmt::format("'{}' is not one of stat|ls|verify|prune|export|import", text);
  };
  app.add_option("action", o.action,
                 "stat: sizes by model; ls: prefixes; verify: read and check every byte; prune: forget --prefix or shrink to "
                 "--max-bytes; export FILE, import FILE: --prefix or everything")
      ->check(CLI::Validator(action, ""))
      ->type_name("stat|ls|verify|prune|export|import")
      ->required();
  app.add_option("file", o.file, "Of export and import")->type_name("FILE");
  app.add_option("--cache-dir", o.folder, "The cache's folder (default: ~/.cache/kvasir)")->type_name("DIR");
  app.add_option("--prefix", o.prefix, "Only this prefix, by its id in ls")->type_name("ID");
  app.add_option("--model", o.model, "Only the model whose weights' hash begins so")->type_name("HASH");
  app.add_option("--max-bytes", o.max_bytes, "Shrink to this size")->transform(between<int64_t>(1, int64_t{1} << 60))->type_name("N");
  declare_json(app, o.json, "A JSON object in place of the table");
}

void declare(CLI::App& app, ExportGgufOptions& o) {
  declare_model(app, o.model_dir);
  app.add_option("--out", o.out_file, "The file to write")->type_name("FILE")->required();
  add_choice<GgufWeights>(app, "--type", o.weights,
                          {{"f32", GgufWeights::kF32}, {"bf16", GgufWeights::kBf16}, {"q8_0", GgufWeights::kQ8_0}, {"mxfp4", GgufWeights::kMxfp4}},
                          "Of matrices. q8_0: FP8 and FP4 become Q8_0, BF16 stays; mxfp4: the same, with FP4 experts bit for bit")
      ->default_str("bf16");
  app.add_flag("--mtp", o.mtp, "Also the MTP block (llama.cpp before August 2026 takes it for one more layer)");
  declare_json(app, o.json, "A JSON object in place of the line");
}

std::string check_compress_ratio(std::string& text) {
  return text == "0" || text == "4" || text == "128" ? "" : fmt::format("'{}' is not 0, 4 or 128", text);
}

void declare(CLI::App& app, BenchOptions& o) {
  declare_model(app, o.model_dir);
  auto* synthetic = add_choice<SyntheticModel>(
      app, "--synthetic", o.synthetic, {{"flash", SyntheticModel::kFlash}, {"pro", SyntheticModel::kPro}},
      "Random weights of real shapes and formats, drawn in memory");
  synthetic->excludes("--model");
  auto* layers = app.add_option("--layers", o.layers, "Only the first N layers of the synthetic model")
                     ->transform(between(1, 10000))
                     ->type_name("N")
                     ->needs(synthetic);
  app.add_option("--ratios", o.ratios,
                 "Other layers for the synthetic model, one per ratio: 0 window only, 4 CSA, 128 HCA")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Validator(check_compress_ratio, ""))
      ->type_name("A,B,C")
      ->needs(synthetic)
      ->excludes(layers);
  app.add_option("--vocab", o.vocab, "Another vocabulary size for the synthetic model")
      ->transform(between<int64_t>(1, 1 << 20))
      ->type_name("N")
      ->needs(synthetic);
  app.add_option("--context", o.contexts, "Context lengths to measure at")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->transform(between<int64_t>(1, kMaxContext))
      ->type_name("A,B,C")
      ->default_str("512,4096,8192");
  app.add_option("--batch", o.batches, "Numbers of sequences decoded together")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->transform(between<int64_t>(1, kMaxBatch))
      ->type_name("A,B,C")
      ->default_str("1");
  app.add_option("--out", o.out_file, "Also write the results as JSON")->type_name("FILE");
  declare_json(app, o.json, "JSON on standard output in place of the table");
  declare_compute(app, o.compute);
}

// The flags are the server's own table of settings; a value is tried at once, so that the error names its flag.
void declare(CLI::App& app, ServeOptions& o) {
  app.add_option("--config", o.config, "TOML file of settings; flags win over it")->type_name("FILE");
  app.add_flag("--check-config", o.check_config, "Check settings and the files they name, print them all, and end");
  for (const Setting& setting : setting_list()) {
    std::string key = setting.key;
    auto assign = [&o, key](const std::string& text) { o.settings.emplace_back(key, text); };
    auto check = [&setting](std::string& text) {
      Settings scratch;
      auto status = setting.read(scratch, text);
      return status ? std::string() : status.error().message;
    };
    app.add_option_function<std::string>(key == "model.dir" ? "-m,--model" : setting.flag, assign, setting.help)
        ->check(CLI::Validator(check, ""))
        ->type_name(setting.type)
        ->default_str(setting.write(Settings()))
        ->group(key.substr(0, key.find('.')));
  }
}

void declare(CLI::App& app, KeyOptions& o) {
  app.add_option("name", o.name, "Who it is for; shows in logs and metrics")->type_name("NAME")->required();
  app.add_option("--file", o.file, "Key file to add its hash to; made if it is not there")->type_name("FILE")->required();
  app.add_option("--max-streams", o.max_streams, "Requests it may run at once; 0: the server's limit")
      ->transform(between<int64_t>(0, 1 << 20))
      ->type_name("N");
}

// What one flag alone cannot tell.
Status check(const ComputeOptions& o) {
  if (o.cpu_isa && o.backend != BackendKind::kCpu)
    return Error{ErrorCode::kInvalid, "--cpu-isa is for --backend cpu only"};
  if (o.device != 0 && o.backend != BackendKind::kCuda) return Error{ErrorCode::kInvalid, "--device is for --backend cuda only"};
  return {};
}

Status check(const GenerateOptions& o) {
  if (o.prompt.empty() && o.files.empty())
    return Error{ErrorCode::kInvalid, "nothing to do: give -p TEXT, -f FILE, or both"};
  if (o.logprobs > 0 && !o.json) return Error{ErrorCode::kInvalid, "--logprobs needs --json to show them"};
  return check(o.compute);
}

Status check(const LogitsOptions& o) {
  if (o.out_file.empty() && o.greedy == 0)
    return Error{ErrorCode::kInvalid, "give --out FILE for logits, or --greedy N for ids"};
  return check(o.compute);
}

Status check(const ChatOptions& o) { return check(o.compute); }
Status check(const PerplexityOptions& o) { return check(o.compute); }
Status check(const BenchOptions& o) { return check(o.compute); }
Status check(const TokenizeOptions&) { return {}; }
Status check(const InspectOptions&) { return {}; }
Status check(const MemoryOptions&) { return {}; }
Status check(const ServeOptions&) { return {}; }
Status check(const KeyOptions&) { return {}; }
Status check(const ExportGgufOptions&) { return {}; }
Status check(const CacheOptions& o) {
  bool file = o.action == "export" || o.action == "import";
  if (file == o.file.empty()) return Error{ErrorCode::kInvalid, fmt::format("cache {}: {}", o.action, file ? "which FILE?" : "takes no file")};
  if (o.action == "prune" && o.prefix.empty() && o.max_bytes == 0) return Error{ErrorCode::kInvalid, "cache prune: --prefix ID or --max-bytes N?"};
  return {};
}

}  // namespace

struct CommandLine::State {
  CLI::App app{"DeepSeek-V4 inference from the official files.", "kvasir"};
  std::function<int()> chosen;

  template <class Options>
  void add(const std::string& name, const std::string& help, std::function<int(const Options&)> run) {
    CLI::App* command = app.add_subcommand(name, help);
    auto options = std::make_shared<Options>();
    declare(*command, *options);
    command->callback([this, name, options, run = std::move(run)] {
      chosen = [=] {
        if (Status s = check(*options); !s) return refuse(name, s.error().message);
        return run(*options);
      };
    });
  }

  // `command` is empty when none was recognised.
  static int refuse(const std::string& command, const std::string& message) {
    std::string where = command.empty() ? "" : command + ": ", help = command.empty() ? "" : command + " ";
    return report_error(
        {ErrorCode::kInvalid, fmt::format("{}{} (see kvasir {}--help)", where, message, help)});
  }

  bool known(const std::string& name) const {
    return !app.get_subcommands([&](const CLI::App* command) { return command->get_name() == name; }).empty();
  }

  std::string names() const {
    std::string out;
    for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
      out += (out.empty() ? "" : ", ") + command->get_name();
    }
    return out;
  }
};

CommandLine::CommandLine() : state_(std::make_unique<State>()) {
  state_->app.set_version_flag("--version", "kvasir " KVASIR_VERSION);
}

CommandLine::~CommandLine() = default;

void CommandLine::add(std::function<int(const GenerateOptions&)> run) {
  state_->add("generate", "Answer one prompt, over files if you like", std::move(run));
}
void CommandLine::add(std::function<int(const ChatOptions&)> run) {
  state_->add("chat", "Talk with a model", std::move(run));
}
void CommandLine::add(std::function<int(const ServeOptions&)> run) {
  state_->add("serve", "Answer the OpenAI, DeepSeek and Anthropic APIs", std::move(run));
}
void CommandLine::add(std::function<int(const KeyOptions&)> run) {
  state_->add("key", "Make an API key for serve", std::move(run));
}
void CommandLine::add(std::function<int(const LogitsOptions&)> run) {
  state_->add("logits", "Token ids in, logits out: compare kvasir with another engine", std::move(run));
}
void CommandLine::add(std::function<int(const PerplexityOptions&)> run) {
  state_->add("perplexity", "How well a model predicts a text", std::move(run));
}
void CommandLine::add(std::function<int(const TokenizeOptions&)> run) {
  state_->add("tokenize", "The token ids of a text", std::move(run));
}
void CommandLine::add(std::function<int(const InspectOptions&)> run) {
  state_->add("inspect", "What a checkpoint folder holds", std::move(run));
}
void CommandLine::add(std::function<int(const MemoryOptions&)> run) {
  state_->add("memory", "Cache bytes and FLOPs at a context length, beside V3.2, GQA and MHA",
              std::move(run));
}
void CommandLine::add(std::function<int(const CacheOptions&)> run) {
  state_->add("cache", "Look at, check, shrink, export or import a prefix cache's folder", std::move(run));
}
void CommandLine::add(std::function<int(const ExportGgufOptions&)> run) {
  state_->add("export-gguf", "Write a checkpoint as a GGUF file, for llama.cpp", std::move(run));
}
void CommandLine::add(std::function<int(const BenchOptions&)> run) {
  state_->add("bench", "Prefill and decode rates beside the machine's ceilings", std::move(run));
}

int CommandLine::run(int argc, const char* const* argv) {
  CLI::App& app = state_->app;
  std::string first = argc > 1 ? argv[1] : "";
  if (first.empty() || (first[0] != '-' && !state_->known(first))) {
    std::string what =
        first.empty() ? "which subcommand?" : fmt::format("there is no subcommand '{}';", first);
    return State::refuse("", fmt::format("{} there are {}", what, state_->names()));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {  // --help or --version
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    auto parsed = app.get_subcommands();
    return State::refuse(parsed.empty() ? "" : parsed[0]->get_name(), e.what());
  }
  if (!state_->chosen) return State::refuse("", "which subcommand? there are " + state_->names());
  return state_->chosen();
}

}  // namespace kvasir
