// kvasir logits: runs token ids through the model in chunks, collecting what was asked for.
#include "cli/logits.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "cli/error.h"
#include "cli/interrupt.h"
#include "cli/progress_bar.h"
#include "cli/session.h"
#include "cli/table.h"
#include "engine/generator.h"
#include "engine/tap.h"
#include "io/file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "io/safetensors_writer.h"

namespace kvasir {
namespace {

constexpr int64_t kDefaultChunk = 512;
constexpr int64_t kMaxIdsBytes = int64_t{64} << 20;

Result<std::vector<int32_t>> read_ids(const std::string& path, int64_t vocab) {
  KVASIR_TRY(std::string text, read_text_file(path, kMaxIdsBytes));
  KVASIR_TRY(JsonDocument json, JsonDocument::parse(text, path, {kMaxIdsBytes, 4}));
  simdjson::dom::array array;
  if (json.root().get(array) != simdjson::SUCCESS) {
    return Error{ErrorCode::kInvalid, fmt::format("{}: holds {}, expected a JSON array of token ids", path, json_kind(json.root()))};
  }
  std::vector<int32_t> ids;
  for (simdjson::dom::element e : array) {
    int64_t id = -1;
    if (e.get(id) != simdjson::SUCCESS || id < 0 || id >= vocab) {
      return Error{ErrorCode::kInvalid, fmt::format("{}: element {} is no token id of this model (an integer from 0 to {})", path, ids.size(), vocab - 1)};
    }
    ids.push_back(static_cast<int32_t>(id));
  }
  if (ids.empty()) return Error{ErrorCode::kInvalid, fmt::format("{}: the array is empty, at least one token id is needed", path)};
  return ids;
}

// A tensor of an --inject file as f32, all but the first dimension flattened.
Result<TapTensor> read_f32(const SafetensorsFile& file, const TensorInfo& info) {
  TapTensor out;
  int64_t count = 1;
  for (int64_t n : info.shape) count *= n;
  int64_t rows = info.shape.empty() ? 0 : info.shape[0];
  out.columns = rows == 0 ? 0 : count / rows;
  WeightMatrix m;
  m.format = info.dtype == DType::kF32 ? WeightFormat::kF32 : WeightFormat::kBf16;
  m.rows = rows;
  m.cols = out.columns;
  m.data = file.data(info);
  if (info.dtype != DType::kF32 && info.dtype != DType::kBF16) {
    return Error{ErrorCode::kInvalid, fmt::format("{}: {} is {}, expected F32 or BF16", file.file().path(), info.name, dtype_name(info.dtype))};
  }
  out.f32.resize(count);
  for (int64_t r = 0; r < rows; ++r) dequantise_row(m, r, &out.f32[r * out.columns]);
  return out;
}

Result<std::vector<int64_t>> read_positions(const SafetensorsFile& file, const char* name) {
  std::vector<int64_t> out;
  const TensorInfo* info = file.find(name);
  if (!info) return out;
  if ((info->dtype != DType::kI32 && info->dtype != DType::kI64) || info->shape.size() != 1) {
    return Error{ErrorCode::kInvalid, fmt::format("{}: {} is {} {}, expected a list of I32 or I64", file.file().path(), name,
                                                  dtype_name(info->dtype), shape_text(info->shape))};
  }
  for (int64_t i = 0; i < info->shape[0]; ++i) {
    int64_t value = 0;
    if (info->dtype == DType::kI32) {
      int32_t v;
      std::memcpy(&v, file.data(*info) + 4 * i, 4);
      value = v;
    } else {
      std::memcpy(&value, file.data(*info) + 8 * i, 8);
    }
    out.push_back(value);
  }
  return out;
}

bool is_module_input(const std::string& name) {
  return name == "mtp.in" || (name.rfind("layers.", 0) == 0 && (name.ends_with(".attn.in") || name.ends_with(".ffn.in")));
}

Status read_injections(const std::string& path, int64_t tokens, Tap& tap) {
  KVASIR_TRY(SafetensorsFile file, SafetensorsFile::open(path));
  KVASIR_TRY(std::vector<int64_t> listed, read_positions(file, "rows"));
  for (const TensorInfo& info : file.tensors()) {
    if (!is_module_input(info.name)) continue;
    KVASIR_TRY(TapTensor data, read_f32(file, info));
    std::vector<int64_t> positions(data.rows());
    for (int64_t i = 0; i < data.rows(); ++i) positions[i] = i;
    if (data.rows() != tokens) {
      if (static_cast<int64_t>(listed.size()) != data.rows()) {
        return Error{ErrorCode::kInvalid, fmt::format("{}: {} has {} rows; expected {} (one per token id) or {} (one per entry of `rows`)", path,
                                                      info.name, data.rows(), tokens, listed.size())};
      }
      positions = listed;
    }
    tap.inject(info.name, std::move(positions), std::move(data));
  }
  return {};
}

class LogitsRun {
 public:
  LogitsRun(const LogitsOptions& options, Session& session, std::vector<int32_t> ids)
      : options_(options), runner_(*session.runner), config_(session.config()), ids_(std::move(ids)) {}

