// tokenizer_bench: how fast V4's tokenizer encodes, decodes and loads, on one core.
//
//   cmake --preset cpu -DKVASIR_BENCH=ON && cmake --build build --target tokenizer_bench
//   build/bench/tokenizer_bench FOLDER [--out FILE.json]      FOLDER holds tokenizer.json
//
// Prints a table, best of five runs each, and writes it as JSON with the command and the machine. Every
// encoding is decoded and compared: a wrong one ends the bench with exit code 1.
#include <fmt/core.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace kvasir {
namespace {

namespace fs = std::filesystem;

// Processor time of this one thread: other programs on the machine do not count as ours.
double seconds_now() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

template <class F>
double best_seconds(F&& run) {
  double best = 1e9;
  for (int i = 0; i < 5; ++i) {
    const double start = seconds_now();
    run();
    best = std::min(best, seconds_now() - start);
  }
  return best;
}

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// The repository's own sources and documents, in the order of their names.
std::string repository_source() {
  std::vector<fs::path> paths;
  for (const char* folder : {"src", "docs", "bench", "tools"}) {
    std::error_code absent;
    for (const auto& entry : fs::recursive_directory_iterator(fs::path(KVASIR_SOURCE_DIR) / folder, absent)) {
      const std::string kind = entry.path().extension().string();
      if (kind == ".cc" || kind == ".h" || kind == ".md" || kind == ".py") paths.push_back(entry.path());
    }
  }
  std::sort(paths.begin(), paths.end());
  std::string text;
  for (const fs::path& path : paths) text += read_file(path);
  return text;
}

// Source code of `bytes` bytes, from identifiers that the tokenizer mostly has not met before.
std::string generated_source(size_t bytes) {
  const char* words[] = {"token", "cache",  "row",    "expert", "gate",   "page", "index", "weight", "stream",
                         "batch", "prefix", "buffer", "shape",  "kernel", "rope", "norm",  "window", "layer"};
  std::mt19937 random(1);
  const auto word = [&] { return words[random() % std::size(words)]; };
  const auto name = [&] {
    std::string out = word();
    for (uint32_t n = random() % 3; n > 0; --n) out += fmt::format("_{}", word());
    if (random() % 4 == 0) out += std::to_string(random() % 1000);
    return out;
  };
  std::string text;
  while (text.size() < bytes) {
    text += fmt::format("// The {} of each {}, in {} order.\n", word(), word(), word());
    text += fmt::format("static int64_t {}(const float* {}, int64_t {}) {{\n", name(), name(), name());
    for (uint32_t n = 2 + random() % 8; n > 0; --n) {
      text +=
          fmt::format("  for (int i = 0; i < {}; ++i) {{\n    {}[i] += {}({}, {}.0f) * {}[i + 1];\n  }}\n",
                      random() % 4096, name(), name(), name(), random() % 100000, name());
    }
    text += fmt::format("  return {};\n}}\n\n", name());
  }
  return text;
}

std::string random_text(size_t bytes, std::string_view alphabet) {
  std::mt19937 random(2);
  std::string text(bytes, '\0');
  for (char& c : text) c = alphabet[random() % alphabet.size()];
  return text;
}

std::string random_han(size_t bytes) {
  std::mt19937 random(3);
  std::string text;
  while (text.size() + 3 <= bytes) {
    const uint32_t c = 0x4e00 + random() % 20902;
    text += {static_cast<char>(0xe0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)),
             static_cast<char>(0x80 | (c & 63))};
  }
  return text;
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(": ") + 2);
  }
  return "unknown";
}

int run(int argc, char** argv) {
  std::string folder, out_path, command;
  for (int i = 0; i < argc; ++i) {
    const std::string_view argument = argv[i];
    command += fmt::format("{}{}", i > 0 ? " " : "", argument);
    if (argument == "--out" && i + 1 < argc) {
      out_path = argv[++i];
      command += fmt::format(" {}", out_path);
    } else if (i > 0) {
      folder = argument;
    }
  }
  auto tokenizer = Tokenizer::load(folder);
  if (!tokenizer) {
    fmt::print(stderr, "tokenizer_bench: {}\n", tokenizer.error().message);
    return 2;
  }
  const double load = best_seconds([&] { tokenizer = Tokenizer::load(folder); });
  fmt::print("load {:.1f} ms, {} tokens\n{:<20}{:>12}{:>12}{:>14}{:>14}\n", load * 1e3,
             tokenizer->vocab_size(), "text", "bytes", "tokens", "encode MB/s", "decode MB/s");

  constexpr size_t kBytes = 10'000'000;
  constexpr std::string_view kBase64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const std::pair<const char*, std::string> texts[] = {
      {"source, repository", repository_source()},
      {"source, generated", generated_source(kBytes)},
      {"one letter repeated", std::string(kBytes, 'a')},
      {"one blank repeated", std::string(kBytes, ' ')},
      {"base64", random_text(kBytes, kBase64)},
      {"random Han", random_han(kBytes)},
      {"random letters", random_text(kBytes, kBase64.substr(26, 26))},
  };
  std::string rows;
  for (const auto& [name, text] : texts) {
    std::vector<TokenId> ids;
    const double encode = best_seconds([&] { ids = tokenizer->encode(text); });
    std::string back;
    const double decode = best_seconds([&] { back = tokenizer->decode(ids); });
    if (back != text) {
      fmt::print(stderr, "tokenizer_bench: {} does not come back\n", name);
      return 1;
    }
    const double mb = static_cast<double>(text.size()) / 1e6;
    fmt::print("{:<20}{:>12}{:>12}{:>14.1f}{:>14.1f}\n", name, text.size(), ids.size(), mb / encode,
               mb / decode);
    rows += fmt::format(
        "{}\n    {{\"text\": \"{}\", \"bytes\": {}, \"tokens\": {}, \"encode_mb_per_s\": {:.1f}, "
        "\"decode_mb_per_s\": {:.1f}}}",
        rows.empty() ? "" : ",", name, text.size(), ids.size(), mb / encode, mb / decode);
  }
  if (out_path.empty()) return 0;
  std::ofstream(out_path) << fmt::format(
      "{{\n  \"bench\": \"tokenizer\",\n  \"command\": \"{}\",\n  \"machine\": \"{}, 1 core\",\n  \"time\": "
      "\"processor time, best of 5\",\n  \"vocab\": "
      "{},\n"
      "  \"load_ms\": {:.1f},\n  \"texts\": [{}\n  ]\n}}\n",
      command, cpu_name(), tokenizer->vocab_size(), load * 1e3, rows);
  return 0;
}

}  // namespace
}  // namespace kvasir

int main(int argc, char** argv) { return kvasir::run(argc, argv); }
