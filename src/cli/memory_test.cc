// What `kvasir memory` says, as JSON and as a table.
#include "cli/memory.h"

#include <gtest/gtest.h>
#include <simdjson.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "cli/error.h"

namespace kvasir {
namespace {

simdjson::dom::element parse(simdjson::dom::parser& parser, const std::string& text) {
  return parser.parse(text);
}

MemoryReport report(const std::string& model, int64_t context) {
  auto r = memory_report(model, context);
  if (!r) ADD_FAILURE() << r.error().message;
  return r ? *r : MemoryReport();
}

TEST(Memory, JsonHasTheSameFourFiguresForTheModelAndForEveryYardstick) {
  simdjson::dom::parser parser;
  MemoryReport r = report("pro", 1048576);
  auto json = parse(parser, memory_json(r));
  EXPECT_EQ(json["model"].get_string().value(), "pro");
  EXPECT_EQ(json["context"].get_int64().value(), 1048576);
  std::pair<simdjson::dom::element, const Footprint*> objects[] = {
      {json, &r.v4}, {json["v3_2"], &r.v3_2}, {json["gqa8"], &r.gqa8}, {json["mha"], &r.mha}};
  for (const auto& [object, footprint] : objects) {
    EXPECT_EQ(object["kv_bytes"].get_int64().value(), footprint->kv_bytes());
    EXPECT_DOUBLE_EQ(object["kv_bytes_per_token"].get_double().value(), footprint->kv_bytes_per_token());
    EXPECT_DOUBLE_EQ(object["flops_per_token"].get_double().value(), footprint->flops_per_token());
    EXPECT_DOUBLE_EQ(object["flops_per_token_fp8_equivalent"].get_double().value(),
                     footprint->flops_per_token_fp8_equivalent());
  }
  EXPECT_EQ(json["kv_bytes"].get_int64().value(), 5280404480);
  double held = static_cast<double>(json["held_bytes"].get_int64().value());
  EXPECT_NEAR(held / 5280404480.0, 1.0, 0.01);  // all of it: pages, windows and tails with their slack
  EXPECT_EQ(json["v3_2"]["kv_bytes"].get_int64().value(), int64_t{48068} * 1048576);
}

TEST(Memory, JsonSourcesAddUpToTheFiguresTheyExplain) {
  simdjson::dom::parser parser;
  auto json = parse(parser, memory_json(report("flash", 262144)));
  for (const char* name : {"model", "v3_2", "gqa8", "mha"}) {
    auto figures = std::string(name) == "model" ? json : json[name].value();
    auto source = json["sources"][name].value();
    EXPECT_FALSE(source["from"].get_string().value().empty());
    int64_t bytes = 0;
    for (auto term : source["kv_bytes"]) {
      bytes += term["bytes"].get_int64().value();
      EXPECT_FALSE(term["formula"].get_string().value().empty());
    }
    EXPECT_EQ(bytes, figures["kv_bytes"].get_int64().value()) << name;
    double flops = 0, fp8 = 0;
    for (auto term : source["flops_per_token"]) {
      flops += term["flops"].get_double().value();
      fp8 += term["flops"].get_double().value() * term["fp8_cost"].get_double().value();
      EXPECT_FALSE(term["formula"].get_string().value().empty());
    }
    EXPECT_DOUBLE_EQ(flops, figures["flops_per_token"].get_double().value()) << name;
    EXPECT_DOUBLE_EQ(fp8, figures["flops_per_token_fp8_equivalent"].get_double().value()) << name;
  }
}

TEST(Memory, TableShowsThePublishedFiguresSideBySide) {
  std::string table = memory_table(report("flash", 1048576));
  for (const char* text :
       {"flash", "V3.2", "GQA8", "MHA", "3.69 GB", "50.4 GB", "185 GB", "3514.25 B", "48068.00 B", "141.1",
        "1165.9", "121.1", "1202.6", "7.32 %", "2.00 %", "10.1 %", "floor(t / 4) x 584 B x 21 layers"}) {
    EXPECT_NE(table.find(text), std::string::npos) << text << "\n" << table;
  }
}

TEST(Memory, NamesTheFileWhenAFolderHasNoConfig) {
  auto missing = memory_report("/nonexistent/model", 1);
  ASSERT_FALSE(missing);
  EXPECT_EQ(exit_code(missing.error().code), kExitBadInput);
  EXPECT_NE(missing.error().message.find("/nonexistent/model/config.json"), std::string::npos);
}

TEST(Memory, RefusesABrokenConfig) {
  auto dir = std::filesystem::temp_directory_path() / ("kvasir_memory_test_" + std::to_string(getpid()));
  std::filesystem::create_directory(dir);
  std::ofstream(dir / "config.json") << R"({"model_type": "deepseek_v4"})";
  auto broken = memory_report(dir.string(), 1);
  std::filesystem::remove_all(dir);
  ASSERT_FALSE(broken);
  EXPECT_EQ(exit_code(broken.error().code), kExitBadInput);
  EXPECT_NE(broken.error().message.find("config.json"), std::string::npos);
}

}  // namespace
}  // namespace kvasir