  Status run() {
    KVASIR_TRY_STATUS(choose_rows());
    bool mtp = options_.tap && runner_.model().mtp;
    if (options_.tap || !options_.inject_file.empty()) {
      runner_.set_observer(&tap_);
      tap_.record(options_.tap);
      if (!options_.inject_file.empty()) KVASIR_TRY_STATUS(read_injections(options_.inject_file, tokens(), tap_));
    }
    KVASIR_TRY(Sequence sequence, runner_.make_sequence());
    ProgressBar bar;
    bar.begin("running", ProgressUnit::kTokens, tokens());
    for (int64_t at = 0; at < tokens();) {
      int64_t n = std::min(runner_.options().max_step_tokens, tokens() - at);
      tap_.set_position(at);
      Runner::Item item{&sequence, std::span(ids_).subspan(at, n), Runner::Logits::kAll};
      KVASIR_TRY_STATUS(runner_.step({&item, 1}));
      keep_logits(at, n);
      if (mtp) KVASIR_TRY_STATUS(run_mtp(sequence, at, n));
      at += n;
      bar.tick(at);
    }
    bar.end();
    if (!tap_.error().empty()) return Error{ErrorCode::kInvalid, options_.inject_file + ": " + tap_.error()};
    for (const std::string& name : tap_.unused_injections()) {
      if (name == "mtp.in" && !mtp) continue;  // the draft block runs for --tap only
      return Error{ErrorCode::kInvalid, fmt::format("{}: {} is no module input of this model", options_.inject_file, name)};
    }
    if (options_.tap) tap_cache(runner_, sequence, tap_);
    return write();
  }

 private:
  int64_t tokens() const { return static_cast<int64_t>(ids_.size()); }

  Status choose_rows() {
    rows_.assign(options_.rows.begin(), options_.rows.end());
    if (rows_.empty())
      for (int64_t i = 0; i < tokens(); ++i) rows_.push_back(i);
    for (int64_t r : rows_) {
      if (r < 0 || r >= tokens()) return Error{ErrorCode::kInvalid, fmt::format("--rows: {} is outside the {} token ids", r, tokens())};
    }
    auto bytes = static_cast<double>(rows_.size()) * static_cast<double>(config_.vocab_size) * sizeof(float);
    double memory = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
    if (bytes > memory / 2) {
      return Error{ErrorCode::kInvalid, fmt::format("logits of {} tokens take {}, this machine has {}: choose some with --rows", rows_.size(),
                                                    human_bytes(bytes), human_bytes(memory))};
    }
    logits_.columns = config_.vocab_size;
    logits_.f32.resize(rows_.size() * config_.vocab_size);
    return {};
  }

  void keep_logits(int64_t at, int64_t n) {
    auto logits = runner_.logits();
    for (size_t i = 0; i < rows_.size(); ++i) {
      if (rows_[i] < at || rows_[i] >= at + n) continue;
      std::memcpy(&logits_.f32[i * config_.vocab_size], logits.row(rows_[i] - at), sizeof(float) * config_.vocab_size);
    }
  }

