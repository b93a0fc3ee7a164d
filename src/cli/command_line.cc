// Every flag of every subcommand; those of the server's own are in server_commands.cc. Names and meanings are promises
// of the README; ranges are checked here, once, so that the subcommands may rely on them. CLI11 costs seconds per file and
// stays in these two.
#include "cli/command_line.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "cli/bench.h"
#include "cli/chat.h"
#include "cli/error.h"
#include "cli/flag_kinds.h"
#include "cli/generate.h"
#include "cli/inspect.h"
#include "cli/logits.h"
#include "cli/memory.h"
#include "cli/perplexity.h"
#include "cli/server_commands.h"
#include "cli/tokenize.h"

namespace kvasir {
namespace {

constexpr int64_t kMaxContext = 1'073'741'824;  // far above any model's; no byte count leaves int64
constexpr int64_t kMaxBatch = 4096;
constexpr int kMaxThreads = 1024;

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
