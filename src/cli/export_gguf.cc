// The tokenizer in GGUF's spelling, and the subcommand around model/gguf_export.h.
#include "cli/export_gguf.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>

#include "base/json_writer.h"
#include "cli/error.h"
#include "cli/progress_bar.h"
#include "cli/session.h"
#include "cli/table.h"
#include "io/file.h"
#include "model/load.h"

namespace kvasir {
namespace {

// llama.cpp's kinds of tokens.
constexpr int32_t kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5;

// Bytes as GGUF spells them, one printable character each: GPT-2's alphabet, where the bytes that print as
// themselves stay and the others, in order, are the characters from U+0100 on.
class ByteSpelling {
 public:
  ByteSpelling() {
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      const uint32_t code = itself ? b : next++;
      if (code >= 0x80) spelled_[b] += static_cast<char>(0xc0 | code >> 6);
      spelled_[b] += static_cast<char>(code < 0x80 ? code : 0x80 | (code & 0x3f));
    }
  }
  std::string of(std::string_view bytes) const {
    std::string out;
    for (char c : bytes) out += spelled_[static_cast<uint8_t>(c)];
    return out;
  }

 private:
  std::array<std::string, 256> spelled_;
};

void add_special_ids(const TokenizerFile& file, const ModelConfig& config, GgufMetadata& metadata) {
  metadata.add("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(config.bos_id));
  metadata.add("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(config.eos_id));
  constexpr std::pair<const char*, std::string_view> kByContent[] = {{"padding", "<｜▁pad▁｜>"},
                                                                     {"fim_pre", "<｜fim▁begin｜>"},
                                                                     {"fim_suf", "<｜fim▁hole｜>"},
                                                                     {"fim_mid", "<｜fim▁end｜>"}};
  for (const auto& [key, content] : kByContent) {
    auto found = std::find_if(file.added.begin(), file.added.end(),
                              [&, text = content](const auto& a) { return a.content == text; });
    if (found != file.added.end())
      metadata.add(fmt::format("tokenizer.ggml.{}_token_id", key), static_cast<uint32_t>(found->id));
  }
  metadata.add("tokenizer.ggml.add_bos_token", false);  // V4's chat encoding writes it
}

}  // namespace

Status add_tokenizer(const TokenizerFile& file, const ModelConfig& config, GgufMetadata& metadata) {
  const auto vocab = static_cast<size_t>(config.vocab_size);
  if (file.tokens.size() > vocab)
    return Error{ErrorCode::kInvalid,
                 fmt::format("tokenizer.json has token ids up to {}, config.json a vocabulary of {}",
                             file.tokens.size() - 1, vocab)};
  for (auto [id, what] :
       {std::pair{config.bos_id, "bos_token_id"}, std::pair{config.eos_id, "eos_token_id"}}) {
    if (id < 0 || static_cast<size_t>(id) >= file.tokens.size() ||
        file.tokens[static_cast<size_t>(id)].empty())
      return Error{ErrorCode::kInvalid,
                   fmt::format("config.json: {} is {}, which tokenizer.json does not have", what, id)};
  }
  const ByteSpelling spelling;
  // Ids without a token need a name of their own; no byte-level token has a space in it.
  std::vector<std::string> tokens(vocab), merges;
  std::vector<int32_t> kinds(vocab, kNormal);
  for (size_t i = 0; i < vocab; ++i) {
    const bool known = i < file.tokens.size() && !file.tokens[i].empty();
    tokens[i] = known ? spelling.of(file.tokens[i]) : fmt::format("[unused {}]", i);
    if (!known) kinds[i] = kUnused;
  }
  for (const TokenizerFile::Added& a : file.added) {
    tokens[static_cast<size_t>(a.id)] = a.content;
    kinds[static_cast<size_t>(a.id)] = a.special ? kControl : kUserDefined;
  }
  for (const Bpe::Merge& m : file.merges)
    merges.push_back(tokens[static_cast<size_t>(m.left)] + " " + tokens[static_cast<size_t>(m.right)]);
  metadata.add("tokenizer.ggml.model", "gpt2");
  metadata.add("tokenizer.ggml.pre", "joyai-llm");  // the name under which readers know V4's three splits
  metadata.add("tokenizer.ggml.tokens", std::span<const std::string>(tokens));
  metadata.add("tokenizer.ggml.token_type", std::span<const int32_t>(kinds));
  metadata.add("tokenizer.ggml.merges", std::span<const std::string>(merges));
  add_special_ids(file, config, metadata);
  return {};
}

namespace {

Status run(const ExportGgufOptions& options) {
  std::string dir = options.model_dir;
  if (dir.empty()) {
    KVASIR_TRY(dir, bundled_model_dir());
  }
  KVASIR_TRY(LoadedModel loaded, load_checkpoint(dir, {}));
  for (const std::string& note : loaded.notes) std::fprintf(stderr, "%s\n", error_line(note).c_str());
  const std::string tokenizer = (std::filesystem::path(dir) / "tokenizer.json").string();
  KVASIR_TRY(std::string text, read_text_file(tokenizer, static_cast<int64_t>(TokenizerFile::kMaxBytes)));
  KVASIR_TRY(TokenizerFile file, parse_tokenizer_file(text, tokenizer));
  ProgressBar bar;
  GgufExportOptions how{options.weights, options.mtp, &bar};
  GgufMetadata metadata;
  add_architecture(loaded.model.config, how, metadata);
  const std::string name = std::filesystem::path(dir).lexically_normal().filename().string();
  metadata.add("general.name", std::string_view(name.empty() ? "model" : name));
  KVASIR_TRY_STATUS(add_tokenizer(file, loaded.model.config, metadata));
  KVASIR_TRY(GgufExportReport report, export_gguf(loaded.model, metadata, options.out_file, how));
  if (options.json) {
    JsonWriter json;
    json.begin_object()
        .field("file", options.out_file)
        .field("tensors", report.tensors)
        .field("bytes", report.bytes)
        .end_object();
    std::puts(json.text().c_str());
  } else {
    std::printf("%s: %lld tensors, %s\n", options.out_file.c_str(), static_cast<long long>(report.tensors),
                human_bytes(static_cast<double>(report.bytes)).c_str());
  }
  return {};
}

}  // namespace

int run_export_gguf(const ExportGgufOptions& options) {
  Status status = run(options);
  return status ? kExitOk : report_error(status.error());
}

}  // namespace kvasir
