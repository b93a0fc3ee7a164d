// Headers that must be refused, each with one line that names file, tensor, seen and expected; and files
// that the writer makes, read back.
#include "io/safetensors.h"

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstring>

#include "io/safetensors_writer.h"
#include "io/temp_dir.h"

namespace kvasir {
namespace {

std::string file_of(std::string_view json, int64_t data_bytes) {
  std::string out(8, '\0');
  uint64_t length = json.size();
  std::memcpy(out.data(), &length, 8);
  out += json;
  out.append(static_cast<size_t>(data_bytes), '\x01');
  return out;
}

Result<SafetensorsHeader> parse(const std::string& file) {
  return parse_safetensors_header(std::as_bytes(std::span(file)), static_cast<int64_t>(file.size()),
                                  "x.safetensors");
}

// The file is refused as bad input, in one line that holds every one of `words`.
void expect_refused(const std::string& file, std::initializer_list<std::string_view> words) {
  auto header = parse(file);
  ASSERT_FALSE(header);
  EXPECT_EQ(header.error().code, ErrorCode::kInvalid);
  const std::string& message = header.error().message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  EXPECT_EQ(message.rfind("x.safetensors", 0), 0u) << message;
  for (std::string_view word : words)
    EXPECT_NE(message.find(word), std::string::npos) << message << "\n  lacks: " << word;
}

TEST(Safetensors, ReadsNamesTypesShapesAndPlaces) {
  std::string json =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
      R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})";
  std::string file = file_of(json, 16);
  auto header = parse(file);
  ASSERT_TRUE(header) << header.error().message;
  ASSERT_EQ(header->tensors.size(), 2u);
  EXPECT_EQ(header->tensors[0].name, "a");
  EXPECT_TRUE(header->tensors[0].shape.empty());
  EXPECT_EQ(header->tensors[1].dtype, DType::kBF16);
  EXPECT_EQ(header->tensors[1].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(header->tensors[1].begin, static_cast<int64_t>(8 + json.size()) + 4);
  EXPECT_EQ(header->tensors[1].bytes, 12);
  EXPECT_EQ(header->metadata, (std::vector<std::pair<std::string, std::string>>{{"format", "pt"}}));
  EXPECT_EQ(header->unused_bytes, 0);
}

TEST(Safetensors, CountsBytesOfNoTensor) {
  auto header = parse(file_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[8,12]}})", 20));
  ASSERT_TRUE(header) << header.error().message;
  EXPECT_EQ(header->unused_bytes, 16);
}

TEST(Safetensors, AcceptsEmptyTensorsWhereverTheyStand) {
  auto header = parse(file_of(
      R"({"a":{"dtype":"F32","shape":[0,7],"data_offsets":[2,2]},"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
      4));
  EXPECT_FALSE(header);  // inside another tensor's bytes: an overlap
  header = parse(file_of(
      R"({"a":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
      4));
  ASSERT_TRUE(header) << header.error().message;
}

TEST(Safetensors, RefusesFilesTooShortForTheirHeader) {
  expect_refused("", {"0 bytes", "too short"});
  expect_refused("1234567", {"7 bytes", "too short"});
  std::string truncated =
      file_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 0).substr(0, 30);
  expect_refused(truncated, {"header of 53 bytes", "file of 30 bytes"});
}

TEST(Safetensors, RefusesHugeHeaderLengths) {
  std::string file = file_of("{}", 0);
  for (uint64_t length : {uint64_t{1} << 40, ~uint64_t{0}, uint64_t{100'000'000}}) {
    std::memcpy(file.data(), &length, 8);
    expect_refused(file, {fmt::format("{} bytes", length), "at most 67108864"});
  }
}

TEST(Safetensors, RefusesATensorOutsideTheFile) {
  expect_refused(file_of(R"({"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})", 15),
                 {"tensor w", "0 to 16", "15 bytes", "truncated"});
  expect_refused(
      file_of(R"({"w":{"dtype":"U8","shape":[4],"data_offsets":[9223372036854775800,9223372036854775804]}})",
              15),
      {"tensor w", "outside the file"});
}

TEST(Safetensors, RefusesOverlappingTensors) {
  expect_refused(
      file_of(
          R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[8],"data_offsets":[7,15]}})",
          15),
      {"tensor b", "overlap", "a"});
  expect_refused(
      file_of(
          R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})",
          8),
      {"overlap"});
}

