// kvasir bench: how fast a model reads and writes tokens here, and what share of the machine that is.
//
// Floors. Decode: the weight bytes of a step (experts: the expected number of different ones) and the cache
// bytes it reads, over the read bandwidth. Prefill: the FLOPs of spec 10.2 over the bf16 matrix rate. Both
// ceilings are measured in the same run. A context is not computed but filled with random rows of the right
// formats, so that a long one costs seconds.
#include "cli/bench.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <optional>
#include <random>

#include "base/json_writer.h"
#include "cli/ceilings.h"
#include "cli/error.h"
#include "cli/progress_bar.h"
#include "cli/session.h"
#include "cli/table.h"
#include "io/file.h"
#include "model/accounting.h"

namespace kvasir {
namespace {

constexpr int64_t kStepTokens = 4096;
constexpr double kSecondsPerCeiling = 2;
constexpr double kSecondsPerFigure = 3;  // of decoding, at least; a prefill is timed once

int64_t matrix_bytes(const ExpertWeights& e) { return e.w1.bytes() + e.w3.bytes() + e.w2.bytes(); }

// Weight bytes that a decode step of `batch` tokens reads.
double weight_bytes(const Model& model, int64_t batch) {
  const ModelConfig& c = model.config;
  double chosen = static_cast<double>(c.experts_per_token) / c.num_experts;
  double different = c.num_experts * (1 - std::pow(1 - chosen, static_cast<double>(batch)));
  auto compressor = [](const CompressorWeights& w) { return w.wkv.bytes() + w.wgate.bytes(); };
  auto bytes = static_cast<double>(model.head.bytes());
  for (const LayerWeights& l : model.layers) {
    const AttentionWeights& a = l.attn;
    int64_t dense = a.wq_a.bytes() + a.wq_b.bytes() + a.wkv.bytes() + a.wo_a.bytes() + a.wo_b.bytes() + compressor(a.compressor) +
                    a.indexer.wq_b.bytes() + a.indexer.weights_proj.bytes() + compressor(a.indexer.compressor) + l.moe.gate.bytes() +
                    matrix_bytes(l.moe.shared) + 4 * (l.attn_hc.fn.count() + l.ffn_hc.fn.count());
    bytes += static_cast<double>(dense) + different * static_cast<double>(matrix_bytes(l.moe.experts[0]));
  }
  return bytes;
}

// Cache bytes that one decoded token reads: windows, every index key, the entries it attends to.
double cache_bytes_read(const KvLayout& layout, const ModelConfig& c, int64_t context) {
  double bytes = 0;
  for (int l = 0; l < c.num_layers; ++l) {
    int ratio = c.compress_ratio(l);
    int64_t entries = ratio == 0 ? 0 : ratio == 4 ? std::min<int64_t>(c.index_topk, context / 4) : context / ratio;
    bytes += static_cast<double>((std::min<int64_t>(context, c.window) + entries) * layout.entry_format.row_bytes());
    if (ratio == 4) bytes += static_cast<double>(context / 4 * layout.key_format.row_bytes());
  }
  return bytes;
}

// FLOPs of one prefilled token at `context`: decode's without the head.
double prefill_flops(const ModelConfig& config, int64_t context) {
  double flops = 0;
  for (const FlopTerm& term : v4_footprint(config, context, CacheRows::stored(config, Numerics::kNative)).flops)
    if (term.name != "head") flops += term.flops;
  return flops;
}

// Makes `sequence` hold `tokens` tokens of random rows.
Status fill_with_noise(Runner& runner, Sequence& sequence, int64_t tokens) {
  const ModelConfig& c = runner.model().config;
  const KvLayout& layout = runner.layout();
  KVASIR_TRY_STATUS(sequence.reserve(tokens));
  std::mt19937 rng(7);
  std::normal_distribution<float> normal;
  // Rows repeat with a prime period: no two neighbours are alike and encoding takes no time.
  constexpr int64_t kPeriod = 251;
  auto encoded = [&](const KvRowFormat& f, std::vector<std::byte>& data, std::vector<std::byte>& scale) {
    data.resize(kPeriod * f.data_bytes);
    scale.resize(kPeriod * f.scale_bytes);
    std::vector<float> row(f.dim);
    for (int64_t r = 0; r < kPeriod; ++r) {
      for (float& v : row) v = round_bf16(normal(rng));
      encode_row(f, row.data(), data.data() + r * f.data_bytes, scale.data() + r * f.scale_bytes);
    }
  };
  std::vector<std::byte> entry_data, entry_scale, key_data, key_scale;
  encoded(layout.entry_format, entry_data, entry_scale);
  encoded(layout.key_format, key_data, key_scale);
  auto put = [](const KvRowFormat& f, const std::vector<std::byte>& data, const std::vector<std::byte>& scale, const KvRows& rows, int64_t slot,
                int64_t r) {
    std::memcpy(rows.row_data(f, slot), data.data() + r % kPeriod * f.data_bytes, f.data_bytes);
    if (f.scale_bytes) std::memcpy(rows.row_scale(f, slot), scale.data() + r % kPeriod * f.scale_bytes, f.scale_bytes);
  };
  HostBytes state(sequence.memory(), sequence.state(), layout.state_bytes, HostBytes::Content::kFetch);
  std::vector<HostBytes> pages;
  for (int64_t i = 0; i < KvLayout::pages_for(tokens); ++i)
    pages.emplace_back(sequence.memory(), sequence.page(i), layout.page_bytes, HostBytes::Content::kFetch);
  for (int l = 0; l < c.num_layers; ++l) {
    LayerCache cache = layout.layers[l].cache(state.data(), nullptr);
    for (int64_t r = 0; r < cache.window_capacity; ++r) put(layout.entry_format, entry_data, entry_scale, cache.window, r, r + l);
    int ratio = c.compress_ratio(l);
    for (int64_t b = 0; ratio != 0 && b < tokens / ratio; ++b) {
      std::byte* page = pages[b / cache.entries.rows_per_page].data();
      int64_t slot = b % cache.entries.rows_per_page;
      put(layout.entry_format, entry_data, entry_scale, cache.entries.in_page(page), slot, b + l);
      if (ratio == 4) put(layout.key_format, key_data, key_scale, cache.keys.in_page(page), slot, b + 3 * l);
    }
  }
  state.write_back();
  for (HostBytes& page : pages) page.write_back();
  sequence.advance(tokens);
  return {};
}

struct MatrixRate {
  double flops = 0;    // a second
  std::string source;  // how it was measured
};

struct Figure {
  const char* what;  // "prefill", "decode"
  int64_t context, batch, tokens;
  double tokens_per_second;
  double floor_share;  // floor over measured
  double rate;         // prefill: FLOP/s; decode: bytes/s
};

class Bench {
 public:
  Bench(const BenchOptions& options, Runner& runner) : options_(options), runner_(runner), config_(runner.model().config) {}

