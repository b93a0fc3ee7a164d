// move_model: a model's weights, from the checkpoint's mapping to where a backend computes.
#pragma once

#include "base/progress.h"
#include "model/weights.h"
#include "tensor/memory.h"

namespace kvasir {

// Bytes that move_model takes of the memory.
int64_t placed_bytes(const Model& model);

// Replaces `model` by the same with every tensor in `memory`, as stored; it owns them, and the checkpoint's mapping is let
// go. Does nothing where the memory is the host's. Ticks with the bytes copied. Errors: the experts of a layer differ in
// format, which one table cannot describe; not enough memory: the message says what is missing and how many layers would fit.
Status move_model(Model& model, Memory& memory, ProgressSink* progress);

}  // namespace kvasir
