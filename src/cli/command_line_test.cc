// Every flag of every subcommand, from argv to its options struct, and every refusal.
#include "cli/command_line.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "cli/bench.h"
#include "cli/cache_command.h"
#include "cli/chat.h"
#include "cli/export_gguf.h"
#include "cli/generate.h"
#include "cli/inspect.h"
#include "cli/logits.h"
#include "cli/memory.h"
#include "cli/perplexity.h"
#include "cli/tokenize.h"

namespace kvasir {
namespace {

struct Outcome {
  int code = -1;
  std::string out, err;
};

Outcome run(CommandLine& line, const std::vector<std::string>& args) {
  std::vector<const char*> argv = {"kvasir"};
  for (const std::string& a : args) argv.push_back(a.c_str());
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  Outcome o;
  o.code = line.run(static_cast<int>(argv.size()), argv.data());
  o.out = testing::internal::GetCapturedStdout();
  o.err = testing::internal::GetCapturedStderr();
  return o;
}

// The options that `args` give; fails the test when they are refused.
template <class Options>
Options parsed(const std::vector<std::string>& args) {
  CommandLine line;
  std::optional<Options> seen;
  line.add([&](const Options& o) {
    seen = o;
    return 7;
  });
  Outcome o = run(line, args);
  EXPECT_EQ(o.code, 7) << o.err;
  return seen.value_or(Options());
}

// The one line that refuses `args`; the exit code must be 2 and nothing may run.
template <class Options>
std::string refused(const std::vector<std::string>& args) {
  CommandLine line;
  line.add([](const Options&) {
    ADD_FAILURE() << "ran";
    return 0;
  });
  Outcome o = run(line, args);
  EXPECT_EQ(o.code, 2) << testing::PrintToString(args) << o.err;
  EXPECT_EQ(o.out, "");
  EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << o.err;
  return o.err;
}

#define EXPECT_CONTAINS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(CommandLine, GenerateDefaults) {
  auto o = parsed<GenerateOptions>({"generate", "-p", "hi"});
  EXPECT_EQ(o.prompt, "hi");
  EXPECT_TRUE(o.model_dir.empty());
  EXPECT_FALSE(o.raw);
  EXPECT_FALSE(o.json);
  EXPECT_EQ(o.think, ThinkChoice::kOff);
  EXPECT_EQ(o.max_tokens, 512);
  EXPECT_EQ(o.sampling.temperature, 1);
  EXPECT_EQ(o.sampling.top_p, 1);
  EXPECT_EQ(o.sampling.top_k, 0);
  EXPECT_EQ(o.sampling.min_p, 0);
  EXPECT_FALSE(o.sampling.seed);
  EXPECT_EQ(o.sampling.draft, DraftChoice::kNone);
  EXPECT_EQ(o.compute.threads, 0);
  EXPECT_FALSE(o.compute.numerics);
  EXPECT_EQ(o.compute.chosen_numerics(), Numerics::kFast);
  EXPECT_EQ(o.compute.backend, BackendKind::kCpu);
  EXPECT_FALSE(o.compute.cpu_isa);
}

TEST(CommandLine, GenerateTakesEveryFlag) {
  auto o = parsed<GenerateOptions>({"generate",
                                    "-m",
                                    "dir",
                                    "-f",
                                    "a.cc",
                                    "-f",
                                    "b c.md",
                                    "-p",
                                    "what?",
                                    "--think",
                                    "max",
                                    "--max-tokens",
                                    "120",
                                    "--temperature",
                                    "0.5",
                                    "--top-p",
                                    "0.9",
                                    "--top-k",
                                    "40",
                                    "--min-p",
                                    "0.05",
                                    "--seed",
                                    "18446744073709551615",
                                    "--stop",
                                    "END",
                                    "--stop",
                                    "\n\n",
                                    "--logit-bias",
                                    "12:-3.5",
                                    "--logit-bias",
                                    "0:100",
                                    "--draft",
                                    "mtp",
                                    "--json",
                                    "--logprobs",
                                    "5",
                                    "--threads",
                                    "3",
                                    "--numerics",
                                    "native",
                                    "--backend",
                                    "reference"});
  EXPECT_EQ(o.model_dir, "dir");
  EXPECT_EQ(o.files, (std::vector<std::string>{"a.cc", "b c.md"}));
  EXPECT_EQ(o.prompt, "what?");
  EXPECT_EQ(o.think, ThinkChoice::kMax);
  EXPECT_EQ(o.max_tokens, 120);
  EXPECT_EQ(o.sampling.temperature, 0.5);
  EXPECT_EQ(o.sampling.top_p, 0.9);
  EXPECT_EQ(o.sampling.top_k, 40);
  EXPECT_EQ(o.sampling.min_p, 0.05);
  EXPECT_EQ(o.sampling.seed, std::optional<uint64_t>(18446744073709551615u));
  EXPECT_EQ(o.sampling.stop, (std::vector<std::string>{"END", "\n\n"}));
  EXPECT_EQ(o.sampling.logit_bias, (std::vector<std::pair<int64_t, float>>{{12, -3.5f}, {0, 100.f}}));
  EXPECT_EQ(o.sampling.draft, DraftChoice::kMtp);
  EXPECT_TRUE(o.json);
  EXPECT_EQ(o.logprobs, 5);
  EXPECT_EQ(o.compute.threads, 3);
  EXPECT_EQ(o.compute.numerics, Numerics::kNative);
  EXPECT_EQ(o.compute.backend, BackendKind::kReference);
}

TEST(CommandLine, FilesOfOneFlagMayFollowEachOther) {
  auto o = parsed<GenerateOptions>({"generate", "-f", "a", "b", "-p", "x", "--raw"});
  EXPECT_EQ(o.files, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(o.raw);
}

TEST(CommandLine, NumbersAreDecimal) {
  auto o = parsed<GenerateOptions>({"generate", "-p", "x", "--top-k", "010", "--temperature", "1e-3"});
  EXPECT_EQ(o.sampling.top_k, 10);
  EXPECT_EQ(o.sampling.temperature, 1e-3);
  EXPECT_CONTAINS(refused<GenerateOptions>({"generate", "-p", "x", "--top-k", "0x10"}),
                  "'0x10' is not a number");
  EXPECT_CONTAINS(refused<GenerateOptions>({"generate", "-p", "x", "--seed", "18446744073709551616"}),
                  "--seed");
}

TEST(CommandLine, GenerateRefusesWhatMakesNoSense) {
  std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{}, "give -p TEXT, -f FILE, or both"},
      {{"-p", "x", "--raw", "--think", "high"}, "--raw excludes --think"},
      {{"-p", "x", "--think", "hard"}, "'hard' is not one of off|high|max"},
      {{"-p", "x", "--max-tokens", "0"}, "--max-tokens"},
      {{"-p", "x", "--max-tokens", "many"}, "'many' is not a number"},
      {{"-p", "x", "--temperature", "-1"}, "--temperature"},
      {{"-p", "x", "--temperature", "nan"}, "--temperature"},
      {{"-p", "x", "--top-p", "0"}, "--top-p"},
      {{"-p", "x", "--top-p", "1.1"}, "--top-p"},
      {{"-p", "x", "--min-p", "2"}, "--min-p"},
      {{"-p", "x", "--top-k", "-1"}, "--top-k"},
      {{"-p", "x", "--seed", "-1"}, "--seed"},
      {{"-p", "x", "--logit-bias", "5"}, "'5' is not ID:BIAS"},
      {{"-p", "x", "--logit-bias", "-1:3"}, "is not ID:BIAS"},
      {{"-p", "x", "--logit-bias", "1:nan"}, "is not ID:BIAS"},
      {{"-p", "x", "--logprobs", "3"}, "--logprobs needs --json"},
      {{"-p", "x", "--draft", "eagle"}, "'eagle' is not one of mtp"},
      {{"-p", "x", "--threads", "0"}, "--threads"},
      {{"-p", "x", "--numerics", "int4"}, "'int4' is not one of exact|native|fast"},
      {{"-p", "x", "--backend", "tpu"}, "'tpu' is not one of reference|cpu|cuda"},
      {{"-p", "x", "--cpu-isa", "sse"}, "'sse' is not one of portable|avx2|avx512|amx"},
      {{"-p", "x", "--cpu-isa", "portable", "--backend", "reference"}, "--cpu-isa is for --backend cpu only"},
      {{"-p", "x", "--nope"}, "--nope"},
      {{"-p", "x", "stray"}, "stray"},
  };
  for (auto& [args, message] : cases) {
    args.insert(args.begin(), "generate");
    std::string err = refused<GenerateOptions>(args);
    EXPECT_CONTAINS(err, message);
    EXPECT_CONTAINS(err, "see kvasir generate --help");
  }
}

