// grammar_bench: what a token mask costs with V4's vocabulary, on one core.
//
//   cmake --preset cpu -DKVASIR_BENCH=ON && cmake --build build --target grammar_bench
//   build/bench/grammar_bench FOLDER [--out FILE.json]      FOLDER holds tokenizer.json
//
// For each case a text is encoded once and its tokens are fed one after the other; restrict() is timed before
// every token. "cold" is the first pass over the text with an empty cache, "warm" five passes after two more.
// Exits with 1 if a text does not fit its grammar.
#include <fmt/core.h>

#include <algorithm>
#include <ctime>
#include <fstream>
#include <string>
#include <vector>

#include "grammar/output_constraint.h"

namespace kvasir {
namespace {

// Processor time of this thread: other programs on the machine do not count as ours.
double us_now() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e6 + static_cast<double>(t.tv_nsec) / 1e3;
}

JsonValue parse(const std::string& text) {
  auto value = JsonValue::parse(text);
  if (!value) throw std::runtime_error(value.error().message);
  return *std::move(value);
}

struct Case {
  std::string name;
  OutputRequest request;
  std::vector<std::string> texts;  // completions, special tokens as text
};

std::string prose(int words) {
  const char* const some[] = {"the ",  "value ", "of ", "a ",          "night's ", "journey, ",
                              "über ", "日本 ",  "\\n", "\\\"so\\\" ", "42 "};
  std::string out;
  for (int i = 0; i < words; ++i) out += some[(i * 7 + i / 3) % std::size(some)];
  return out;
}

Case schema_case(std::string name, const std::string& schema, std::vector<std::string> texts) {
  Case c{std::move(name), {}, std::move(texts)};
  c.request.format = GrammarRequest::Content::kJsonSchema;
  c.request.schema = parse(schema);
  return c;
}

Case twenty_properties() {
  std::string properties, required, text;
  for (int i = 0; i < 20; ++i) {
    const char* const types[] = {R"({"type":"string"})", R"({"type":"integer","minimum":0,"maximum":1000})",
                                 R"({"type":"array","items":{"type":"string"}})",
                                 R"({"enum":["low","medium","high"]})"};
    const char* const values[] = {"\"some words here\"", "417", "[\"one\", \"two\"]", "\"medium\""};
    properties += fmt::format("{}\"property_{}\":{}", i > 0 ? "," : "", i, types[i % 4]);
    required += fmt::format("{}\"property_{}\"", i > 0 ? "," : "", i);
    text += fmt::format("{}\"property_{}\": {}", i > 0 ? ", " : "{", (i * 7) % 20, values[(i * 7) % 20 % 4]);
  }
  return schema_case(
      "20 properties",
      fmt::format(R"({{"type":"object","properties":{{{}}},"required":[{}],"additionalProperties":false}})",
                  properties, required),
      {text + "}"});
}

Case tools_24() {
  Case c{"DSML block, 24 tools", {}, {}};
  c.request.tool_use = OutputRequest::ToolUse::kRequired;
  std::string text = "\n\n<｜DSML｜tool_calls>\n";
  for (int i = 0; i < 24; ++i) {
    c.request.tools.push_back(
        {parse(fmt::format(R"({{"name":"tool_{}","parameters":{{"type":"object","properties":{{
             "file_path":{{"type":"string"}},"limit":{{"type":"integer","minimum":1}},
             "mode":{{"type":"string","enum":["read","write","append"]}},
             "edits":{{"type":"array","items":{{"type":"object","properties":{{"old":{{"type":"string"}},
               "new":{{"type":"string"}},"all":{{"type":"boolean"}}}},"required":["old","new"]}}}},
             "pattern_{}":{{"type":"string"}}}},"required":["file_path"]}}}})",
                           i, i)),
         fmt::format("/tools/{}", i), true});
    if (i % 3 != 0) continue;
    text += fmt::format("<｜DSML｜invoke name=\"tool_{}\">\n", i);
    text +=
        "<｜DSML｜parameter name=\"file_path\" string=\"true\">/home/user/src/main.cc</｜DSML｜parameter>\n";
    text += "<｜DSML｜parameter name=\"limit\" string=\"false\">120</｜DSML｜parameter>\n";
    text += "<｜DSML｜parameter name=\"mode\" string=\"true\">append</｜DSML｜parameter>\n";
    text +=
        "<｜DSML｜parameter name=\"edits\" string=\"false\">[{\"old\": \"int x = 1;\", \"new\": \"int y = 2; "
        "// <b>\"}]"
        "</｜DSML｜parameter>\n</｜DSML｜invoke>\n";
  }
  c.texts.push_back(text + "</｜DSML｜tool_calls>");
  return c;
}

std::vector<Case> cases() {
  std::vector<Case> out;
  out.push_back(schema_case("free string", R"({"type":"string"})", {"\"" + prose(600) + "\""}));
  out.push_back(schema_case("string, maxLength 400", R"({"type":"string","minLength":1,"maxLength":400})",
                            {"\"" + prose(60) + "\""}));
  Case object{"json_object", {}, {}};
  object.request.format = GrammarRequest::Content::kJsonObject;
  object.texts.push_back(fmt::format(
      R"({{"title": "{}", "items": [{{"id": 1, "tags": ["a", "bc"], "score": 0.25, "ok": true}}, {{"id": 22, "note": null, "deep": [[1, 2], [3, {{"x": -1.5e3}}]]}}], "text": "{}"}})",
      prose(10), prose(100)));
  object.texts.push_back(
      "{\n  \"name\": \"pretty\",\n  \"list\": [\n    1,\n    2\n  ],\n  \"more\": {\n    \"k\": \"v\"\n  "
      "}\n}");
  out.push_back(std::move(object));
  out.push_back(twenty_properties());
  out.push_back(tools_24());
  return out;
}