  Status run() {
    std::optional<AtomicFile> file;  // a path that cannot be written is found out before minutes of measuring
    if (!options_.out_file.empty()) {
      KVASIR_TRY(file, AtomicFile::create(options_.out_file));
    }
    measure_machine();
    for (int64_t context : options_.contexts) {
      KVASIR_TRY_STATUS(prefill(context));
      for (int64_t batch : options_.batches) KVASIR_TRY_STATUS(decode(context, batch));
    }
    std::string json = as_json();
    if (options_.json) {
      std::puts(json.c_str());
    } else {
      print();
    }
    if (!file) return {};
    json += "\n";
    KVASIR_TRY_STATUS(file->write(std::as_bytes(std::span(json))));
    return file->commit();
  }

 private:
  int threads() const { return options_.compute.threads; }

  void measure_machine() {
    ThreadPool pool(threads());
    threads_ = pool.size();
    if (!runner_.ops().memory().on_host()) {
      bandwidth_ = copy_bandwidth();
      matrix_ = own_bf16();
      return;
    }
    auto memory = Buffer::make(int64_t{1} << 30, "the bandwidth measurement");
    if (memory) {
      std::memset(memory->data(), 1, memory->size());
      bandwidth_ = bench::read_bandwidth(pool, reinterpret_cast<const uint8_t*>(memory->data()), memory->size(), kSecondsPerCeiling);
    }
    bench::OneDnnProduct product(pool.size());
    matrix_ = {product.flops(kSecondsPerCeiling), product.source()};
    if (matrix_.flops == 0) matrix_ = own_bf16();
  }

