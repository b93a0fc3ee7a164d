// The forward pass of DeepSeek-V4: one step of a batch through every layer. Source: spec 2.
#pragma once

#include <string>

#include "model/batch.h"
#include "model/weights.h"
#include "model/workspace.h"
#include "ops/ops.h"

namespace kvasir {

// Sees, and may change, the tensors between modules (`kvasir logits --tap` and `--inject`): views of the backend's
// memory. Names are those of the oracle data: "layers.3.attn.in", "mtp.in", ... Tensors that can be injected are
// offered before their module runs.
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

// Every token of the step in ws (Workspace::load) through every layer. KV goes to the pages and states that the step
// names; logits of ws.logit_rows to ws.logits; ws.streams keeps the trunk's output for mtp_forward.
void forward(const ForwardContext& c);

// The MTP block on the rows of the last forward: row i pairs the trunk's streams of position i with
// ws.ids[i], the token at position i + 1, and predicts the token at i + 2. Reads and rewrites
// ws.streams, so drafts chain by calling it again. Source: spec 8.
void mtp_forward(const ForwardContext& c);

// Modules, in forward order.
// One layer. Its last output is left in ws.y, for the next block's first boundary to add to the streams, or leave_block;
// `before` says that a block before has left one, and is its name.
void block(const ForwardContext& c, const LayerWeights& layer, int index, const std::string& name, const std::string* before);
void leave_block(const ForwardContext& c, const std::string& name);
// These two: ws.x -> ws.y.
void attention(const ForwardContext& c, const LayerWeights& layer, int index);
void moe(const ForwardContext& c, const LayerWeights& layer);
void head(const ForwardContext& c, const HyperConnectionWeights& hc, View<const float, 1> norm);

}  // namespace kvasir
