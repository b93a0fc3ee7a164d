// What a call of the streaming kernel consists of: weights cut into tiles of 16 rows, shared out to clusters
// of CTAs, each CTA with a slice of K. Made on the host, a parameter of the kernel.
#pragma once

#include <cstdint>

#include "backend/cuda/sm90/linear_stream.h"

namespace kvasir::cuda::streamed {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kTileRows = 16;
constexpr int kChunk = 1024;  // bytes of a weight row that the CTA's warps cover side by side
constexpr int kPieceBytes = 2048;
constexpr int kScaleBytes = kWarps * 2;  // a tile's weight scales, in bf16, for each KB of a slice

struct Segment {
  const uint8_t* data;
  const uint8_t* scale;  // null: bf16
  float* out;
  int64_t out_stride;  // between tokens
  int rows;
  int first_row;   // of the weight matrix, decides its scales
  int first_tile;  // in the job
};

// One x and the weights it meets: all FP8 or all bf16. `clusters` CTA clusters share its tiles.
struct Job {
  const float* x;
  int64_t x_stride;
  int first_segment, segments;
  int first_cluster, clusters;
  int tiles;
};

struct Plan {
  Segment segments[kStreamSegments];
  Job jobs[kStreamSegments];
  int num_jobs;
  int tokens;
  int k;
  int split;
};

// A CTA's place in the plan.
struct Part {
  const Job& job;
  int begin, end;        // tiles
  uint32_t slice_begin;  // bytes within a weight row
  uint32_t slice_bytes;
};

template <bool BF16>
__device__ __forceinline__ uint32_t row_bytes(const Plan& plan) {
  return BF16 ? 2u * plan.k : plan.k;
}

template <bool BF16>
__device__ __forceinline__ Part part_of(const Plan& plan, const Job& job, int cluster, uint32_t rank) {
  const uint32_t row = row_bytes<BF16>(plan), slice = (row / 128 + plan.split - 1) / plan.split * 128;
  const uint32_t begin = min(row, rank * slice), end = min(row, begin + slice);
  const int c = cluster - job.first_cluster;
  return {job, static_cast<int>(int64_t{job.tiles} * c / job.clusters),
          static_cast<int>(int64_t{job.tiles} * (c + 1) / job.clusters), begin, end - begin};
}

__device__ inline const Segment& segment_of(const Plan& plan, const Job& job, int tile) {
  int s = job.first_segment;
  while (s + 1 < job.first_segment + job.segments && tile >= plan.segments[s + 1].first_tile) ++s;
  return plan.segments[s];
}

}  // namespace kvasir::cuda::streamed