TEST(Safetensors, RefusesAShapeThatIsNotTheByteRange) {
  expect_refused(file_of(R"({"w":{"dtype":"BF16","shape":[3],"data_offsets":[0,8]}})", 8),
                 {"tensor w", "has 8 bytes", "expected 6 for BF16 [3]"});
  // A product that overflows 64 bits does not wrap into the right size.
  expect_refused(file_of(R"({"w":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0),
                 {"tensor w"});
  expect_refused(file_of(R"({"w":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", 1),
                 {"tensor w", "whole number of bytes"});
}

TEST(Safetensors, RefusesWrongRecords) {
  expect_refused(file_of(R"({"w":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}})", 4),
                 {"tensor w", "F99", "expected"});
  expect_refused(file_of(R"({"w":{"shape":[1],"data_offsets":[0,4]}})", 4), {"tensor w", "\"dtype\""});
  expect_refused(file_of(R"({"w":{"dtype":"F32","data_offsets":[0,4]}})", 4), {"tensor w", "\"shape\""});
  expect_refused(file_of(R"({"w":{"dtype":"F32","shape":[1]}})", 4), {"tensor w", "\"data_offsets\""});
  expect_refused(file_of(R"({"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4),
                 {"tensor w", "shape"});
  expect_refused(file_of(R"({"w":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4),
                 {"tensor w", "shape"});
  expect_refused(file_of(R"({"w":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})", 4),
                 {"tensor w", "more than 8"});
  expect_refused(file_of(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4),
                 {"tensor w", "[4, 0]"});
  expect_refused(file_of(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4),
                 {"tensor w", "[begin, end]"});
  expect_refused(file_of(R"({"w":7})", 0), {"tensor w", "an integer", "expected an object"});
  expect_refused(file_of(R"([])", 0), {"an array", "expected an object"});
  expect_refused(file_of(R"({"__metadata__":{"a":1}})", 0), {"__metadata__", "expected a string"});
}

TEST(Safetensors, RefusesANameGivenTwice) {
  expect_refused(
      file_of(
          R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
          2),
      {"tensor w", "twice"});
}

TEST(Safetensors, RefusesJsonBombs) {
  std::string deep = std::string(1 << 20, '[') + std::string(1 << 20, ']');
  expect_refused(file_of(deep, 0), {"deeper than 8"});
  std::string nested;
  for (int i = 0; i < 100000; ++i) nested += R"({"a":)";
  nested += "0" + std::string(100000, '}');
  expect_refused(file_of(nested, 0), {"deeper than 8"});
  expect_refused(file_of(std::string(1 << 20, '['), 0), {"not valid JSON"});
  expect_refused(file_of("{\"w\"", 0), {"not valid JSON"});
  expect_refused(file_of("", 0), {"empty"});
  expect_refused(file_of("{\"\xff\": 1}", 0), {"not valid JSON"});
}

TEST(Safetensors, KeepsAHostileNameInsideOneLine) {
  expect_refused(file_of(R"({"a\nb\u001b[31m":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4),
                 {"a\\x0ab\\x1b[31m"});
  std::string name(100000, 'n');
  auto header = parse(file_of("{\"" + name + R"(":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4));
  ASSERT_FALSE(header);
  EXPECT_LT(header.error().message.size(), 400u);
}

TEST(SafetensorsWriter, WritesWhatTheReaderReads) {
  TempDir dir;
  std::vector<float> a = {1.f, -2.f, 3.f};
  std::vector<uint8_t> b = {9, 8, 7, 6, 5};
  auto writer = SafetensorsWriter::create(
      dir.file("out.safetensors"), {{"odd \"name\"\n", DType::kF8E8M0, {5}}, {"a", DType::kF32, {1, 3}}},
      {{"made by", "a test"}});
  ASSERT_TRUE(writer) << writer.error().message;
  for (uint8_t byte : b)
    ASSERT_TRUE(writer->write(std::as_bytes(std::span(&byte, 1))));  // in pieces of any size
  ASSERT_TRUE(writer->write(std::as_bytes(std::span(a))));
  EXPECT_FALSE(std::filesystem::exists(dir.file("out.safetensors"))) << "visible before it is complete";
  ASSERT_TRUE(writer->finish());

  auto file = SafetensorsFile::open(dir.file("out.safetensors"));
  ASSERT_TRUE(file) << file.error().message;
  const TensorInfo* info = file->find("a");
  ASSERT_NE(info, nullptr);
  EXPECT_EQ(info->shape, (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(std::memcmp(file->data(*info), a.data(), 12), 0);
  info = file->find("odd \"name\"\n");
  ASSERT_NE(info, nullptr);
  EXPECT_EQ(info->dtype, DType::kF8E8M0);
  EXPECT_EQ(std::memcmp(file->data(*info), b.data(), 5), 0);
  EXPECT_EQ(file->find("c"), nullptr);
  EXPECT_EQ(file->header().metadata[0].second, "a test");
  EXPECT_EQ(file->header().data_begin % 8, 0);
}

TEST(SafetensorsWriter, LeavesNothingBehindWhenDropped) {
  TempDir dir;
  dir.write("out.safetensors", "what was there before");
  {
    auto writer = SafetensorsWriter::create(dir.file("out.safetensors"), {{"a", DType::kF32, {1}}});
    ASSERT_TRUE(writer);
  }
  EXPECT_EQ(dir.read("out.safetensors"), "what was there before");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST(SafetensorsWriter, ReportsADiskThatIsFull) {
  // A limit on file sizes stands in for the disk: write() fails in the same place.
  TempDir dir;
  std::vector<std::byte> bytes(1 << 20);
  auto writer = SafetensorsWriter::create(dir.file("out.safetensors"), {{"a", DType::kU8, {1 << 20}}});
  ASSERT_TRUE(writer);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  auto* handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 4096;
  setrlimit(RLIMIT_FSIZE, &small);
  Status written = writer->write(bytes);
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);

  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code, ErrorCode::kIo);
  EXPECT_NE(written.error().message.find("out.safetensors: cannot write"), std::string::npos)
      << written.error().message;
  EXPECT_FALSE(writer->finish()) << "a failed write must not be committed";
  EXPECT_TRUE(std::filesystem::is_empty(dir.path())) << "the partial file was left behind";
}

TEST(SafetensorsWriter, ReportsAFolderThatIsNotThere) {
  auto writer = SafetensorsWriter::create("/nonexistent/folder/out.safetensors", {});
  ASSERT_FALSE(writer);
  EXPECT_EQ(writer.error().code, ErrorCode::kNotFound);
}

TEST(File, ReadsTextsUpToALimit) {
  TempDir dir;
  dir.write("a.json", "hello");
  auto text = read_text_file(dir.file("a.json"), 5);
  ASSERT_TRUE(text);
  EXPECT_EQ(*text, "hello");
  text = read_text_file(dir.file("a.json"), 4);
  ASSERT_FALSE(text);
  EXPECT_NE(text.error().message.find("5 bytes, expected at most 4"), std::string::npos)
      << text.error().message;
  EXPECT_EQ(read_text_file(dir.file("b.json"), 4).error().code, ErrorCode::kNotFound);
}

TEST(File, APathThatIsNoReadableFileIsTheCallersFault) {
  TempDir dir;
  dir.write("a.json", "hello");
  auto folder = read_text_file(dir.path(), 4);
  ASSERT_FALSE(folder);
  EXPECT_EQ(folder.error().code, ErrorCode::kInvalid);
  EXPECT_EQ(folder.error().message, dir.path() + ": a folder, expected a regular file");
  EXPECT_EQ(read_text_file("/dev/null", 4).error().code, ErrorCode::kInvalid);
  EXPECT_EQ(read_text_file(dir.file("a.json") + "/config.json", 4).error().code, ErrorCode::kNotFound)
      << "a file used as a folder";
}

TEST(File, ADeviceOrAFolderIsNotReplacedByAFile) {
  TempDir dir;
  std::string fifo = dir.file("pipe");
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  for (const std::string& path : {fifo, dir.path()}) {
    auto file = AtomicFile::create(path);
    ASSERT_FALSE(file) << path;
    EXPECT_EQ(file.error().code, ErrorCode::kInvalid);
  }
  struct stat st;
  ASSERT_EQ(stat(fifo.c_str(), &st), 0);
  EXPECT_TRUE(S_ISFIFO(st.st_mode));
}

TEST(MappedFile, MapsAndPopulates) {
  TempDir dir;
  std::string bytes(100000, 'k');
  dir.write("a.bin", bytes);
  dir.write("empty.bin", "");
  auto file = MappedFile::open(dir.file("a.bin"));
  ASSERT_TRUE(file);
  file->populate(5000, 90000);
  EXPECT_EQ(std::memcmp(file->data(), bytes.data(), bytes.size()), 0);
  const std::byte* before = file->data();
  MappedFile moved = std::move(*file);
  EXPECT_EQ(moved.data(), before);
  auto empty = MappedFile::open(dir.file("empty.bin"));
  ASSERT_TRUE(empty);
  EXPECT_EQ(empty->size(), 0);
  EXPECT_EQ(MappedFile::open(dir.file("none")).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(MappedFile::open(dir.path()).error().code, ErrorCode::kInvalid);
}

}  // namespace
}  // namespace kvasir