TEST(CommandLine, ReferenceComputesExactlyUnlessToldOtherwise) {
  auto o = parsed<PerplexityOptions>({"perplexity", "-f", "x", "--backend", "reference"});
  EXPECT_EQ(o.compute.chosen_numerics(), Numerics::kExact);
}

TEST(CommandLine, CpuIsaMustBeOneThatThisMachineRuns) {
  auto o = parsed<ChatOptions>({"chat", "--cpu-isa", "portable", "--think", "high", "--max-tokens", "9"});
  EXPECT_EQ(o.compute.cpu_isa, cpu::Isa::kPortable);
  EXPECT_EQ(o.think, ThinkChoice::kHigh);
  EXPECT_EQ(o.max_tokens, 9);
  for (cpu::Isa isa : {cpu::Isa::kAvx2, cpu::Isa::kAvx512, cpu::Isa::kAmx}) {
    std::vector<std::string> args = {"chat", "--cpu-isa", std::string(cpu::isa_name(isa))};
    if (cpu::isa_available(isa)) {
      EXPECT_EQ(parsed<ChatOptions>(args).compute.cpu_isa, isa);
    } else {
      EXPECT_CONTAINS(refused<ChatOptions>(args), "this machine cannot run");
    }
  }
}

TEST(CommandLine, LogitsTakesEveryFlag) {
  auto o = parsed<LogitsOptions>({"logits", "-m", "d", "--ids", "i.json", "--out", "o.safetensors", "--rows",
                                  "1,5,299", "--chunk", "127", "--tap", "--inject", "n.safetensors",
                                  "--numerics", "exact"});
  EXPECT_EQ(o.model_dir, "d");
  EXPECT_EQ(o.ids_file, "i.json");
  EXPECT_EQ(o.out_file, "o.safetensors");
  EXPECT_EQ(o.rows, (std::vector<int64_t>{1, 5, 299}));
  EXPECT_EQ(o.chunk, 127);
  EXPECT_TRUE(o.tap);
  EXPECT_EQ(o.inject_file, "n.safetensors");
  EXPECT_EQ(o.compute.numerics, Numerics::kExact);
  auto greedy = parsed<LogitsOptions>({"logits", "-m", "d", "--ids", "i.json", "--greedy", "20"});
  EXPECT_EQ(greedy.greedy, 20);
}

