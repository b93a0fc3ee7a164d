// What the writer makes, byte by byte where it matters and through a reader of its own.
#include "io/gguf_writer.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "io/gguf_reader_test.h"
#include "io/temp_dir.h"

namespace kvasir {
namespace {

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

TEST(GgufWriter, KeysOfEveryTypeComeBackAsTheyWentIn) {
  GgufMetadata m;
  m.add("a.u32", uint32_t{4'000'000'000});
  m.add("a.f32", 1e-6f);
  m.add("a.yes", true);
  m.add("a.no", false);
  m.add("a.literal", "yarn");
  m.add("a.text", std::string_view("<｜User｜>"));
  const std::vector<int32_t> ints{0, -4, 128};
  const std::vector<float> floats{10, 0.5f};
  const std::vector<std::string> texts{"", "Ġthe", "a b"};
  m.add("a.ints", std::span<const int32_t>(ints));
  m.add("a.floats", std::span<const float>(floats));
  m.add("a.texts", std::span<const std::string>(texts));
  TempDir dir;
  auto writer = GgufWriter::create(dir.file("x.gguf"), m, {});
  ASSERT_TRUE(writer) << writer.error().message;
  ASSERT_TRUE(writer->finish());

  std::string file = dir.read("x.gguf");
  GgufReader read(file);
  ASSERT_FALSE(read.failed());
  EXPECT_EQ(read.values.size(), 9u);
  EXPECT_EQ(read.number_of("a.u32"), 4e9);
  EXPECT_EQ(read.number_of("a.f32"), static_cast<double>(1e-6f));
  EXPECT_EQ(read.number_of("a.yes"), 1);
  EXPECT_EQ(read.values["a.yes"].type, 7u);
  EXPECT_EQ(read.number_of("a.no"), 0);
  EXPECT_EQ(read.values["a.literal"].text(), "yarn");
  EXPECT_EQ(read.values["a.text"].text(), "<｜User｜>");
  EXPECT_EQ(read.values["a.ints"].numbers, (std::vector<double>{0, -4, 128}));
  EXPECT_EQ(read.values["a.floats"].numbers, (std::vector<double>{10, 0.5}));
  EXPECT_EQ(read.values["a.texts"].texts, texts);
}

TEST(GgufWriter, TensorsLieAlignedInTheOrderGivenWhateverTheirSize) {
  TempDir dir;
  auto writer = GgufWriter::create(
      dir.file("x.gguf"), {},
      {{"odd", GgufType::kF32, {3}}, {"ids", GgufType::kI32, {2, 5}}, {"last", GgufType::kF32, {1}}});
  ASSERT_TRUE(writer) << writer.error().message;
  std::vector<float> odd{1, 2, 3}, last{7};
  std::vector<int32_t> ids{0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  ASSERT_TRUE(writer->write(bytes_of(odd).first(5)));  // pieces of any size
  ASSERT_TRUE(writer->write(bytes_of(odd).subspan(5)));
  ASSERT_TRUE(writer->write(bytes_of(ids)));
  ASSERT_TRUE(writer->write(bytes_of(last)));
  EXPECT_FALSE(std::filesystem::exists(dir.file("x.gguf")));  // not before it is whole
  ASSERT_TRUE(writer->finish());

  std::string file = dir.read("x.gguf");
  EXPECT_EQ(file.size() % 32, 0u);
  GgufReader read(file);
  ASSERT_FALSE(read.failed());
  EXPECT_EQ(read.tensors["odd"].offset, 0u);
  EXPECT_EQ(read.tensors["ids"].offset, 32u);
  EXPECT_EQ(read.tensors["last"].offset, 96u);
  EXPECT_EQ(read.tensors["ids"].dims, (std::vector<uint64_t>{2, 5}));
  EXPECT_EQ(read.tensors["ids"].type, 26u);
  EXPECT_EQ(read.tensors["odd"].floats(3), odd);
  EXPECT_EQ(std::memcmp(read.tensors["ids"].bytes.data(), ids.data(), 40), 0);
  EXPECT_EQ(read.tensors["last"].floats(1), last);
}

TEST(GgufWriter, BlockTypesHaveTheSizesOfGgml) {
  EXPECT_EQ(gguf_bytes(GgufType::kQ8_0, 64), 68);
  EXPECT_EQ(gguf_bytes(GgufType::kMxfp4, 64), 34);
  EXPECT_EQ(gguf_bytes(GgufType::kBf16, 3), 6);
  EXPECT_EQ((GgufTensor{"x", GgufType::kQ8_0, {32, 4, 2}}).bytes(), 272);
}

TEST(GgufWriter, AFileThatCannotBeMadeIsAnErrorWithItsPath) {
  auto writer = GgufWriter::create("/no/such/folder/x.gguf", {}, {});
  ASSERT_FALSE(writer);
  EXPECT_NE(writer.error().message.find("/no/such/folder/x.gguf"), std::string::npos)
      << writer.error().message;
}

TEST(GgufWriter, NothingIsLeftBehindByAWriterThatIsDropped) {
  TempDir dir;
  {
    auto writer = GgufWriter::create(dir.file("x.gguf"), {}, {{"t", GgufType::kF32, {4}}});
    ASSERT_TRUE(writer) << writer.error().message;
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

}  // namespace
}  // namespace kvasir
