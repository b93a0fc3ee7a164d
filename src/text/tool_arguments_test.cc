// Schema types in their less usual forms; the rules themselves are in malformed_block_test.cc.
#include "text/tool_arguments.h"

#include <gtest/gtest.h>

namespace kvasir {
namespace {

std::string convert(std::string_view schema, std::string_view text, Parameter::IsString is_string) {
  const auto function =
      JsonValue::parse(R"({"name":"f","parameters":{"properties":{"p":)" + std::string(schema) + "}}}");
  EXPECT_TRUE(function) << schema;
  const std::string out = arguments_text({{"p", text, is_string}}, &*function);
  return out.substr(6, out.size() - 7);  // without {"p": and }
}

TEST(ToolArguments, AStringStaysOneIfTheSchemaAlsoAdmitsStrings) {
  for (const char* schema :
       {R"({"type":["string","null"]})", R"({"anyOf":[{"type":"string"},{"type":"integer"}]})",
        R"({"oneOf":[{"type":"integer"},{}]})", R"({"$ref":"#/x"})", "true", "3"}) {
    EXPECT_EQ(convert(schema, "7", Parameter::IsString::kYes), "\"7\"") << schema;
  }
}

TEST(ToolArguments, UnionsWithoutStringConvert) {
  EXPECT_EQ(convert(R"({"type":["integer","null"]})", "null", Parameter::IsString::kYes), "null");
  EXPECT_EQ(convert(R"({"anyOf":[{"type":"array"},{"type":"null"}]})", "[]", Parameter::IsString::kYes),
            "[]");
  EXPECT_EQ(convert(R"({"anyOf":[{"type":"array"},{"type":"null"}]})", "{}", Parameter::IsString::kYes),
            "\"{}\"");
  EXPECT_EQ(convert(R"({"type":"number"})", "1e3", Parameter::IsString::kYes), "1e3");
}

TEST(ToolArguments, AnUnsaidTypeWithANullableStringIsAStringUnlessNull) {
  const char* schema = R"({"type":["string","null"]})";
  EXPECT_EQ(convert(schema, "7", Parameter::IsString::kUnsaid), "\"7\"");
  EXPECT_EQ(convert(schema, "null", Parameter::IsString::kUnsaid), "null");
  EXPECT_EQ(convert(schema, "\"q\"", Parameter::IsString::kUnsaid), "\"\\\"q\\\"\"");
}

TEST(ToolArguments, ASchemaNestedWithoutEndIsTakenAsAnything) {
  std::string schema = R"({"type":"integer"})";
  for (int i = 0; i < 40; ++i) schema = R"({"anyOf":[)" + schema + "]}";
  EXPECT_EQ(convert(schema, "7", Parameter::IsString::kYes), "\"7\"");
}

TEST(ToolArguments, AValueTooDeepForTheArgumentsAroundItIsAString) {
  const JsonValueLimits limits;
  const auto nested = [](size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  for (size_t depth : {limits.max_depth - 1, limits.max_depth}) {
    const std::string out = arguments_text({{"p", nested(depth), Parameter::IsString::kNo}}, nullptr);
    EXPECT_TRUE(JsonValue::parse(out)) << depth;
  }
}

}  // namespace
}  // namespace kvasir
