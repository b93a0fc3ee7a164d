// Tap: records, and replaces, the tensors between modules while a sequence runs through forward().
//
// For comparing engines module by module (`kvasir logits --tap / --inject`) and for the oracle tests.
// Names and shapes are those of the oracle data: "layers.3.attn.in" [T, dim], "layers.3.out" [T, hc*dim],
// "layers.3.kv.window" [<= window, D] oldest first, ... Single sequence; rows are token positions.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "engine/runner.h"

namespace kvasir {

struct TapTensor {
  std::vector<float> f32;     // one of the two holds the data
  std::vector<int32_t> i32;
  int64_t columns = 0;

  int64_t rows() const { return columns == 0 ? 0 : static_cast<int64_t>(f32.size() + i32.size()) / columns; }
};

class Tap final : public ForwardObserver {
 public:
  // `memory`: of the backend that computes.
  explicit Tap(Memory& memory = host_memory()) : memory_(&memory) {}

  // Row i of `data` replaces token positions[i] of tensor `name` before its module runs.
  void inject(const std::string& name, std::vector<int64_t> positions, TapTensor data);
  // Names given to inject() that no module has offered: they were misspelt, or of the wrong layer.
  std::vector<std::string> unused_injections() const;
  // Records everything from now on (otherwise it only injects).
  void record(bool on) { recording_ = on; }
  // The position of row 0 of the coming step.
  void set_position(int64_t position) { position_ = position; }

  void tensor(const std::string& name, View<float, 2> rows) override;
  void indices(const std::string& name, View<const int32_t, 2> rows) override;

  const std::map<std::string, TapTensor>& tensors() const { return tensors_; }
  TapTensor& operator[](const std::string& name) { return tensors_[name]; }
  const std::string& error() const { return error_; }  // not empty: an injected tensor has the wrong width

 private:
  struct Injection {
    std::map<int64_t, int64_t> row_of_position;
    TapTensor data;
    bool used = false;
  };

  int64_t position_ = 0;
  bool recording_ = false;
  std::map<std::string, Injection> injections_;
  Memory* memory_;
  std::map<std::string, TapTensor> tensors_;
  std::string error_;
};

// Adds what the cache of `sequence` holds, decoded: layers.L.kv.window, .kv.compressed, .indexer.keys.
void tap_cache(Runner& runner, const Sequence& sequence, Tap& tap);

}  // namespace kvasir
