// Keywords one by one: what is taken, what is refused and how the place is named, and what hostile schemas
// cost.
#include <fmt/core.h>

#include <ctime>

#include "grammar/grammar_test_data.h"

namespace kvasir {
namespace {

TEST(Schema, RefusesWhatItCannotHonourWithItsPlace) {
  const std::pair<const char*, const char*> cases[] = {
      {R"j({"not":{}})j", "/not: "},
      {R"j({"properties":{"a/b~":{"uniqueItems":true}}})j", "/properties/a~1b~0/uniqueItems: "},
      {R"j({"items":{"if":{}}})j", "/items/if: "},
      {R"j({"anyOf":[{},{"contains":{}}]})j", "/anyOf/1/contains: "},
      {R"j({"$defs":{"x":{"patternProperties":{"a":{}}}},"properties":{"y":{"$ref":"#/$defs/x"}}})j",
       "/$defs/x/patternProperties: "},
      {R"j({"type":"string","format":"idn-email"})j", "/format: "},
      {R"j({"type":"string","pattern":"(?=a)"})j", "/pattern: "},
      {R"j({"type":"string","pattern":"\\bword"})j", "/pattern: "},
      {R"j({"type":"string","pattern":"(a)\\1"})j", "/pattern: "},
      {R"j({"dependentRequired":{}})j", "/dependentRequired: "},
      {R"j({"unevaluatedProperties":false})j", "/unevaluatedProperties: "},
      {R"j({"$ref":"other.json"})j", "/$ref: "},
      {R"j({"oneOf":[{"type":"integer"},{"type":"number"}]})j", "/oneOf: "},
      {R"j({"type":"object","maxProperties":3})j", "/maxProperties: "},
      {R"j({"multipleOf":12345.678})j", "multipleOf"},
  };
  for (const auto& [schema, place] : cases) {
    auto grammar = compile_schema(parse_json(schema));
    ASSERT_FALSE(grammar) << schema;
    EXPECT_EQ(grammar.error().code, ErrorCode::kUnsupported) << schema;
    EXPECT_NE(grammar.error().message.find(place), std::string::npos) << grammar.error().message;
  }
}

TEST(Schema, SaysWhereAMalformedSchemaIsWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {R"j({"type":"str"})j", "/type: 'str' is no type"},
      {R"j({"properties":[]})j", "/properties: expected an object"},
      {R"j({"items":{"minItems":-1}})j", "/items/minItems: "},
      {R"j({"pattern":"("})j", "/pattern: "},
      {R"j({"$ref":"#/nowhere"})j", "/$ref: nothing is at"},
      {R"j({"enum":1})j", "/enum: expected an array"},
      {R"j({"multipleOf":0})j", "/multipleOf: "},
      {R"j({"properties":{"a":3}})j", "/properties/a: expected a schema"},
      {R"j([])j", ": expected a schema"},
  };
  for (const auto& [schema, place] : cases) {
    auto grammar = compile_schema(parse_json(schema));
    ASSERT_FALSE(grammar) << schema;
    EXPECT_EQ(grammar.error().code, ErrorCode::kInvalid) << schema;
    EXPECT_NE(grammar.error().message.find(place), std::string::npos) << grammar.error().message;
  }
}

TEST(Schema, ASchemaThatNothingSatisfiesIsInvalid) {
  for (const char* schema :
       {"false", R"j({"type":"string","enum":[1]})j", R"j({"allOf":[{"type":"string"},{"type":"null"}]})j",
        R"j({"minimum":3,"maximum":2,"type":"integer"})j", R"j({"enum":["a"],"pattern":"b"})j",
        R"j({"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]})j",
        R"j({"type":"string","pattern":"^a{5}$","maxLength":4})j"}) {
    EXPECT_NE(refusal(schema).find("no value satisfies"), std::string::npos)
        << schema << " " << refusal(schema);
  }
}

TEST(Schema, AnnotationsChangeNothing) {
  const char* schema =
      R"j({"$schema":"x","$id":"urn:a","title":"t","description":"d","default":5,"examples":[1],
      "deprecated":true,"readOnly":true,"$comment":"c","x-order":3,"type":"integer"})j";
  EXPECT_TRUE(schema_takes(schema, "12"));
  EXPECT_FALSE(schema_takes(schema, "\"12\""));
}

TEST(Schema, NullableAddsNullToTheType) {
  EXPECT_TRUE(schema_takes(R"j({"type":"integer","nullable":true})j", "null"));
  EXPECT_FALSE(schema_takes(R"j({"type":"integer","nullable":false})j", "null"));
}