double percentile(std::vector<double>& sorted, double p) {
  return sorted[std::min(sorted.size() - 1, static_cast<size_t>(p * static_cast<double>(sorted.size())))];
}

struct Times {
  double p50 = 0, p99 = 0, max = 0, sum_ms = 0;
  size_t tokens = 0;
};

Times summary(std::vector<double> us) {
  std::sort(us.begin(), us.end());
  Times t{percentile(us, 0.5), percentile(us, 0.99), us.back(), 0, us.size()};
  for (double x : us) t.sum_ms += x / 1000;
  return t;
}

// False: a token of the text is not allowed where it stands.
bool pass(const Tokenizer& tokenizer, const OutputPlan& plan, const std::shared_ptr<MaskCache>& cache,
          const std::vector<TokenId>& tokens, std::vector<double>& us) {
  auto constraint = OutputConstraint::make(plan, cache, false);
  std::vector<uint32_t> mask(cache->vocabulary().mask_words());
  for (TokenId token : tokens) {
    std::fill(mask.begin(), mask.end(), ~0u);
    const auto start = us_now();
    (*constraint)->restrict(mask);
    us.push_back((us_now() - start));
    if ((mask[static_cast<size_t>(token) / 32] >> (token % 32) & 1) == 0) {
      fmt::print(stderr, "grammar_bench: '{}' is not allowed\n", tokenizer.token_bytes(token));
      return false;
    }
    (*constraint)->accept(token);
  }
  return true;
}

int run(int argc, char** argv) {
  std::string folder, out_path;
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--out" && i + 1 < argc) {
      out_path = argv[++i];
    } else {
      folder = argv[i];
    }
  }
  auto tokenizer = Tokenizer::load(folder);
  if (!tokenizer) {
    fmt::print(stderr, "grammar_bench: {}\n", tokenizer.error().message);
    return 2;
  }
  const auto start = us_now();
  const auto vocabulary = *Vocabulary::make(*tokenizer);
  const double trie_ms = (us_now() - start) / 1000;
  fmt::print("{} tokens, trie of {} nodes in {:.0f} ms\n", vocabulary->size(), vocabulary->trie().size(),
             trie_ms);
  fmt::print("{:<24}{:>8}{:>12}{:>11}{:>11}{:>10}{:>10}{:>10}{:>12}{:>12}\n", "case", "tokens", "compile ms",
             "cold ms", "cold max", "warm p50", "warm p99", "warm max", "grammar KB", "cache KB");
  std::string rows;
  for (const Case& c : cases()) {
    GrammarCache grammars;
    const auto cache = std::make_shared<MaskCache>(vocabulary);
    const auto compile_start = us_now();
    auto plan = plan_output(c.request, grammars);
    const double compile_ms = (us_now() - compile_start) / 1000;
    if (!plan) {
      fmt::print(stderr, "grammar_bench: {}\n", plan.error().message);
      return 1;
    }
    std::vector<double> cold, warm;
    for (int round = 0; round < 8; ++round) {
      std::vector<double> us;
      for (const std::string& text : c.texts) {
        std::vector<TokenId> tokens = tokenizer->encode(text);
        tokens.push_back(vocabulary->eos());
        if (!pass(*tokenizer, *plan, cache, tokens, us)) return 1;
      }
      if (round == 0) cold = us;
      if (round > 2) warm.insert(warm.end(), us.begin(), us.end());
    }
    const Times a = summary(cold), b = summary(warm);
    fmt::print("{:<24}{:>8}{:>12.2f}{:>11.2f}{:>11.0f}{:>10.2f}{:>10.2f}{:>10.2f}{:>12}{:>12}\n", c.name,
               a.tokens, compile_ms, a.sum_ms, a.max, b.p50, b.p99, b.max, plan->grammar->bytes() / 1024,
               cache->bytes() / 1024);
    rows += fmt::format(
        "{}\n    {{\"case\": \"{}\", \"tokens\": {}, \"compile_ms\": {:.2f}, \"cold_sum_ms\": {:.2f}, "
        "\"cold_max_us\": "
        "{:.0f}, \"warm_p50_us\": {:.2f}, \"warm_p99_us\": {:.2f}, \"warm_max_us\": {:.2f}, "
        "\"grammar_bytes\": {}, "
        "\"cache_bytes\": {}}}",
        rows.empty() ? "" : ",", c.name, a.tokens, compile_ms, a.sum_ms, a.max, b.p50, b.p99, b.max,
        plan->grammar->bytes(), cache->bytes());
  }
  if (!out_path.empty()) {
    std::ofstream(out_path) << fmt::format(
        "{{\n  \"bench\": \"grammar\",\n  \"vocab\": {},\n  \"trie_ms\": {:.0f},\n  \"cases\": [{}\n  "
        "]\n}}\n",
        vocabulary->size(), trie_ms, rows);
  }
  return 0;
}

}  // namespace
}  // namespace kvasir

int main(int argc, char** argv) { return kvasir::run(argc, argv); }
