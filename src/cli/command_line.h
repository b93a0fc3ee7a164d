// CommandLine: from argv to one subcommand's options struct and the function that runs it.
//
//   CommandLine line;
//   line.add(run_memory);            // the options type says which subcommand this is
//   return line.run(argc, argv);
//
// Every flag of every subcommand is declared in command_line.cc, the only file that includes CLI11. A
// subcommand that was not added does not exist: neither in --help nor to the parser.
// Threading: one thread.
#pragma once

#include <functional>
#include <memory>

namespace kvasir {

struct GenerateOptions;
struct ChatOptions;
struct ServeOptions;
struct KeyOptions;
struct LogitsOptions;
struct PerplexityOptions;
struct TokenizeOptions;
struct InspectOptions;
struct MemoryOptions;
struct CacheOptions;
struct ExportGgufOptions;
struct BenchOptions;

class CommandLine {
 public:
  CommandLine();
  ~CommandLine();

  // `run` returns the process's exit code.
  void add(std::function<int(const GenerateOptions&)> run);
  void add(std::function<int(const ChatOptions&)> run);
  void add(std::function<int(const ServeOptions&)> run);
  void add(std::function<int(const KeyOptions&)> run);
  void add(std::function<int(const LogitsOptions&)> run);
  void add(std::function<int(const PerplexityOptions&)> run);
  void add(std::function<int(const TokenizeOptions&)> run);
  void add(std::function<int(const InspectOptions&)> run);
  void add(std::function<int(const MemoryOptions&)> run);
  void add(std::function<int(const CacheOptions&)> run);
  void add(std::function<int(const ExportGgufOptions&)> run);
  void add(std::function<int(const BenchOptions&)> run);

  // Parses, runs what was asked for and returns its exit code. --help and --version print and return 0;
  // anything wrong is one line on standard error and kExitBadInput.
  int run(int argc, const char* const* argv);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kvasir
