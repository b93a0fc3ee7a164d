// kvasir tokenize: prints the ids of a text and, line by line, what each stands for.
#include "cli/tokenize.h"

#include <cstdio>
#include <iostream>
#include <iterator>

#include "base/json_writer.h"
#include "cli/error.h"
#include "cli/session.h"
#include "io/file.h"
#include "text/tokenizer.h"

namespace kvasir {
namespace {

constexpr int64_t kMaxBytes = int64_t{1} << 30;

Result<std::string> input_text(const TokenizeOptions& options) {
  if (!options.file.empty()) return read_text_file(options.file, kMaxBytes);
  if (!options.text.empty()) return options.text;
  return std::string(std::istreambuf_iterator<char>(std::cin), {});
}

Status run(const TokenizeOptions& options) {
  std::string dir = options.model_dir;
  if (dir.empty()) {
    KVASIR_TRY(dir, bundled_model_dir());
  }
  KVASIR_TRY(Tokenizer tokenizer, Tokenizer::load(dir));
  KVASIR_TRY(std::string text, input_text(options));
  std::vector<TokenId> ids = tokenizer.encode(text);
  if (options.json) {
    JsonWriter json;
    json.begin_object().begin_array("ids");
    for (TokenId id : ids) json.value(id);
    json.end_array().field("count", ids.size()).end_object();
    std::puts(json.text().c_str());
    return {};
  }
  for (TokenId id : ids) std::printf("%d\t%s\n", id, json_quote(tokenizer.token_bytes(id)).c_str());
  std::fprintf(stderr, "%zu tokens, %zu bytes\n", ids.size(), text.size());
  return {};
}

}  // namespace

int run_tokenize(const TokenizeOptions& options) {
  Status status = run(options);
  return status ? kExitOk : report_error(status.error());
}

}  // namespace kvasir
