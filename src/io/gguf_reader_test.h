// A reader of GGUF for tests, written from the format's description and from nothing in gguf_writer.cc:
// whoever changes the writer's bytes must answer to it. Tests only.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace kvasir {

struct GgufValue {
  uint32_t type = 0;  // of the value; of the elements of an array
  bool array = false;
  std::vector<std::string> texts;  // strings
  std::vector<double> numbers;     // everything else

  double number() const { return array || numbers.size() != 1 ? -1 : numbers[0]; }
  std::string text() const { return array || texts.size() != 1 ? "not one string" : texts[0]; }
};

struct GgufRead {
  uint32_t type = 0;
  std::vector<uint64_t> dims;
  uint64_t offset = 0;     // in the data part
  std::string_view bytes;  // from its offset to the end of the file

  std::vector<float> floats(size_t count) const {
    std::vector<float> out(count);
    if (bytes.size() < count * 4)
      ADD_FAILURE() << "tensor of " << bytes.size() << " bytes";
    else
      std::memcpy(out.data(), bytes.data(), count * 4);
    return out;
  }
};

// Reads all of `file`, which must outlive it. A failure ends the test's trust in everything after it:
// failed().
class GgufReader {
 public:
  explicit GgufReader(const std::string& file) : file_(file) {
    if (take(4) != "GGUF") fail("no magic");
    if (number<uint32_t>() != 3) fail("version is not 3");
    const auto tensor_count = number<uint64_t>(), value_count = number<uint64_t>();
    for (uint64_t i = 0; i < value_count && !failed_; ++i) {
      std::string key = text();
      if (!values.emplace(key, value()).second) fail("key " + key + " twice");
    }
    for (uint64_t i = 0; i < tensor_count && !failed_; ++i) read_tensor();
    const size_t data = (at_ + 31) / 32 * 32;
    for (auto& [name, t] : tensors) {
      if (t.offset % 32 != 0 || data + t.offset > file_.size())
        fail("tensor " + name + " is not in the file or not aligned");
      else
        t.bytes = std::string_view(file_).substr(data + t.offset);
    }
  }

  bool failed() const { return failed_; }
  double number_of(const std::string& key) const { return values.count(key) ? values.at(key).number() : -2; }

  std::map<std::string, GgufValue> values;
  std::map<std::string, GgufRead> tensors;

 private:
  void fail(const std::string& what) {
    ADD_FAILURE() << what;
    failed_ = true;
  }
  std::string_view take(uint64_t bytes) {
    if (failed_ || bytes > file_.size() - at_) {
      fail("the file ends too early");
      return {};
    }
    at_ += bytes;
    return std::string_view(file_).substr(at_ - bytes, bytes);
  }
  template <class T>
  T number() {
    T v{};
    std::string_view bytes = take(sizeof v);
    if (bytes.size() == sizeof v) std::memcpy(&v, bytes.data(), sizeof v);
    return v;
  }
  std::string text() { return std::string(take(number<uint64_t>())); }

  void scalar(GgufValue& v) {
    switch (v.type) {
      case 4:
        v.numbers.push_back(number<uint32_t>());
        break;
      case 5:
        v.numbers.push_back(number<int32_t>());
        break;
      case 6:
        v.numbers.push_back(number<float>());
        break;
      case 7:
        v.numbers.push_back(number<uint8_t>());
        break;
      case 8:
        v.texts.push_back(text());
        break;
      default:
        fail("value of type " + std::to_string(v.type));
    }
  }
  GgufValue value() {
    GgufValue v;
    v.type = number<uint32_t>();
    if (v.type != 9) {
      scalar(v);
      return v;
    }
    v.array = true;
    v.type = number<uint32_t>();
    const auto count = number<uint64_t>();
    for (uint64_t i = 0; i < count && !failed_; ++i) scalar(v);
    return v;
  }
  void read_tensor() {
    std::string name = text();
    GgufRead t;
    const auto dims = number<uint32_t>();
    for (uint32_t d = 0; d < dims && !failed_; ++d) t.dims.push_back(number<uint64_t>());
    t.type = number<uint32_t>();
    t.offset = number<uint64_t>();
    if (!tensors.emplace(name, t).second) fail("tensor " + name + " twice");
  }

  const std::string& file_;
  size_t at_ = 0;
  bool failed_ = false;
};

}  // namespace kvasir