TEST(Schema, KeysComeInAnyOrderAndOnlyOnce) {
  const char* schema = R"j({"type":"object","properties":{"a":{},"b":{},"abc":{}},"required":["b"]})j";
  EXPECT_TRUE(schema_takes(schema, R"j({"b": 1, "a": 2})j"));
  EXPECT_TRUE(schema_takes(schema, R"j({"zz": 1, "abc": 0, "a": 2, "b": 3, "abd": 4})j"));
  EXPECT_FALSE(schema_takes(schema, R"j({"a": 1})j"));
  EXPECT_FALSE(schema_takes(schema, R"j({"b": 1, "b": 2})j"));
  EXPECT_FALSE(schema_takes(schema, R"j({"b": 1, "a": 2, "a": 2})j"));
}

TEST(Schema, PropertyNamesThatLeaveNoOtherKeyCloseTheObject) {
  EXPECT_TRUE(schema_takes(R"j({"type":"object","propertyNames":false})j", "{}"));
  EXPECT_FALSE(schema_takes(R"j({"type":"object","propertyNames":false})j", R"j({"a": 1})j"));
  const char* schema = R"j({"type":"object","properties":{"a":{}},"propertyNames":{"enum":["a"]}})j";
  auto grammar = *compile_schema(parse_json(schema));
  GrammarMatcher matcher(grammar, shared_cache());
  EXPECT_TRUE(matcher.accept_bytes("{\"a\": 1"));
  EXPECT_FALSE(matcher.accept_bytes(","));
  EXPECT_NE(refusal(R"j({"type":"object","propertyNames":false,"minProperties":1})j").find("no value"),
            std::string::npos);
}

TEST(Schema, AKeyHasOneSpellingSoThatItCannotHideBehindAnEscape) {
  const char* schema = R"j({"type":"object","properties":{"a":{"type":"integer"}}})j";
  EXPECT_FALSE(schema_takes(schema, R"j({"\u0061": "x"})j"));
  EXPECT_TRUE(schema_takes(schema, R"j({"line\nend \"q\"": "x"})j"));
}