TEST(CommandLine, LogitsRefusesWhatMakesNoSense) {
  EXPECT_CONTAINS(refused<LogitsOptions>({"logits", "--ids", "i", "--out", "o"}), "--model is required");
  EXPECT_CONTAINS(refused<LogitsOptions>({"logits", "-m", "d", "--out", "o"}), "--ids is required");
  EXPECT_CONTAINS(refused<LogitsOptions>({"logits", "-m", "d", "--ids", "i"}),
                  "--out FILE for logits, or --greedy N");
  for (std::vector<std::string> extra :
       {std::vector<std::string>{"--out", "o"}, {"--rows", "1"}, {"--tap"}, {"--inject", "f"}}) {
    std::vector<std::string> args = {"logits", "-m", "d", "--ids", "i", "--greedy", "3"};
    args.insert(args.end(), extra.begin(), extra.end());
    EXPECT_CONTAINS(refused<LogitsOptions>(args), "excludes");
  }
  EXPECT_CONTAINS(refused<LogitsOptions>({"logits", "-m", "d", "--ids", "i", "--out", "o", "--rows", "1,-2"}),
                  "--rows");
  EXPECT_CONTAINS(refused<LogitsOptions>({"logits", "-m", "d", "--ids", "i", "--out", "o", "--chunk", "0"}),
                  "--chunk");
}

