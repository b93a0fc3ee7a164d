// Reads the committed golden data of the text room's tests: tests/golden/encoding/.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>

#include "base/check.h"
#include "text/json_value.h"

namespace kvasir {

inline std::string read_golden(const std::string& name) {
  const std::string path = std::string(KVASIR_SOURCE_DIR) + "/tests/golden/encoding/" + name;
  std::ifstream file(path, std::ios::binary);
  KVASIR_CHECK(file.good(), "cannot read {}", path);
  std::ostringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

inline JsonValue read_golden_json(const std::string& name) {
  auto value = JsonValue::parse(read_golden(name));
  KVASIR_CHECK(value.has_value(), "{}: {}", name, value ? "" : value.error().message);
  return *std::move(value);
}

// Says which byte is the first to differ, with what is around it, so that a long prompt is readable.
inline testing::AssertionResult same_bytes(const std::string& name, std::string_view actual,
                                           std::string_view expected) {
  if (actual == expected) return testing::AssertionSuccess();
  size_t at = 0;
  while (at < actual.size() && at < expected.size() && actual[at] == expected[at]) ++at;
  const auto around = [&](std::string_view s) {
    const size_t begin = at < 40 ? 0 : at - 40;
    return JsonValue(s.substr(begin, at - begin)).dump() + " then " + JsonValue(s.substr(at, 80)).dump();
  };
  return testing::AssertionFailure() << name << ": byte " << at << " differs (" << actual.size()
                                     << " bytes, expected " << expected.size() << ")\n  saw      "
                                     << around(actual) << "\n  expected " << around(expected);
}

}  // namespace kvasir