TEST(Schema, StringsTakeEveryEscapeButNoHalfSurrogates) {
  const char* schema = R"j({"type":"string"})j";
  EXPECT_TRUE(schema_takes(schema, R"j("\u00e9\ud83d\ude00\/\b\f\n\r\t\\\"é😀")j"));
  for (const char* text : {R"j("\ud83d")j", R"j("\ude00")j", R"j("\ud83d\u0041")j", R"j("\x")j", "\"\n\"",
                           "\"\xff\"", "\"\xed\xa0\x80\"", "\"\xc0\x80\"", "\"\xf4\x90\x80\x80\""}) {
    EXPECT_FALSE(schema_takes(schema, text)) << text;
  }
}

TEST(Schema, LengthsCountCodePoints) {
  const char* schema = R"j({"type":"string","minLength":2,"maxLength":3})j";
  for (const char* text : {R"j("ab")j", R"j("éé€")j", R"j("😀😀")j", R"j("\ud83d\ude00\n")j"})
    EXPECT_TRUE(schema_takes(schema, text));
  for (const char* text : {R"j("a")j", R"j("😀")j", R"j("abcd")j", R"j("\ud83d\ude00")j", R"j("")j"}) {
    EXPECT_FALSE(schema_takes(schema, text)) << text;
  }
  EXPECT_TRUE(schema_takes(R"j({"type":"string","maxLength":0})j", R"j("")j"));
}

TEST(Schema, PatternsMatchAnywhereUnlessAnchored) {
  EXPECT_TRUE(schema_takes(R"j({"type":"string","pattern":"b+"})j", R"j("abbc")j"));
  EXPECT_FALSE(schema_takes(R"j({"type":"string","pattern":"b+"})j", R"j("ac")j"));
  EXPECT_FALSE(schema_takes(R"j({"type":"string","pattern":"^b+$"})j", R"j("abb")j"));
  EXPECT_TRUE(schema_takes(R"j({"type":"string","pattern":"^a|b$"})j", R"j("xb")j"));
  EXPECT_FALSE(schema_takes(R"j({"type":"string","pattern":"^(a|b)$"})j", R"j("xb")j"));
  EXPECT_TRUE(schema_takes(R"j({"type":"string","pattern":"^[^\\s\"]{2}$"})j", R"j("é\\")j"));
  EXPECT_TRUE(schema_takes(R"j({"type":"string","pattern":"^\\u{1F600}\\n$"})j", R"j("😀\n")j"));
  EXPECT_TRUE(schema_takes(R"j({"type":"string","pattern":"^(?:x{2,3}?y)*$"})j", R"j("xxyxxxy")j"));
}

TEST(Schema, IntegersStayWithinTheirBounds) {
  const std::pair<int, int> ranges[] = {{0, 0},     {1, 14}, {-5, 250}, {-120, -7},
                                        {98, 1003}, {-1, 0}, {10, 10}};
  for (const auto& [min, max] : ranges) {
    auto grammar = *compile_schema(
        parse_json(fmt::format(R"j({{"type":"integer","minimum":{},"maximum":{}}})j", min, max)));
    for (int i = -1100; i <= 1100; ++i) {
      ASSERT_EQ(takes(grammar, std::to_string(i)), i >= min && i <= max)
          << i << " in " << min << " to " << max;
    }
    EXPECT_FALSE(takes(grammar, "007"));
  }
}

TEST(Schema, DecimalsAreComparedExactly) {
  const char* schema = R"j({"type":"number","minimum":-0.5,"exclusiveMaximum":12.25})j";
  for (const char* text : {"-0.5", "-0.50", "0", "12.2499999999999999999", "12", "0.000", "-0.0"}) {
    EXPECT_TRUE(schema_takes(schema, text)) << text;
  }
  for (const char* text : {"-0.51", "-0.5000001", "12.25", "12.250", "13", "100", "-1"}) {
    EXPECT_FALSE(schema_takes(schema, text)) << text;
  }
  EXPECT_TRUE(schema_takes(R"j({"multipleOf":0.01})j", "1.25"));
  EXPECT_FALSE(schema_takes(R"j({"multipleOf":0.01})j", "1.255"));
  EXPECT_TRUE(schema_takes(R"j({"type":"integer","multipleOf":7})j", "-21"));
  EXPECT_FALSE(schema_takes(R"j({"type":"integer","multipleOf":7})j", "20"));
  EXPECT_TRUE(schema_takes(R"j({"allOf":[{"multipleOf":4},{"multipleOf":6}]})j", "36"));
  EXPECT_FALSE(schema_takes(R"j({"allOf":[{"multipleOf":4},{"multipleOf":6}]})j", "18"));
}

TEST(Schema, AnyNumberFitsADouble) {
  for (const char* text : {"1e307", "-1.5E-05", "9.99e+307", "0.1", "123e199", "1e05"})
    EXPECT_TRUE(schema_takes("{}", text));
  for (const char* text : {"1e308", "12e200", "1e999", "01", "1.", ".5", "+1", "1e", "NaN"}) {
    EXPECT_FALSE(schema_takes("{}", text)) << text;
  }
}

TEST(Schema, OneOfIsHonouredWhereBranchesExcludeEachOther) {
  const char* schema = R"j({"oneOf":[{"type":"object","properties":{"t":{"const":"a"}},"required":["t"]},
      {"type":"object","properties":{"t":{"const":"b"},"n":{"type":"integer"}},"required":["t","n"]},{"type":"null"}]})j";
  EXPECT_TRUE(schema_takes(schema, R"j({"t": "a"})j"));
  EXPECT_TRUE(schema_takes(schema, R"j({"n": 1, "t": "b"})j"));
  EXPECT_TRUE(schema_takes(schema, "null"));
  EXPECT_FALSE(schema_takes(schema, R"j({"t": "b"})j"));
}

TEST(Schema, EnumIsWhatTheOtherKeywordsLeave) {
  const char* schema = R"j({"enum":["a","bb",3,3.5,[1],{"x":1.0}],"minLength":2,"maximum":3})j";
  for (const char* text : {R"j("bb")j", "3", "[1]", R"j({"x": 1})j", R"j({"x": 1.0})j"})
    EXPECT_TRUE(schema_takes(schema, text)) << text;
  for (const char* text : {R"j("a")j", "3.5", "[2]", R"j({"x": 1, "x": 1})j"})
    EXPECT_FALSE(schema_takes(schema, text)) << text;
}

TEST(Schema, WhiteSpaceIsBounded) {
  const std::string spaces(64, ' ');
  EXPECT_TRUE(schema_takes("{}", "{\n" + spaces + "\"a\": [\n\t\t1,\n2\n]\n}"));
  EXPECT_FALSE(schema_takes("{}", "{\n" + spaces + " \"a\": 1}"));
  EXPECT_FALSE(schema_takes("{}", "{  \"a\": 1}"));
  EXPECT_FALSE(schema_takes("{}", "{\n\n\"a\": 1}"));
  EXPECT_FALSE(schema_takes("{}", " {}"));
  EXPECT_FALSE(schema_takes("{}", "{} "));
}

