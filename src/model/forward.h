// The forward pass of DeepSeek-V4: one step of a batch through every layer. Source: spec 2.
#pragma once

#include <string>

#include "model/batch.h"
#include "model/weights.h"
#include "model/workspace.h"
#include "ops/ops.h"

namespace kvasir {

// Sees, and may change, the tensors between modules (`kvasir logits --tap` and `--inject`). Names are
// those of the oracle data: "layers.3.attn.in", "mtp.in", ... Tensors that can be injected are offered
// before their module runs.
class ForwardObserver {
 public:
  virtual ~ForwardObserver() = default;
  virtual void tensor(const std::string& name, View<float, 2> rows) = 0;             // [T, n]
  virtual void indices(const std::string& name, View<const int32_t, 2> rows) = 0;    // [T, k]
};

// Holds a forward back where rows that a layer reads are still on their way into their pages.
class LayerGate {
 public:
  virtual ~LayerGate() = default;
  // Returns once layer `layer` may run. False: its rows will not come; the forward ends there, and all that it wrote is
  // worth nothing.
  virtual bool open(int layer) = 0;
};

// What a forward needs beside the batch. Borrowed.
struct ForwardContext {
  const Model& model;
  const KvLayout& layout;
  Ops& ops;
  Workspace& ws;
  ForwardObserver* observer = nullptr;
  LayerGate* gate = nullptr;
};

// Every token of `batch` through every layer. KV goes to the pages and states named in the batch; logits
// of batch.logit_rows to ws.logits; ws.streams keeps the trunk's output for mtp_forward.
void forward(const ForwardContext& c, const Batch& batch);

// The MTP block on the rows of the last forward: row i pairs the trunk's streams of position i with
// batch.ids[i], the token at position i + 1, and predicts the token at i + 2. Reads and rewrites
// ws.streams, so drafts chain by calling it again. Source: spec 8.
void mtp_forward(const ForwardContext& c, const Batch& batch);

// Modules, in forward order.
void block(const ForwardContext& c, const LayerWeights& layer, int index, const std::string& name,
           const Batch& batch);
// These two: ws.x -> ws.y.
void attention(const ForwardContext& c, const LayerWeights& layer, int index, const Batch& batch);
void moe(const ForwardContext& c, const LayerWeights& layer, const Batch& batch);
void head(const ForwardContext& c, const HyperConnectionWeights& hc, View<const float, 1> norm,
          const Batch& batch);

}  // namespace kvasir
