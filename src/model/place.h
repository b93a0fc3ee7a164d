// place_model: a model's weights, from the checkpoint's mapping to where a backend computes.
#pragma once

#include "base/progress.h"
#include "model/weights.h"
#include "tensor/memory.h"

namespace kvasir {

// Bytes that place_model takes of the memory.
int64_t placed_bytes(const Model& model);

// The same model with every tensor in `memory`, as stored; it owns them, and `model` and its mapping are not needed any
// more. Ticks with the bytes copied. Errors: the experts of a layer differ in format, which one table cannot describe; not
// enough memory: the message says what is missing and how many layers would fit.
Result<Model> place_model(const Model& model, Memory& memory, ProgressSink* progress);

}  // namespace kvasir
