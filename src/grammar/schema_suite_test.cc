// The public JSON-Schema test suite, as Debian installs it, for drafts 6 and 7: for each schema that
// compiles, valid instances must be produced in every usual layout and invalid ones in none; what does not
// compile must be refused with its place, and is counted.
#include <fmt/core.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "grammar/random_text_test.h"
#include "grammar/schema_validator_test.h"

namespace kvasir {
namespace {

namespace fs = std::filesystem;

// One spelling for a value: whole numbers without fraction, since 1.0 is 1.
std::string layout(const JsonValue& value, const std::string& comma, const std::string& colon, int indent,
                   int level) {
  const std::string inner = indent > 0 ? fmt::format("\n{:{}}", "", indent * (level + 1)) : "";
  const std::string outer = indent > 0 ? fmt::format("\n{:{}}", "", indent * level) : "";
  std::string out;
  if (value.is_array() && !value.as_array().empty()) {
    for (const JsonValue& item : value.as_array()) {
      out += (out.empty() ? "[" : comma) + inner + layout(item, comma, colon, indent, level + 1);
    }
    return out + outer + "]";
  }
  if (value.is_object() && !value.as_object().empty()) {
    for (const auto& [key, member] : value.as_object()) {
      out += (out.empty() ? "{" : comma) + inner + JsonValue(key).dump() + colon +
             layout(member, comma, colon, indent, level + 1);
    }
    return out + outer + "}";
  }
  if (value.is_number()) {
    const auto number = Decimal::parse(value.dump());
    if (number && number->fraction.empty())
      return fmt::format("{}{}", number->negative ? "-" : "", number->whole);
  }
  return value.dump();
}

std::vector<std::string> layouts(const JsonValue& value) {
  return {layout(value, ", ", ": ", 0, 0), layout(value, ",", ":", 0, 0), layout(value, ",", ": ", 2, 0),
          layout(value, ",", ": ", 4, 0)};
}

// Where draft 6 and 7 differ from the reading in docs/grammar.md.
// Siblings of $ref count, as they do since draft 2019-09.
const std::set<std::string> kOtherReading = {"ref.json: ref overrides any sibling keywords"};

// Whether the tokens of `text` are allowed one after the other, and then the end.
bool is_producible(const SharedGrammar& grammar, const std::string& text) {
  GrammarMatcher matcher(grammar, shared_cache());
  std::vector<uint32_t> mask(v4_vocabulary()->mask_words());
  std::vector<TokenId> tokens = v4_tokenizer().encode(text);
  tokens.push_back(v4_vocabulary()->eos());
  for (TokenId token : tokens) {
    matcher.fill_mask(mask);
    if ((mask[static_cast<size_t>(token) / 32] >> (token % 32) & 1) == 0) return false;
    if (token != v4_vocabulary()->eos() && !matcher.accept(token)) return false;
  }
  return true;
}

struct Counts {
  int walks = 0, finished = 0, schemas = 0, refused = 0, valid = 0, invalid = 0;
};

// What the grammar lets through is valid, by a validator that knows nothing of it.
void walk(const SharedGrammar& grammar, const JsonValue& schema, const std::string& name, Counts& counts) {
  std::mt19937 random(5);
  for (size_t i = 0; i < 3; ++i) {
    ++counts.walks;
    const auto text = random_text(grammar, random, 2 + i * 5);
    if (!text) continue;
    ++counts.finished;
    EXPECT_TRUE(is_valid(*text, schema.dump())) << name << "\n  " << *text << "\n  " << schema.dump();
  }
}

void run_file(const fs::path& file, Counts& counts, std::vector<std::string>& refusals) {
  std::ifstream in(file);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const JsonValue groups = parse_json(text);
  for (const JsonValue& group : groups.as_array()) {
    const std::string name = file.filename().string() + ": " + group.find("description")->as_string();
    if (kOtherReading.contains(name)) continue;
    ++counts.schemas;
    auto grammar = compile_schema(*group.find("schema"));
    if (!grammar) {
      // A schema that nothing satisfies is refused too; then no test may be valid.
      if (grammar.error().code == ErrorCode::kInvalid) {
        for (const JsonValue& test : group.find("tests")->as_array()) {
          EXPECT_FALSE(test.find("valid")->as_bool()) << name << ": " << grammar.error().message;
        }
        continue;
      }
      ++counts.refused;
      EXPECT_EQ(grammar.error().code, ErrorCode::kUnsupported) << name;
      EXPECT_NE(grammar.error().message.find(": "), std::string::npos)
          << name << ": " << grammar.error().message;
      refusals.push_back(name + " -> " + grammar.error().message);
      continue;
    }
    walk(*grammar, *group.find("schema"), name, counts);
    for (const JsonValue& test : group.find("tests")->as_array()) {
      const JsonValue& data = *test.find("data");
      const bool valid = test.find("valid")->as_bool();
      ++(valid ? counts.valid : counts.invalid);
      EXPECT_EQ(is_producible(*grammar, layouts(data)[0]), valid) << name << "\n  " << data.dump();
      for (const std::string& spelling : layouts(data)) {
        EXPECT_EQ(takes(*grammar, spelling), valid)
            << name << "\n  " << test.find("description")->as_string() << "\n  " << spelling << "\n  schema "
            << group.find("schema")->dump();
      }
    }
  }
}

void run_folder(const std::string& folder_name, Counts& counts, std::vector<std::string>& refusals) {
  const fs::path folder = fs::path(KVASIR_SCHEMA_SUITE_DIR) / folder_name;
  ASSERT_TRUE(fs::is_directory(folder)) << folder << " is missing: install Debian's json-schema-test-suite "
                                        << "(scripts/setup does)";
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".json") run_file(entry.path(), counts, refusals);
  }
}

void report(const Counts& counts, std::vector<std::string>& refusals) {
  fmt::print("{} schemas, {} refused, {} valid and {} invalid instances, {} random texts\n", counts.schemas,
             counts.refused, counts.valid, counts.invalid, counts.finished);
  EXPECT_GT(counts.finished * 10, counts.walks * 8);
  std::sort(refusals.begin(), refusals.end());
  for (const std::string& r : refusals) fmt::print("  {}\n", r);
}

// The lower bounds are what is honoured today: a keyword that is lost shows here.
TEST(SchemaSuite, Draft7IsHonouredOrRefused) {
  Counts counts;
  std::vector<std::string> refusals;
  run_folder("draft7", counts, refusals);
  report(counts, refusals);
  EXPECT_LE(counts.refused, 48);
  EXPECT_GE(counts.valid, 134);
  EXPECT_GE(counts.invalid, 109);
}

TEST(SchemaSuite, Draft6IsHonouredOrRefused) {
  Counts counts;
  std::vector<std::string> refusals;
  run_folder("draft6", counts, refusals);
  report(counts, refusals);
  EXPECT_GE(counts.valid, 100);
  EXPECT_GE(counts.invalid, 100);
}

TEST(SchemaSuite, OptionalPartsAreHonouredOrRefused) {
  Counts counts;
  std::vector<std::string> refusals;
  run_folder("draft7/optional", counts, refusals);
  run_folder("draft7/optional/format", counts, refusals);
  report(counts, refusals);
  EXPECT_GE(counts.valid, 1);
}

}  // namespace
}  // namespace kvasir