TEST(CommandLine, BenchTakesListsAndAModelOrASyntheticOne) {
  auto o = parsed<BenchOptions>({"bench", "--synthetic", "flash", "--layers", "4", "--context", "8192,131072",
                                 "--batch", "1,8", "--out", "b.json", "--json"});
  EXPECT_EQ(o.synthetic, SyntheticModel::kFlash);
  EXPECT_EQ(o.layers, 4);
  EXPECT_EQ(o.contexts, (std::vector<int64_t>{8192, 131072}));
  EXPECT_EQ(o.batches, (std::vector<int64_t>{1, 8}));
  EXPECT_EQ(o.out_file, "b.json");
  EXPECT_TRUE(o.json);
  auto defaults = parsed<BenchOptions>({"bench", "-m", "d"});
  EXPECT_EQ(defaults.contexts, (std::vector<int64_t>{512, 4096, 8192}));
  EXPECT_EQ(defaults.batches, (std::vector<int64_t>{1}));
  EXPECT_CONTAINS(refused<BenchOptions>({"bench", "-m", "d", "--synthetic", "pro"}), "excludes");
  EXPECT_CONTAINS(refused<BenchOptions>({"bench", "--layers", "4"}), "--layers requires --synthetic");
  EXPECT_CONTAINS(refused<BenchOptions>({"bench", "--context", "0"}), "--context");
  EXPECT_CONTAINS(refused<BenchOptions>({"bench", "--batch", "1,x"}), "--batch");
}

TEST(CommandLine, BenchTakesTheLayersOfASyntheticModelByTheirRatios) {
  auto o = parsed<BenchOptions>({"bench", "--synthetic", "flash", "--ratios", "4,128,0"});
  EXPECT_EQ(o.ratios, (std::vector<int>{4, 128, 0}));
  EXPECT_TRUE(parsed<BenchOptions>({"bench", "--synthetic", "flash"}).ratios.empty());
  EXPECT_CONTAINS(refused<BenchOptions>({"bench", "--synthetic", "flash", "--ratios", "4,8"}),
                  "'8' is not 0, 4 or 128");
  EXPECT_CONTAINS(refused<BenchOptions>({"bench", "--ratios", "4"}), "--ratios requires --synthetic");
  EXPECT_CONTAINS(refused<BenchOptions>({"bench", "--synthetic", "pro", "--layers", "1", "--ratios", "4"}),
                  "excludes");
}

TEST(CommandLine, TheSmallSubcommandsTakeTheirFlags) {
  auto t = parsed<TokenizeOptions>({"tokenize", "-m", "d", "-p", "text", "--json"});
  EXPECT_EQ(t.text, "text");
  EXPECT_TRUE(t.json);
  EXPECT_CONTAINS(refused<TokenizeOptions>({"tokenize", "-p", "x", "-f", "y"}), "excludes");
  EXPECT_TRUE(parsed<TokenizeOptions>({"tokenize"}).file.empty());

  auto i = parsed<InspectOptions>({"inspect", "dir", "--verify"});
  EXPECT_EQ(i.dir, "dir");
  EXPECT_TRUE(i.verify);
  EXPECT_CONTAINS(refused<InspectOptions>({"inspect"}), "dir is required");

  auto g = parsed<ExportGgufOptions>({"export-gguf", "-m", "dir", "--out", "x.gguf", "--type", "q8_0", "--mtp", "--json"});
  EXPECT_EQ(g.model_dir, "dir");
  EXPECT_EQ(g.out_file, "x.gguf");
  EXPECT_EQ(g.weights, GgufWeights::kQ8_0);
  EXPECT_TRUE(g.mtp);
  EXPECT_TRUE(g.json);
  EXPECT_EQ(parsed<ExportGgufOptions>({"export-gguf", "--out", "x"}).weights, GgufWeights::kBf16);
  EXPECT_CONTAINS(refused<ExportGgufOptions>({"export-gguf"}), "--out is required");
  EXPECT_CONTAINS(refused<ExportGgufOptions>({"export-gguf", "--out", "x", "--type", "q4"}), "'q4' is not one of f32|bf16|q8_0|mxfp4");

  EXPECT_EQ(parsed<PerplexityOptions>({"perplexity", "-f", "x"}).file, "x");
  EXPECT_CONTAINS(refused<PerplexityOptions>({"perplexity"}), "--file is required");

  auto m = parsed<MemoryOptions>({"memory", "--model", "flash", "--context", "131072", "--json"});
  EXPECT_EQ(m.model, "flash");
  EXPECT_EQ(m.context, 131072);
  EXPECT_TRUE(m.json);
  EXPECT_EQ(parsed<MemoryOptions>({"memory", "--model", "pro"}).context, 1048576);
  EXPECT_CONTAINS(refused<MemoryOptions>({"memory", "--model", "pro", "--context", "-5"}),
                  "'-5' is not a number from 1");
  EXPECT_CONTAINS(refused<MemoryOptions>({"memory", "--model", "pro", "--context", "99999999999999999999"}),
                  "--context");
}