  // The bf16 product that oneDNN is asked for, by this backend's own linear op.
  MatrixRate own_bf16() {
    Ops& ops = runner_.ops();
    int64_t m = 4096, n = 4096, k = ops.memory().on_host() ? 512 : 4096;
    auto w = ops.memory().allocate(n * k * 2, "a weight"), x = ops.memory().allocate(m * k * 4, "rows"), y = ops.memory().allocate(m * n * 4, "rows");
    if (!w || !x || !y) return {};
    std::vector<uint16_t> ones(static_cast<size_t>(n * k), 0x3f80);
    ops.memory().write(w->data(), ones.data(), w->size());
    std::vector<float> rows = random_rows(m * k);
    ops.memory().write(x->data(), rows.data(), x->size());
    WeightMatrix matrix{WeightFormat::kBf16, n, k, w->data(), nullptr};
    double seconds = bench::best_seconds(kSecondsPerCeiling, [&] {
      ops.linear({matrix, x->view<const float, 2>({m, k}), y->view<float, 2>({m, n}), LinearKind::kBf16});
      (void)ops.synchronize();
    });
    return {2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) / seconds,
            fmt::format("kvasir's own bf16 linear op, {}x{}x{}", m, n, k)};
  }

  // Bytes read and written a second by copies within the backend's memory.
  double copy_bandwidth() {
    constexpr int64_t kBytes = int64_t{1} << 30;
    Ops& ops = runner_.ops();
    auto from = ops.memory().allocate(kBytes, "the bandwidth measurement"), to = ops.memory().allocate(kBytes, "the bandwidth measurement");
    if (!from || !to) return 0;
    constexpr int kCopies = 20;
    double seconds = bench::best_seconds(kSecondsPerCeiling, [&] {
      for (int i = 0; i < kCopies; ++i) ops.memory().copy(to->data(), from->data(), kBytes);
      (void)ops.synchronize();
    });
    return 2.0 * kCopies * static_cast<double>(kBytes) / seconds;
  }

  std::vector<float> random_rows(int64_t n) {
    std::normal_distribution<float> normal;
    std::vector<float> rows(static_cast<size_t>(n));
    for (float& x : rows) x = normal(rng_);
    return rows;
  }

  std::vector<int32_t> random_ids(int64_t n) {
    std::vector<int32_t> ids(n);
    for (int32_t& id : ids) id = static_cast<int32_t>(rng_() % static_cast<uint64_t>(config_.vocab_size));
    return ids;
  }

  // The last tokens up to `context`, at most kStepTokens of them, in one step.
  Status prefill(int64_t context) {
    int64_t n = std::min(context, kStepTokens), start = context - n;
    KVASIR_TRY(Sequence sequence, runner_.make_sequence());
    KVASIR_TRY_STATUS(fill_with_noise(runner_, sequence, start));
    KVASIR_TRY_STATUS(sequence.reserve(context));
    std::vector<int32_t> ids = random_ids(n);
    Runner::Item item{&sequence, ids, Runner::Logits::kLast};
    double begin = bench::now();
    KVASIR_TRY_STATUS(runner_.step({&item, 1}));
    double seconds = bench::now() - begin;
    double flops = static_cast<double>(n) * prefill_flops(config_, start + n / 2);
    figures_.push_back({"prefill", context, 1, n, static_cast<double>(n) / seconds, flops / matrix_.flops / seconds, flops / seconds});
    return {};
  }

  // Single tokens for `batch` sequences at `context`, until enough time has gone by; the median step counts.
  Status decode(int64_t context, int64_t batch) {
    std::vector<Sequence> sequences;
    for (int64_t i = 0; i < batch; ++i) {
      KVASIR_TRY(Sequence sequence, runner_.make_sequence());
      KVASIR_TRY_STATUS(fill_with_noise(runner_, sequence, context));
      sequences.push_back(std::move(sequence));
    }
    std::vector<double> seconds;
    std::vector<Runner::Item> items;
    for (double begin = bench::now(); seconds.size() < 8 || bench::now() - begin < kSecondsPerFigure;) {
      std::vector<int32_t> ids = random_ids(batch);
      items.clear();
      for (int64_t i = 0; i < batch; ++i) items.push_back({&sequences[i], std::span(ids).subspan(i, 1), Runner::Logits::kLast});
      double step = bench::now();
      KVASIR_TRY_STATUS(runner_.step(items));
      seconds.push_back(bench::now() - step);
    }
    std::nth_element(seconds.begin(), seconds.begin() + static_cast<int64_t>(seconds.size() / 2), seconds.end());
    double median = seconds[seconds.size() / 2];
    double bytes = weight_bytes(runner_.model(), batch) + static_cast<double>(batch) * cache_bytes_read(runner_.layout(), config_, context);
    figures_.push_back({"decode", context, batch, 1, static_cast<double>(batch) / median, bytes / bandwidth_ / median, bytes / median});
    return {};
  }

