// For tests that run on any backend: which one this build of them tests, and a model where it computes.
#pragma once

#include <gtest/gtest.h>

#include <map>

#include "backend/backend.h"
#include "model/place.h"

namespace kvasir {

// KVASIR_GPU_TESTS: the CUDA build's second copy of a test binary, for a machine with a GPU.
inline BackendKind tested_backend() { return KVASIR_GPU_TESTS ? BackendKind::kCuda : BackendKind::kCpu; }

// `model` itself, or its copy in the backend's memory, which lives as long as the process.
inline const Model& placed(const Model& model, Ops& ops) {
  if (ops.memory().on_host()) return model;
  static auto* copies = new std::map<const Model*, Model>;
  if (!copies->contains(&model)) {
    auto copy = place_model(model, ops.memory(), nullptr);
    EXPECT_TRUE(copy) << copy.error().message;
    copies->emplace(&model, *std::move(copy));
  }
  return copies->at(&model);
}

}  // namespace kvasir
