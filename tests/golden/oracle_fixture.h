// An oracle folder and a model loaded from it, for the tests that hold kvasir against the official code.
//
// The folder is tests/golden/oracle/tiny-flash unless KVASIR_ORACLE names another (a developer's check of
// the larger slice-flash); how the data was made stands in tests/golden/oracle/README.md.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "../placed_model.h"
#include "backend/backend.h"
#include "engine/runner.h"
#include "engine/tap.h"
#include "io/safetensors.h"
#include "model/load.h"

namespace kvasir {

inline std::string oracle_dir() {
  const char* dir = std::getenv("KVASIR_ORACLE");
  return dir ? dir : KVASIR_GOLDEN_DIR "/tiny-flash";
}

// A backend under test: its kind and, on a CPU, which kernels.
struct Backend {
  BackendKind kind = BackendKind::kReference;
  cpu::Isa isa = cpu::Isa::kPortable;

  std::string name() const {
    if (kind == BackendKind::kCuda) return "cuda";
    return kind == BackendKind::kReference ? "reference" : "cpu_" + std::string(cpu::isa_name(isa));
  }
};

// Every backend that this machine can run; in the GPU's build of these tests, the CUDA backend.
inline std::vector<Backend> backends() {
  if (KVASIR_GPU_TESTS) return {{BackendKind::kCuda}};
  std::vector<Backend> out = {{BackendKind::kReference, cpu::Isa::kPortable}};
  for (cpu::Isa isa : {cpu::Isa::kPortable, cpu::Isa::kAvx2, cpu::Isa::kAvx512, cpu::Isa::kAmx})
    if (cpu::isa_available(isa)) out.push_back({BackendKind::kCpu, isa});
  return out;
}

inline Backend best_backend() { return backends().back(); }

inline const LoadedModel& oracle_model() {
  static auto* model = [] {
    auto loaded = load_checkpoint(oracle_dir(), {});
    if (!loaded) {
      ADD_FAILURE() << loaded.error().message;
      std::abort();
    }
    return new LoadedModel(*std::move(loaded));
  }();
  return *model;
}

inline std::unique_ptr<Runner> make_runner(const Model& model, const Backend& backend, Numerics numerics, int64_t step_tokens,
                                           int threads = 2) {
  auto ops = make_ops({backend.kind, numerics, backend.isa, threads});
  EXPECT_TRUE(ops) << ops.error().message;
  RunnerOptions options;
  options.max_step_tokens = step_tokens;
  options.max_logit_rows = step_tokens;
  options.mtp = true;
  const Model& there = placed(model, **ops);
  auto runner = Runner::make(there, *std::move(ops), options);
  EXPECT_TRUE(runner) << runner.error().message;
  return *std::move(runner);
}

// A recorded tensor as f32 or i32, rows flattened.
class OracleFile {
 public:
  explicit OracleFile(const std::string& path) {
    auto file = SafetensorsFile::open(path);
    EXPECT_TRUE(file) << file.error().message;
    file_ = std::make_unique<SafetensorsFile>(*std::move(file));
  }
  TapTensor operator[](const std::string& name) const {
    const TensorInfo* info = file_->find(name);
    EXPECT_NE(info, nullptr) << name;
    TapTensor t;
    int64_t count = 1;
    for (int64_t n : info->shape) count *= n;
    t.columns = count / info->shape[0];
    const std::byte* data = file_->data(*info);
    if (info->dtype == DType::kI32) {
      t.i32.resize(count);
      std::memcpy(t.i32.data(), data, 4 * count);
    } else if (info->dtype == DType::kF32) {
      t.f32.resize(count);
      std::memcpy(t.f32.data(), data, 4 * count);
    } else {
      t.f32.resize(count);
      for (int64_t i = 0; i < count; ++i) {
        bf16 b;
        std::memcpy(&b, data + 2 * i, 2);
        t.f32[i] = to_float(b);
      }
    }
    return t;
  }

 private:
  std::unique_ptr<SafetensorsFile> file_;
};

// |a - b| / |b|, both flattened.
inline double relative_l2(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) {
    difference += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
    norm += double(b[i]) * b[i];
  }
  return std::sqrt(difference / norm);
}

// The rows of `t` at `positions`.
inline std::vector<float> rows_at(const TapTensor& t, const std::vector<int32_t>& positions) {
  std::vector<float> out;
  for (int32_t p : positions) out.insert(out.end(), t.f32.begin() + p * t.columns, t.f32.begin() + (p + 1) * t.columns);
  return out;
}

}  // namespace kvasir