  void print() const {
    std::printf("%d threads, numerics %s; read bandwidth %.1f GB/s; bf16 matrix rate %.1f GFLOP/s (%s)\n", threads_,
                std::string(numerics_name(runner_.ops().numerics())).c_str(), bandwidth_ / 1e9, matrix_.flops / 1e9, matrix_.source.c_str());
    std::printf("weights read per decoded token at batch 1: %.3f GB\n\n", weight_bytes(runner_.model(), 1) / 1e9);
    Table table({Align::kLeft, Align::kRight, Align::kRight, Align::kRight, Align::kRight, Align::kRight});
    table.add_row({"", "context", "batch", "tokens/s", "rate", "of the ceiling"});
    table.add_rule();
    for (const Figure& f : figures_) {
      bool is_prefill = std::string_view(f.what) == "prefill";
      table.add_row({is_prefill ? fmt::format("prefill of {}", f.tokens) : "decode", fmt::format("{}", f.context), fmt::format("{}", f.batch),
                     fmt::format("{:.2f}", f.tokens_per_second), fmt::format("{:.1f} {}", f.rate / 1e9, is_prefill ? "GFLOP/s" : "GB/s"),
                     fmt::format("{:.1f} %", 100 * f.floor_share)});
    }
    std::fputs(table.text().c_str(), stdout);
  }

  std::string as_json() const {
    JsonWriter json(JsonWriter::Layout::kIndented);
    json.begin_object().field("threads", threads_).field("numerics", numerics_name(runner_.ops().numerics()));
    json.field("layers", config_.num_layers).field("dim", config_.dim).field("vocab_size", config_.vocab_size);
    json.field("read_bytes_per_second", bandwidth_).field("bf16_flops_per_second", matrix_.flops).field("bf16_source", matrix_.source);
    json.field("weight_bytes_per_token", weight_bytes(runner_.model(), 1)).begin_array("figures");
    for (const Figure& f : figures_) {
      bool is_prefill = std::string_view(f.what) == "prefill";
      json.begin_object().field("what", f.what).field("context", f.context).field("batch", f.batch).field("tokens", f.tokens);
      json.field("tokens_per_second", f.tokens_per_second).field(is_prefill ? "flops_per_second" : "bytes_per_second", f.rate);
      json.field("share_of_ceiling", f.floor_share).end_object();
    }
    json.end_array().end_object();
    return json.text();
  }

  const BenchOptions& options_;
  Runner& runner_;
  const ModelConfig& config_;
  std::mt19937_64 rng_{1};
  int threads_ = 0;
  double bandwidth_ = 0;  // bytes a second
  MatrixRate matrix_;
  std::vector<Figure> figures_;
};

Result<ModelConfig> synthetic_config(const BenchOptions& options) {
  ModelConfig config = options.synthetic == SyntheticModel::kFlash ? flash_config() : pro_config();
  if (options.layers > config.num_layers)
    return Error{ErrorCode::kInvalid, fmt::format("bench: --layers {}: the model has {}", options.layers, config.num_layers)};
  if (options.layers > 0) config = with_layers(config, options.layers);
  if (!options.ratios.empty()) {
    config.compress_ratios = options.ratios;
    config.num_layers = static_cast<int>(options.ratios.size());
    config.num_hash_layers = std::min(config.num_hash_layers, config.num_layers);
  }
  config.num_mtp = 0;
  if (options.vocab > 0) config.vocab_size = options.vocab;
  return config;
}

Status run(const BenchOptions& options) {
  RunnerOptions r;
  r.max_step_tokens = kStepTokens;
  r.max_logit_rows = *std::max_element(options.batches.begin(), options.batches.end());
  // A figure holds its batch of sequences only while it is measured; decoding adds some tokens to each.
  int64_t longest = *std::max_element(options.contexts.begin(), options.contexts.end());
  r.max_cache_tokens = r.max_logit_rows * (longest + (1 << 16));
  ProgressBar bar;
  if (options.synthetic == SyntheticModel::kNone) {
    KVASIR_TRY(auto session, open_session(options.model_dir, options.compute, r, &bar));
    return Bench(options, *session->runner).run();
  }
  KVASIR_TRY(ModelConfig config, synthetic_config(options));
  ThreadPool pool(options.compute.threads);
  KVASIR_TRY(auto ops, make_ops(options.compute));
  KVASIR_TRY(Model model, make_synthetic(config, 1, pool.size(), &bar, ops->memory()));
  KVASIR_TRY(auto runner, Runner::make(model, std::move(ops), r));
  return Bench(options, *runner).run();
}

}  // namespace

int run_bench(const BenchOptions& options) {
  Status status = run(options);
  return status ? kExitOk : report_error(status.error());
}

}  // namespace kvasir
