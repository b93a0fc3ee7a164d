// What the tokenizer's tests share: the golden folder, V4's tokenizer loaded once, random bytes.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "text/tokenizer.h"

namespace kvasir {

inline std::string golden_text(const std::string& file) {
  std::ifstream in(std::string(KVASIR_SOURCE_DIR "/tests/golden/tokenizer/") + file, std::ios::binary);
  EXPECT_TRUE(in) << file;
  return {std::istreambuf_iterator<char>(in), {}};
}

inline nlohmann::json golden_json(const std::string& file) {
  return nlohmann::json::parse(golden_text(file));
}

// V4's tokenizer.json, which CMake unpacked from tests/golden/tokenizer/v4.tar.xz.
inline const Tokenizer& v4_tokenizer() {
  static const Tokenizer tokenizer = [] {
    Result<Tokenizer> loaded = Tokenizer::load(KVASIR_V4_TOKENIZER_DIR);
    if (!loaded) throw std::runtime_error(loaded.error().message);
    return *std::move(loaded);
  }();
  return tokenizer;
}

inline std::string random_bytes(std::mt19937& random, size_t bytes) {
  std::string out(bytes, '\0');
  for (char& c : out) c = static_cast<char>(random());
  return out;
}

}  // namespace kvasir