TEST(Schema, NestingEndsBeforeTheReadersLimit) {
  auto grammar = *compile_schema(parse_json("{}"));
  GrammarMatcher matcher(grammar, shared_cache());
  std::string text;
  while (matcher.accept_bytes("[")) text += "[";
  EXPECT_GE(text.size(), 60u);
  EXPECT_LE(text.size(), 100u);
  auto required = *compile_schema(parse_json(
      R"j({"$defs":{"l":{"type":"object","properties":{"n":{"anyOf":[{"$ref":"#/$defs/l"},{"type":"null"}]}},
          "required":["n"]}},"$ref":"#/$defs/l"})j"));
  GrammarMatcher deep(required, shared_cache());
  size_t levels = 0;
  while (deep.accept_bytes("{\"n\":")) ++levels;
  EXPECT_LE(levels, 100u);
  EXPECT_TRUE(deep.accept_bytes("null"));
}

// Each of these must be an answer, whichever, in bounded time.
TEST(Schema, HostileSchemasEndQuickly) {
  std::string all_any = "{\"allOf\":[", deep, values, names, chain = "{\"$ref\":\"#/$defs/d0\",\"$defs\":{",
              pairs;
  for (int i = 0; i < 40; ++i)
    all_any += std::string(i > 0 ? "," : "") + R"j({"anyOf":[{"minimum":1},{"maximum":9}]})j";
  all_any += "]}";
  for (int i = 0; i < 120; ++i) deep += "{\"items\":";
  deep += "{}" + std::string(120, '}');
  for (int i = 0; i < 30000; ++i)
    values += fmt::format("{}\"value number {} of a long list\"", i > 0 ? "," : "", i);
  for (int i = 0; i < 5000; ++i) names += fmt::format("{}\"p{}\":{{}}", i > 0 ? "," : "", i);
  for (int i = 0; i < 3000; ++i) chain += fmt::format("\"d{}\":{{\"$ref\":\"#/$defs/d{}\"}},", i, i + 1);
  chain += "\"d3000\":{}}}";
  for (int i = 0; i < 60; ++i)
    pairs += fmt::format("{}{{\"type\":\"object\",\"properties\":{{\"k{}\":{{}}}}}}", i > 0 ? "," : "", i);
  const std::string product =
      R"j({"properties":{"a":{"anyOf":[{"$ref":"#"},{"$ref":"#/$defs/x"}]}},"allOf":[{"$ref":"#/$defs/x"},{"$ref":"#/$defs/y"}],
      "$defs":{"x":{"properties":{"a":{"$ref":"#/$defs/y"},"b":{"$ref":"#"}}},"y":{"properties":{"a":{"$ref":"#/$defs/x"},"b":{"$ref":"#/$defs/x"}}}}})j";
  const std::string schemas[] = {
      all_any,
      deep,
      "{\"enum\":[" + values + "]}",
      "{\"properties\":{" + names + "}}",
      chain,
      "{\"oneOf\":[" + pairs + "]}",
      product,
      R"j({"$ref":"#"})j",
      R"j({"allOf":[{"$ref":"#"}]})j",
      R"j({"anyOf":[{"$ref":"#"},{"type":"null"}]})j",
      R"j({"type":"string","pattern":"(((a{1000}){1000}){1000})"})j",
      R"j({"type":"string","pattern":"((((){5000}){5000}){5000})"})j",
      R"j({"type":"string","pattern":"(a|aa)+$[ab]*a[ab]{20}"})j",
      R"j({"type":"string","pattern":"(.*a){30}.*b.{14}"})j",
      R"j({"type":"string","pattern":"^(a?){500}a{500}$"})j",
      R"j({"type":"string","minLength":4000000000,"pattern":"a"})j",
      R"j({"type":"string","maxLength":4000,"pattern":"^(ab|cd|ef)*.{50}$"})j",
      R"j({"type":"array","minItems":4000000000})j",
      R"j({"type":"number","minimum":1e300,"maximum":1e-300})j",
      R"j({"type":"integer","multipleOf":4999,"minimum":123456789012345678901234567890})j",
      R"j({"type":"array","items":{"$ref":"#"},"minItems":1})j",
      R"j({"multipleOf":1e-300})j"};
  for (const std::string& schema : schemas) {
    auto value = JsonValue::parse(schema);
    ASSERT_TRUE(value) << schema.substr(0, 200);
    const auto start = std::clock();
    auto grammar = compile_schema(*value);
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    EXPECT_LT(seconds, 5) << schema.substr(0, 100);
    EXPECT_LT(grammar ? (*grammar)->bytes() : 0, size_t{200} << 20) << schema.substr(0, 100);
    fmt::print(
        "  {:6.0f} ms  {}  {}\n", seconds * 1e3, schema.substr(0, 60),
        grammar ? fmt::format("{} KB", (*grammar)->bytes() / 1024) : grammar.error().message.substr(0, 90));
  }
}

}  // namespace
}  // namespace kvasir
