// The tokenizer's keys, and the subcommand on the bundled model.
#include "cli/export_gguf.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "cli/error.h"
#include "io/file.h"
#include "io/gguf_reader_test.h"
#include "io/temp_dir.h"

namespace kvasir {
namespace {

// Three characters' worth of a tokenizer: id 4 does not exist.
TokenizerFile small_file() {
  TokenizerFile f;
  f.tokens = {"t", "h", "th", " ", "", "\n\xff", "<s>", "</s>", "<｜▁pad▁｜>"};
  f.merges = {{0, 1, 2}};
  f.added = {{6, "<s>", true}, {7, "</s>", true}, {8, "<｜▁pad▁｜>", false}};
  return f;
}

ModelConfig small_config() {
  ModelConfig c;
  c.vocab_size = 12;
  c.bos_id = 6;
  c.eos_id = 7;
  return c;
}

TEST(ExportGguf, TokensAreSpelledInGpt2sAlphabetAndIdsWithoutOneAreUnused) {
  GgufMetadata metadata;
  ASSERT_TRUE(add_tokenizer(small_file(), small_config(), metadata));
  TempDir dir;
  auto writer = GgufWriter::create(dir.file("x.gguf"), metadata, {});
  ASSERT_TRUE(writer && writer->finish());
  std::string file = dir.read("x.gguf");
  GgufReader read(file);
  ASSERT_FALSE(read.failed());
  EXPECT_EQ(read.values["tokenizer.ggml.tokens"].texts,
            (std::vector<std::string>{"t", "h", "th", "Ġ", "[unused 4]", "Ċÿ", "<s>", "</s>", "<｜▁pad▁｜>",
                                      "[unused 9]", "[unused 10]", "[unused 11]"}));
  EXPECT_EQ(read.values["tokenizer.ggml.token_type"].numbers,
            (std::vector<double>{1, 1, 1, 1, 5, 1, 3, 3, 4, 5, 5, 5}));
  EXPECT_EQ(read.values["tokenizer.ggml.merges"].texts, std::vector<std::string>{"t h"});
  EXPECT_EQ(read.values["tokenizer.ggml.model"].text(), "gpt2");
  EXPECT_EQ(read.values["tokenizer.ggml.pre"].text(), "joyai-llm");
  EXPECT_EQ(read.number_of("tokenizer.ggml.bos_token_id"), 6);
  EXPECT_EQ(read.number_of("tokenizer.ggml.eos_token_id"), 7);
  EXPECT_EQ(read.number_of("tokenizer.ggml.padding_token_id"), 8);
  EXPECT_EQ(read.number_of("tokenizer.ggml.add_bos_token"), 0);
}

TEST(ExportGguf, ATokenizerThatDoesNotFitItsModelIsRefused) {
  GgufMetadata metadata;
  ModelConfig c = small_config();
  c.vocab_size = 8;
  Status status = add_tokenizer(small_file(), c, metadata);
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().message.find("ids up to 8"), std::string::npos) << status.error().message;
  c = small_config();
  c.eos_id = 4;
  status = add_tokenizer(small_file(), c, metadata);
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().message.find("eos_token_id is 4"), std::string::npos) << status.error().message;
}

TEST(ExportGguf, TheBundledModelIsExportedWhole) {
  TempDir dir;
  const std::string model = KVASIR_SOURCE_DIR "/models/nano";
  testing::internal::CaptureStdout();
  const int code = run_export_gguf(
      {.model_dir = model, .out_file = dir.file("nano.gguf"), .weights = GgufWeights::kMxfp4, .json = true});
  std::string out = testing::internal::GetCapturedStdout();
  ASSERT_EQ(code, kExitOk);
  EXPECT_NE(out.find("\"tensors\":240"), std::string::npos) << out;
  std::string file = dir.read("nano.gguf");
  GgufReader read(file);
  ASSERT_FALSE(read.failed());
  EXPECT_EQ(read.values["general.name"].text(), "nano");
  EXPECT_EQ(read.number_of("deepseek4.attention.key_length"), 96);
  EXPECT_EQ(read.values["tokenizer.ggml.tokens"].texts.size(), 6144u);
  EXPECT_EQ(read.values["tokenizer.ggml.merges"].texts.size(), 5849u);
  EXPECT_EQ(read.values["tokenizer.ggml.tokens"].texts[6105], "<｜begin▁of▁sentence｜>");
  EXPECT_EQ(read.number_of("tokenizer.ggml.fim_suf_token_id"), 6108);
}

TEST(ExportGguf, AFolderWithoutATokenizerIsRefused) {
  TempDir dir;
  const std::string model = KVASIR_SOURCE_DIR "/models/nano";
  for (const char* name : {"config.json", "model.safetensors"})
    std::filesystem::create_symlink(model + "/" + name, dir.file(name));
  testing::internal::CaptureStderr();
  const int code = run_export_gguf({.model_dir = dir.path(), .out_file = dir.file("x.gguf")});
  std::string err = testing::internal::GetCapturedStderr();
  EXPECT_EQ(code, kExitBadInput);
  EXPECT_NE(err.find("tokenizer.json"), std::string::npos) << err;
  EXPECT_FALSE(std::filesystem::exists(dir.file("x.gguf")));
}

}  // namespace
}  // namespace kvasir