  // The draft block on the rows whose next token is known.
  Status run_mtp(Sequence& sequence, int64_t at, int64_t n) {
    int64_t known = std::min(n, tokens() - 1 - at);
    if (known <= 0) return {};
    KVASIR_TRY_STATUS(runner_.draft(sequence, at, std::span(ids_).subspan(at + 1, known), Runner::Logits::kAll));
    auto logits = runner_.logits();
    TapTensor& out = tap_["mtp.logits"];
    out.columns = config_.vocab_size;
    for (int64_t i = 0; i < known; ++i) {
      out.f32.insert(out.f32.end(), logits.row(i), logits.row(i) + config_.vocab_size);
      tap_["mtp.ids"].i32.push_back(ids_[at + 1 + i]);
      tap_["mtp.rows"].i32.push_back(static_cast<int32_t>(at + i));
    }
    return {};
  }

  Status write() {
    std::vector<TensorToWrite> out;
    std::vector<std::span<const std::byte>> bytes;
    auto add = [&](const std::string& name, const TapTensor& t) {
      std::vector<int64_t> shape = {t.rows()};
      if (t.columns > 0) shape.push_back(t.columns);  // else a list of ids or positions
      if (name == "mtp.in" || (name.ends_with(".out") && t.columns == config_.hc * config_.dim)) shape = {t.rows(), config_.hc, config_.dim};
      if (t.columns == 0) shape = {static_cast<int64_t>(t.i32.size())};
      bool f32 = !t.f32.empty();
      out.push_back({name, f32 ? DType::kF32 : DType::kI32, shape});
      bytes.push_back(f32 ? std::as_bytes(std::span(t.f32)) : std::as_bytes(std::span(t.i32)));
    };
    add("logits", logits_);
    TapTensor ids, rows;
    ids.i32 = ids_;
    rows.i32.assign(rows_.begin(), rows_.end());
    add("ids", ids);
    add("rows", rows);
    for (const auto& [name, t] : tap_.tensors()) add(name, t);
    KVASIR_TRY(SafetensorsWriter writer, SafetensorsWriter::create(options_.out_file, std::move(out)));
    for (auto b : bytes) KVASIR_TRY_STATUS(writer.write(b));
    return writer.finish();
  }

  const LogitsOptions& options_;
  Runner& runner_;
  const ModelConfig& config_;
  std::vector<int32_t> ids_;
  std::vector<int64_t> rows_;
  TapTensor logits_;
  Tap tap_{runner_.ops().memory()};
};

Status continue_greedily(const LogitsOptions& options, Session& session, const std::vector<int32_t>& ids) {
  KVASIR_TRY(Sequence sequence, session.runner->make_sequence());
  InterruptGuard guard(SecondInterrupt::kEndsProgram);
  ProgressBar bar;
  GenerationOptions generation;
  generation.sampling.temperature = 0;
  generation.sampling.top_logprobs = -1;
  generation.max_tokens = options.greedy;
  generation.interrupted = &guard.flag();
  generation.progress = &bar;
  std::string text = "[";
  auto result = generate(*session.runner, sequence, ids, generation, [&](const SampledToken& token) {
    text += fmt::format("{}{}", text.size() > 1 ? ", " : "", token.id);
    return true;
  });
  if (!result) return result.error();
  if (result->end == GenerationEnd::kCancelled) return Error{ErrorCode::kCancelled, "interrupted"};
  std::puts((text + "]").c_str());
  return {};
}

}  // namespace

int run_logits(const LogitsOptions& options) {
  auto run = [&]() -> Status {
    RunnerOptions r;
    r.max_step_tokens = options.chunk > 0 ? options.chunk : kDefaultChunk;
    r.max_logit_rows = options.greedy > 0 ? 1 : r.max_step_tokens;
    r.mtp = options.tap;
    ProgressBar bar;
    KVASIR_TRY(auto session, open_session(options.model_dir, options.compute, r, &bar));
    KVASIR_TRY(auto ids, read_ids(options.ids_file, session->config().vocab_size));
    if (options.greedy > 0) return continue_greedily(options, *session, ids);
    return LogitsRun(options, *session, std::move(ids)).run();
  };
  Status status = run();
  return status ? kExitOk : report_error(status.error());
}

}  // namespace kvasir