TEST(CommandLine, CacheSaysWhereAFolderBelongs) {
  auto o = parsed<CacheOptions>({"cache", "export", "all.kv", "--cache-dir", "/c", "--prefix", "ab"});
  EXPECT_EQ(o.action, "export");
  EXPECT_EQ(o.file, "all.kv");
  EXPECT_EQ(o.folder, "/c");
  EXPECT_EQ(o.prefix, "ab");
  EXPECT_CONTAINS(refused<CacheOptions>({"cache", "stat", "/c"}), "a cache's folder is named by --cache-dir /c");
  EXPECT_CONTAINS(refused<CacheOptions>({"cache", "import"}), "import: which FILE?");
  EXPECT_CONTAINS(refused<CacheOptions>({"cache", "prune"}), "--prefix ID or --max-bytes N?");
}

TEST(CommandLine, HelpAndVersionPrintOnStandardOutput) {
  CommandLine line;
  line.add([](const MemoryOptions&) { return 1; });
  Outcome help = run(line, {"--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_CONTAINS(help.out, "memory");
  EXPECT_EQ(help.out.find("generate"), std::string::npos) << "a subcommand that was not added does not exist";
  Outcome version = run(line, {"--version"});
  EXPECT_EQ(version.code, 0);
  EXPECT_EQ(version.out.rfind("kvasir ", 0), 0u) << version.out;
}

TEST(CommandLine, EverySubcommandHasHelpThatNeedsNothingElse) {
  CommandLine line;
  auto never = [](const auto&) { return 1; };
  line.add([&](const GenerateOptions& o) { return never(o); });
  line.add([&](const ChatOptions& o) { return never(o); });
  line.add([&](const LogitsOptions& o) { return never(o); });
  line.add([&](const PerplexityOptions& o) { return never(o); });
  line.add([&](const TokenizeOptions& o) { return never(o); });
  line.add([&](const InspectOptions& o) { return never(o); });
  line.add([&](const MemoryOptions& o) { return never(o); });
  line.add([&](const BenchOptions& o) { return never(o); });
  for (const char* name :
       {"generate", "chat", "logits", "perplexity", "tokenize", "inspect", "memory", "bench"}) {
    Outcome o = run(line, {name, "--help"});
    EXPECT_EQ(o.code, 0) << name << o.err;
    EXPECT_CONTAINS(o.out, std::string("kvasir ") + name);
    bool computes =
        std::string(name) != "tokenize" && std::string(name) != "inspect" && std::string(name) != "memory";
    EXPECT_EQ(o.out.find("--numerics") != std::string::npos, computes) << name;
  }
}

TEST(CommandLine, NoSubcommandAndAWrongOneListThoseThereAre) {
  EXPECT_CONTAINS(refused<MemoryOptions>({}), "which subcommand? there are memory");
  EXPECT_CONTAINS(refused<MemoryOptions>({"memroy"}), "no subcommand 'memroy'; there are memory");
}

}  // namespace
}  // namespace kvasir
