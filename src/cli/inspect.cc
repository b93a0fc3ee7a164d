// Prints model/inspection.h as tables and as JSON; see inspect.h.
#include "cli/inspect.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/json_writer.h"
#include "cli/error.h"
#include "cli/progress_bar.h"
#include "cli/table.h"
#include "io/file.h"
#include "model/inspection.h"

namespace kvasir {
namespace {

std::string_view kind_name(AttentionKind kind) {
  return kind == AttentionKind::kSwa ? "SWA" : kind == AttentionKind::kCsa ? "CSA" : "HCA";
}

std::string_view draft_name(DraftKind draft) {
  return draft == DraftKind::kNone ? "none" : draft == DraftKind::kMtp ? "MTP" : "DSpark";
}

std::string_view format_name(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return "F32";
    case WeightFormat::kBf16:
      return "BF16";
    case WeightFormat::kFp8Block128:
      return "FP8 (E4M3, an E8M0 scale per 128x128)";
    case WeightFormat::kFp4Group32:
      return "FP4 (E2M1, an E8M0 scale per 32)";
    case WeightFormat::kNone:
      break;
  }
  return "none";
}

std::string expert_formats(const Inspection& r) {
  std::string out;
  for (const auto& [format, count] : r.expert_formats) {
    out += fmt::format("{}{}", out.empty() ? "" : ", ", format_name(format));
    if (r.expert_formats.size() > 1) out += fmt::format(" x {}", with_commas(count));
  }
  return out.empty() ? "none" : out;
}

std::string billions(int64_t parameters) {
  return parameters < 1'000'000'000 ? with_commas(parameters)
                                    : fmt::format("{:.2f} B", static_cast<double>(parameters) / 1e9);
}

// "0-1 SWA, 2 CSA, 3 HCA, ...": runs of equal layers; a schedule that alternates to the end is said in one
// word.
std::string schedule(const ModelConfig& c) {
  std::string out;
  auto alternates_from = [&](int first) {
    if (c.num_layers - first < 6) return false;
    for (int l = first + 2; l < c.num_layers; ++l) {
      if (c.compress_ratio(l) != c.compress_ratio(l - 2)) return false;
    }
    return c.compress_ratio(first) != c.compress_ratio(first + 1);
  };
  for (int first = 0; first < c.num_layers;) {
    out += out.empty() ? "" : ", ";
    if (alternates_from(first)) {
      return out + fmt::format("{}-{} {} and {} in turn", first, c.num_layers - 1,
                               kind_name(c.attention_kind(first)), kind_name(c.attention_kind(first + 1)));
    }
    int last = first;
    while (last + 1 < c.num_layers && c.compress_ratio(last + 1) == c.compress_ratio(first)) ++last;
    std::string layers = first == last ? fmt::format("{}", first) : fmt::format("{}-{}", first, last);
    out += fmt::format("{} {}", layers, kind_name(c.attention_kind(first)));
    first = last + 1;
  }
  return out;
}

int count_kind(const ModelConfig& c, AttentionKind kind) {
  int n = 0;
  for (int l = 0; l < c.num_layers; ++l) n += c.attention_kind(l) == kind ? 1 : 0;
  return n;
}

void add_facts(const Inspection& r, std::string& out) {
  const ModelConfig& c = r.config;
  const Inventory& i = r.inventory;
  Table table({Align::kLeft, Align::kLeft});
  table.add_row({"checkpoint", printable(r.dir)});
  table.add_row({"shape", fmt::format("{} layers, dim {}, {} heads x {}, vocabulary {}, context {}",
                                      c.num_layers, c.dim, c.num_heads, c.head_dim, with_commas(c.vocab_size),
                                      with_commas(c.max_context))});
  table.add_row({"layers", schedule(c)});
  table.add_row(
      {"",
       fmt::format("{} SWA (window {}), {} CSA (ratio 4, top {}), {} HCA (ratio 128); {} routed by token id",
                   count_kind(c, AttentionKind::kSwa), c.window, count_kind(c, AttentionKind::kCsa),
                   c.index_topk, count_kind(c, AttentionKind::kHca), c.num_hash_layers)});
  table.add_row({"experts", fmt::format("{} of {} and one shared, {} wide, {}", c.experts_per_token,
                                        c.num_experts, c.expert_dim, expert_formats(r))});
  table.add_row({"draft blocks", r.draft == DraftKind::kNone
                                     ? "none"
                                     : fmt::format("{}, {} tensors, {}", draft_name(r.draft),
                                                   with_commas(r.draft_blocks.tensors),
                                                   human_bytes(static_cast<double>(r.draft_blocks.bytes)))});
  table.add_row({"chat revision", r.revision == ChatRevision::kA ? "A" : "B"});
  table.add_row({"tokenizer", r.has_tokenizer ? "tokenizer.json" : "none"});
  table.add_row(
      {"stored", fmt::format("{} tensors in {} file{}, {} bytes ({})", with_commas(r.stored.tensors), r.files,
                             r.files == 1 ? "" : "s", with_commas(r.stored.bytes),
                             human_bytes(static_cast<double>(r.stored.bytes)))});
  table.add_row({"parameters",
                 fmt::format("{} in all, {} without draft blocks",
                             billions(i.trunk.parameters + i.mtp.parameters), billions(i.trunk.parameters))});
  table.add_row(
      {"active per token", fmt::format("{}; {} with the head, {} with the embedding too",
                                       billions(i.active_blocks), billions(i.active_blocks + i.active_head),
                                       billions(i.active_blocks + i.active_head + i.active_embed))});
  table.add_row({"read per token", fmt::format("{} of weights at batch 1, head included",
                                               human_bytes(static_cast<double>(i.read_per_token)))});
  out += table.text();
}

void add_parts(const Inspection& r, std::string& out) {
  Table table({Align::kLeft, Align::kRight, Align::kRight, Align::kRight, Align::kRight});
  table.add_row({"part", "tensors", "parameters", "bytes", "share"});
  table.add_rule();
  auto row = [&](std::string name, const Amount& a, bool parameters) {
    if (a.tensors == 0) return;
    table.add_row({std::move(name), with_commas(a.tensors), parameters ? with_commas(a.parameters) : "",
                   with_commas(a.bytes),
                   fmt::format("{:.2f} %", 100.0 * static_cast<double>(a.bytes) /
                                               static_cast<double>(std::max<int64_t>(r.stored.bytes, 1)))});
  };
  for (int p = 0; p < kNumParts; ++p)
    row(std::string(part_name(static_cast<Part>(p))), r.inventory.parts[static_cast<size_t>(p)], true);
  if (r.draft == DraftKind::kDspark) {
    row("draft blocks (DSpark)", r.draft_blocks, false);
  } else {
    row("draft block (MTP)", r.inventory.mtp, true);
  }
  row("unknown", r.unknown, false);
  table.add_rule();
  for (const auto& [dtype, amount] : r.by_dtype) row(std::string(dtype_name(dtype)), amount, false);
  out += fmt::format("\n{}", table.text());
}

void add_tensors(const Inspection& r, std::string& out) {
  Table table({Align::kLeft, Align::kLeft, Align::kLeft, Align::kRight, Align::kRight});
  table.add_row({"tensor", "dtype", "shape", "count", "bytes"});
  table.add_rule();
  for (const TensorGroup& g : r.groups) {
    table.add_row({g.pattern, std::string(dtype_name(g.dtype)), shape_text(g.shape), with_commas(g.count),
                   with_commas(g.bytes)});
  }
  out += fmt::format("\n{}", table.text());
}

std::string verified_line(const Verification& v) {
  double rate = v.seconds > 0 ? static_cast<double>(v.bytes) / v.seconds : 0;
  return fmt::format(
      "verified: {} bytes read in {:.2f} s, {}/s; {}", with_commas(v.bytes), v.seconds, human_bytes(rate),
      v.bad_tensors == 0 ? std::string("no NaN, no infinity, no E8M0 255")
                         : fmt::format("{} tensors hold what no weight can be", v.bad_tensors));
}

// Yes, and what it will lack, or no.
std::string verdict(const Inspection& r) {
  if (!r.problems.empty()) return "no";
  std::string out = "yes";
  if (!r.has_tokenizer) out += ", on token ids: there is no tokenizer.json";
  const int64_t weights = r.inventory.trunk.bytes + r.inventory.mtp.bytes;
  const int64_t memory = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  if (weights > memory) {
    out += fmt::format(", at the disk's speed: {} of weights, {} of memory",
                       human_bytes(static_cast<double>(weights)), human_bytes(static_cast<double>(memory)));
  }
  return out;
}

std::string as_text(const Inspection& r, const Verification* v) {
  std::string out;
  add_facts(r, out);
  add_parts(r, out);
  add_tensors(r, out);
  out += "\n";
  for (const std::string& note : r.notes) out += fmt::format("note: {}\n", note);
  if (v) {
    out += fmt::format("{}\n", verified_line(*v));
    for (const std::string& p : v->problems) out += fmt::format("problem: {}\n", p);
  }
  for (const std::string& p : r.problems) out += fmt::format("problem: {}\n", p);
  out += fmt::format("kvasir can run it: {}\n", verdict(r));
  return out;
}

void add_amount(JsonWriter& json, std::string_view name, const Amount& a, bool parameters) {
  json.begin_object(name).field("tensors", a.tensors).field("bytes", a.bytes);
  if (parameters) json.field("parameters", a.parameters);
  json.end_object();
}

void add_layers(JsonWriter& json, const ModelConfig& c) {
  json.begin_array("layers");
  for (int l = 0; l < c.num_layers; ++l) {
    json.begin_object()
        .field("layer", l)
        .field("kind", kind_name(c.attention_kind(l)))
        .field("compress_ratio", c.compress_ratio(l));
    json.field("routing", std::string_view(c.hash_routed(l) ? "hash" : "score")).end_object();
  }
  json.end_array();
}

void add_strings(JsonWriter& json, std::string_view name, const std::vector<std::string>& lines) {
  json.begin_array(name);
  for (const std::string& line : lines) json.value(line);
  json.end_array();
}

std::string as_json(const Inspection& r, const Verification* v) {
  const Inventory& i = r.inventory;
  JsonWriter json(JsonWriter::Layout::kIndented);
  json.begin_object().field("checkpoint", r.dir).field("can_run", r.problems.empty());
  add_strings(json, "problems", r.problems);
  add_strings(json, "notes", r.notes);
  json.field("draft", draft_name(r.draft))
      .field("chat_revision", std::string_view(r.revision == ChatRevision::kA ? "A" : "B"));
  json.field("tokenizer", r.has_tokenizer)
      .field("files", r.files)
      .field("tensors", r.stored.tensors)
      .field("bytes", r.stored.bytes);
  json.begin_object("parameters")
      .field("total", i.trunk.parameters + i.mtp.parameters)
      .field("without_draft", i.trunk.parameters);
  json.field("active", i.active_blocks).field("active_with_head", i.active_blocks + i.active_head);
  json.field("active_with_head_and_embedding", i.active_blocks + i.active_head + i.active_embed).end_object();
  json.field("bytes_read_per_token", i.read_per_token);
  json.begin_object("parts");
  for (int p = 0; p < kNumParts; ++p)
    add_amount(json, part_name(static_cast<Part>(p)), i.parts[static_cast<size_t>(p)], true);
  json.end_object();
  add_amount(json, "draft_blocks", r.draft_blocks, false);
  add_amount(json, "unknown", r.unknown, false);
  json.begin_object("dtypes");
  for (const auto& [dtype, amount] : r.by_dtype) add_amount(json, dtype_name(dtype), amount, false);
  json.end_object();
  add_layers(json, r.config);
  json.begin_array("tensor_groups");
  for (const TensorGroup& g : r.groups) {
    json.begin_object().field("pattern", g.pattern).field("dtype", dtype_name(g.dtype)).begin_array("shape");
    for (int64_t size : g.shape) json.value(size);
    json.end_array().field("count", g.count).field("bytes", g.bytes).end_object();
  }
  json.end_array();
  if (v) {
    json.begin_object("verification")
        .field("bytes", v->bytes)
        .field("seconds", v->seconds)
        .field("bad_tensors", v->bad_tensors);
    add_strings(json, "problems", v->problems);
    json.end_object();
  }
  json.end_object();
  return json.text() + "\n";
}

// The first of several problems, as the one line that an error is.
Error first_of(const std::vector<std::string>& problems, int64_t count) {
  std::string more = count > 1 ? fmt::format(" (and {} more)", count - 1) : "";
  return {ErrorCode::kInvalid, problems[0] + more};
}

}  // namespace

int run_inspect(const InspectOptions& options) {
  auto opened = open_checkpoint(options.dir);
  if (!opened) return report_error(opened.error());
  Inspection report = inspect_checkpoint(*opened, options.dir);
  Verification verification;
  const bool verify = options.verify;
  if (verify) {
    ProgressBar bar;
    auto read = verify_checkpoint(*opened, 0, &bar);
    if (!read) return report_error(read.error());
    verification = std::move(*read);
  }
  const Verification* v = verify ? &verification : nullptr;
  std::string text = options.json ? as_json(report, v) : as_text(report, v);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
  if (!report.problems.empty())
    return report_error(first_of(report.problems, static_cast<int64_t>(report.problems.size())));
  if (verify && verification.bad_tensors > 0)
    return report_error(first_of(verification.problems, verification.bad_tensors));
  return kExitOk;
}

}  // namespace kvasir
