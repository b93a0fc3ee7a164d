// Prints cache/disk_archive.h as tables and as JSON; see cache_command.h.
#include "cli/cache_command.h"

#include <fmt/core.h>

#include <cstdio>

#include "base/clock.h"
#include "base/json_writer.h"
#include "cache/disk_archive.h"
#include "cache/disk_store.h"
#include "cli/error.h"
#include "cli/table.h"

namespace kvasir {
namespace {

Result<std::vector<FolderModel>> models_of(const CacheOptions& o, const std::string& folder) {
  KVASIR_TRY(auto models, folder_models(folder));
  std::erase_if(models, [&](const FolderModel& m) { return !m.model.weights.text().starts_with(o.model); });
  if (models.empty()) {
    return Error{ErrorCode::kNotFound, fmt::format("{}: no cached prefixes{}", folder,
                                                   o.model.empty() ? "" : " of model " + o.model)};
  }
  return models;
}

// For what makes sense for one model only.
Result<FolderModel> only_model(const CacheOptions& o, const std::string& folder) {
  KVASIR_TRY(auto models, models_of(o, folder));
  if (models.size() == 1) return models[0];
  return Error{ErrorCode::kInvalid,
               fmt::format("{}: holds {} models; choose one by --model HASH (`kvasir cache stat` lists them)",
                           folder, models.size())};
}

Result<std::optional<SpanHash>> prefix_of(const CacheOptions& o) {
  if (o.prefix.empty()) return std::optional<SpanHash>();
  KVASIR_TRY(SpanHash id, SpanHash::parse(o.prefix));
  return std::optional(id);
}

std::string age_of(int64_t last_used) {
  int64_t age = std::max<int64_t>(unix_seconds() - last_used, 0);
  if (age < 120) return fmt::format("{} s", age);
  if (age < 7200) return fmt::format("{} min", age / 60);
  if (age < 172800) return fmt::format("{} h", age / 3600);
  return fmt::format("{} days", age / 86400);
}

Result<std::string> stat(const CacheOptions& o, const std::string& folder) {
  KVASIR_TRY(auto models, models_of(o, folder));
  Table table({Align::kLeft, Align::kLeft, Align::kRight, Align::kRight, Align::kRight, Align::kRight,
               Align::kRight});
  table.add_row({"model", "weights", "prefixes", "page bytes", "segments", "on disk", "damaged"});
  table.add_rule();
  JsonWriter json;
  json.begin_object().field("folder", folder).begin_array("models");
  for (const FolderModel& m : models) {
    DiskOptions options = m.options(folder);
    options.read_only = true;
    KVASIR_TRY(auto store, DiskStore::open(options));
    DiskMetrics metrics = store->metrics();
    KVASIR_TRY(auto prefixes, folder_prefixes(folder, m));
    table.add_row({m.model.name, m.model.weights.text(), with_commas(std::ssize(prefixes)),
                   with_commas(m.page_bytes()), with_commas(m.segments),
                   human_bytes(static_cast<double>(m.bytes)), with_commas(metrics.corrupt_records)});
    json.begin_object()
        .field("model", m.model.name)
        .field("weights", m.model.weights.text())
        .field("numerics", m.model.numerics);
    json.field("layout", m.model.layout)
        .field("page_tokens", m.page_tokens)
        .field("page_bytes", m.page_bytes());
    json.field("prefixes", std::ssize(prefixes))
        .field("pages", metrics.pages)
        .field("snapshots", metrics.snapshots)
        .field("notes", metrics.notes);
    json.field("segments", m.segments).field("bytes", m.bytes).field("live_bytes", metrics.live_bytes);
    json.field("corrupt_records", metrics.corrupt_records).end_object();
  }
  json.end_array().end_object();
  return o.json ? json.text() + "\n" : table.text();
}

Result<std::string> ls(const CacheOptions& o, const std::string& folder) {
  KVASIR_TRY(auto models, models_of(o, folder));
  Table table(
      {Align::kLeft, Align::kRight, Align::kRight, Align::kRight, Align::kRight, Align::kLeft, Align::kLeft});
  table.add_row({"prefix", "tokens", "bytes", "hits", "last used", "kept", "model"});
  table.add_rule();
  JsonWriter json;
  json.begin_object().field("folder", folder).begin_array("prefixes");
  for (const FolderModel& m : models) {
    KVASIR_TRY(auto prefixes, folder_prefixes(folder, m));
    for (const PrefixInfo& p : prefixes) {
      table.add_row({p.id.text(), with_commas(p.tokens), human_bytes(static_cast<double>(p.disk_bytes)),
                     with_commas(p.hits), age_of(p.last_used), p.kept ? "yes" : "no",
                     m.model.weights.text().substr(0, 12)});
      json.begin_object()
          .field("id", p.id.text())
          .field("namespace", p.cache_namespace)
          .field("tokens", p.tokens)
          .field("bytes", p.disk_bytes);
      json.field("hits", p.hits)
          .field("last_used", p.last_used)
          .field("kept", p.kept)
          .field("weights", m.model.weights.text())
          .end_object();
    }
  }
  json.end_array().end_object();
  return o.json ? json.text() + "\n" : table.text();
}

Result<std::string> verify(const CacheOptions& o, const std::string& folder, int64_t& lost) {
  KVASIR_TRY(auto models, models_of(o, folder));
  VerifyReport sum;
  for (const FolderModel& m : models) {
    KVASIR_TRY(VerifyReport r, verify_folder(folder, m));
    sum = {sum.pages + r.pages, sum.snapshots + r.snapshots, sum.notes + r.notes, sum.lost + r.lost};
  }
  lost = sum.lost;
  JsonWriter json;
  json.begin_object()
      .field("folder", folder)
      .field("pages", sum.pages)
      .field("snapshots", sum.snapshots)
      .field("notes", sum.notes);
  json.field("lost", sum.lost).end_object();
  if (o.json) return json.text() + "\n";
  return fmt::format("{}: {} pages, {} snapshots and {} notes are right, {} records are lost\n", folder,
                     with_commas(sum.pages), with_commas(sum.snapshots), with_commas(sum.notes),
                     with_commas(sum.lost));
}

std::string moved(const CacheOptions& o, const ArchiveReport& r, const char* verb) {
  JsonWriter json;
  json.begin_object()
      .field("file", o.file)
      .field("pages", r.pages)
      .field("snapshots", r.snapshots)
      .field("bytes", r.bytes)
      .end_object();
  if (o.json) return json.text() + "\n";
  return fmt::format("{}: {} {} pages and {} snapshots, {}\n", o.file, verb, with_commas(r.pages),
                     with_commas(r.snapshots), human_bytes(static_cast<double>(r.bytes)));
}

Result<std::string> report(const CacheOptions& o, int64_t& lost) {
  KVASIR_TRY(std::string folder, cache_folder(o.folder));
  KVASIR_TRY(auto prefix, prefix_of(o));
  if (o.action == "stat") return stat(o, folder);
  if (o.action == "ls") return ls(o, folder);
  if (o.action == "verify") return verify(o, folder, lost);
  if (o.action == "import") {
    KVASIR_TRY(ArchiveReport r, import_folder(folder, o.file));
    return moved(o, r, "added");
  }
  KVASIR_TRY(FolderModel model, only_model(o, folder));
  if (o.action == "export") {
    KVASIR_TRY(ArchiveReport r, export_folder(folder, model, prefix, o.file));
    return moved(o, r, "holds");
  }
  KVASIR_TRY_STATUS(prune_folder(folder, model, prefix, o.max_bytes));
  return stat(o, folder);
}

}  // namespace

Result<std::string> cache_report(const CacheOptions& options) {
  int64_t lost = 0;
  return report(options, lost);
}

int run_cache(const CacheOptions& options) {
  int64_t lost = 0;
  auto text = report(options, lost);
  if (!text) return report_error(text.error());
  std::fwrite(text->data(), 1, text->size(), stdout);
  if (lost == 0) return kExitOk;
  return report_error(
      {ErrorCode::kIo, fmt::format("{} records are damaged; they are misses, nothing else", lost)});
}

}  // namespace kvasir
