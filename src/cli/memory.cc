// Prints model/accounting.h as a table and as JSON; see memory.h.
#include "cli/memory.h"

#include <fmt/core.h>

#include <cstdio>
#include <functional>
#include <utility>
#include <vector>

#include "base/json_writer.h"
#include "cli/error.h"
#include "cli/table.h"
#include "engine/sequence.h"
#include "io/file.h"

namespace kvasir {
namespace {

constexpr int64_t kMaxConfigBytes = 16 << 20;

Result<ModelConfig> config_of(const std::string& model) {
  if (model == "flash") return flash_config();
  if (model == "pro") return pro_config();
  std::string path = model + "/config.json";
  auto json = read_text_file(path, kMaxConfigBytes);
  if (!json && json.error().code == ErrorCode::kNotFound) {
    return Error{ErrorCode::kNotFound,
                 fmt::format("--model: '{}' is neither flash nor pro, and there is no {}", model, path)};
  }
  if (!json) return json.error();
  std::vector<std::string> warnings;  // unknown keys change no figure here; `kvasir inspect` shows them
  return parse_config(*json, path, warnings);
}

std::string percent(double part, double whole) { return fmt::format("{:#.3g} %", 100 * part / whole); }

std::string gflop(double flops) {
  return flops < 100e9 ? fmt::format("{:.3g}", flops / 1e9) : fmt::format("{:.1f}", flops / 1e9);
}

// "flash", "pro", or the folder's own name.
std::string label_of(std::string model) {
  while (model.size() > 1 && model.back() == '/') model.pop_back();
  return model.substr(model.find_last_of('/') + 1);
}

void add_comparison(const MemoryReport& r, std::string& out) {
  Table table({Align::kLeft, Align::kRight, Align::kRight, Align::kRight, Align::kRight});
  const Footprint* all[] = {&r.v4, &r.v3_2, &r.gqa8, &r.mha};
  table.add_row({"", r.v4.name, r.v3_2.name, r.gqa8.name, r.mha.name});
  table.add_rule();
  auto row = [&](const char* name, const std::function<std::string(const Footprint&)>& cell) {
    std::vector<std::string> cells = {name};
    for (const Footprint* f : all) cells.push_back(cell(*f));
    table.add_row(cells);
  };
  auto bytes = [](const Footprint& f) { return static_cast<double>(f.kv_bytes()); };
  auto fp8 = [](const Footprint& f) { return f.flops_per_token_fp8_equivalent(); };
  row("KV cache, bytes", [](const Footprint& f) { return with_commas(f.kv_bytes()); });
  row("", [&](const Footprint& f) { return human_bytes(bytes(f)); });
  row("  per token of context",
      [](const Footprint& f) { return fmt::format("{:.2f} B", f.kv_bytes_per_token()); });
  row("  this model's share", [&](const Footprint& f) { return percent(bytes(r.v4), bytes(f)); });
  table.add_row({"  held by kvasir, all in",
                 r.held_bytes > 0 ? human_bytes(static_cast<double>(r.held_bytes)) : "(refused)"});
  row("GFLOP per decoded token", [](const Footprint& f) { return gflop(f.flops_per_token()); });
  row("  FP8-equivalent", [&](const Footprint& f) { return gflop(fp8(f)); });
  row("  this model's share", [&](const Footprint& f) { return percent(fp8(r.v4), fp8(f)); });
  out += table.text();
}

void add_terms(const Footprint& f, std::string& out) {
  out += fmt::format("\n{}: {}\n", f.name, f.source);
  Table table({Align::kLeft, Align::kRight, Align::kLeft, Align::kLeft});
  for (const ByteTerm& t : f.bytes) {
    table.add_row({"  " + t.name, human_bytes(static_cast<double>(t.bytes)),
                   t.kind == ByteKind::kState ? "apart" : "", t.formula});
  }
  for (const FlopTerm& t : f.flops) {
    table.add_row({"  " + t.name, gflop(t.flops) + " GFLOP", fmt::format("x {} FP8", t.fp8_cost), t.formula});
  }
  out += table.text();
}

void write_figures(const Footprint& f, JsonWriter& json) {
  json.field("kv_bytes", f.kv_bytes()).field("kv_bytes_per_token", f.kv_bytes_per_token());
  json.field("flops_per_token", f.flops_per_token())
      .field("flops_per_token_fp8_equivalent", f.flops_per_token_fp8_equivalent());
}

void write_sources(const char* key, const Footprint& f, JsonWriter& json) {
  json.begin_object(key).field("from", f.source).begin_array("kv_bytes");
  auto byte_term = [&](const ByteTerm& t) {
    json.begin_object()
        .field("name", t.name)
        .field("bytes", t.bytes)
        .field("formula", t.formula)
        .end_object();
  };
  for (const ByteTerm& t : f.bytes) {
    if (t.kind != ByteKind::kState) byte_term(t);
  }
  json.end_array().begin_array("state_bytes");
  for (const ByteTerm& t : f.bytes) {
    if (t.kind == ByteKind::kState) byte_term(t);
  }
  json.end_array().begin_array("flops_per_token");
  for (const FlopTerm& t : f.flops) {
    json.begin_object().field("name", t.name).field("flops", t.flops).field("fp8_cost", t.fp8_cost);
    json.field("formula", t.formula).end_object();
  }
  json.end_array().end_object();
}

// Reserves such a sequence, without writing to it, and asks the allocator.
int64_t held_bytes(const ModelConfig& config, int64_t context) {
  KvLayout layout = KvLayout::make(config, Numerics::kNative);
  PagePool pool(layout.page_bytes, KvLayout::pages_for(context) + PagePool::kSlabPages);
  auto sequence = Sequence::make(layout, pool);
  if (!sequence || !sequence->reserve(context)) return 0;
  return pool.held_bytes() + layout.state_bytes;
}

}  // namespace

Result<MemoryReport> memory_report(const std::string& model, int64_t context) {
  KVASIR_TRY(ModelConfig config, config_of(model));
  MemoryReport report;
  report.model = model;
  report.context = context;
  report.v4 = v4_footprint(config, context, CacheRows::stored(config, Numerics::kNative));
  report.v4.name = label_of(model);
  report.v3_2 = v3_2_footprint(context);
  report.gqa8 = gqa8_footprint(config, context);
  report.mha = mha_footprint(config, context);
  report.held_bytes = held_bytes(config, context);
  return report;
}

std::string memory_table(const MemoryReport& r) {
  std::string out =
      fmt::format("One sequence of {} tokens, and one token decoded after them.\n\n", with_commas(r.context));
  add_comparison(r, out);
  out += fmt::format(
      "\nThe KV cache is the part that grows plus the windows. \"apart\" marks what a sequence holds "
      "besides, whatever its\n"
      "length ({} here). FP8-equivalent counts bf16 and f32 work twice and FP4 x FP4 half. In the formulas t "
      "is the\n"
      "context, d the model width, H the query heads, D the head width, qr the query rank, G the output "
      "groups.\n",
      human_bytes(static_cast<double>(r.v4.state_bytes())));
  for (const Footprint* f : {&r.v4, &r.v3_2, &r.gqa8, &r.mha}) add_terms(*f, out);
  return out;
}

std::string memory_json(const MemoryReport& r) {
  JsonWriter json(JsonWriter::Layout::kIndented);
  json.begin_object().field("model", r.model).field("context", r.context);
  write_figures(r.v4, json);
  json.field("state_bytes", r.v4.state_bytes()).field("held_bytes", r.held_bytes);
  const std::pair<const char*, const Footprint*> yardsticks[] = {
      {"v3_2", &r.v3_2}, {"gqa8", &r.gqa8}, {"mha", &r.mha}};
  for (const auto& [key, f] : yardsticks) {
    json.begin_object(key);
    write_figures(*f, json);
    json.end_object();
  }
  json.begin_object("sources");
  write_sources("model", r.v4, json);
  for (const auto& [key, f] : yardsticks) write_sources(key, *f, json);
  json.end_object().end_object();
  return json.text() + "\n";
}

int run_memory(const MemoryOptions& options) {
  auto report = memory_report(options.model, options.context);
  if (!report) return report_error(report.error());
  std::string text = options.json ? memory_json(*report) : memory_table(*report);
  bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  if (!written) return report_error({ErrorCode::kIo, "cannot write to standard output"});
  return kExitOk;
}

}  // namespace kvasir
