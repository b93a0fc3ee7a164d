// Weights on their way: from memory to each lane's ring in shared memory, from there through the tensor
// cores.
#pragma once

#include "backend/cuda/sm90/linear_stream_operands.cuh"
#include "backend/cuda/sm90/ptx.cuh"

namespace kvasir::cuda::streamed {

// 16 rows x 128 bytes of a warp: this lane's 16 bytes of rows g and g+8, in both halves.
struct Piece {
  uint4 top[2], bottom[2];
};

__device__ __forceinline__ void copy_async(uint32_t to, const uint8_t* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}
__device__ __forceinline__ uint4 load_shared(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

// Walks the tiles of a job upwards and copies this lane's share of each: 16 bytes of rows g and g+8, in both
// halves of the warp's 128 bytes, in every KB of the slice.
template <bool BF16, int KC>
class WeightCopier {
 public:
  __device__ WeightCopier(const Plan& plan, const Part& part)
      : plan_(plan), part_(part), row_bytes_(row_bytes<BF16>(plan)), tile_(part.begin) {
    const uint32_t at = threadIdx.x / 32 * 128;
    chunks_ = part.slice_bytes > at ? static_cast<int>((part.slice_bytes - at + kChunk - 1) / kChunk) : 0;
    if (tile_ < part.end) aim();
  }
  // The next tile, to this lane's place in a stage.
  __device__ __forceinline__ void copy(uint32_t to) {
    if (tile_ < part_.end) {
#pragma unroll
      for (int chunk = 0; chunk < KC; ++chunk) {
        if (chunk >= chunks_) continue;
        copy_async(to + chunk * kPieceBytes, top_ + chunk * kChunk);
        copy_async(to + chunk * kPieceBytes + 512, top_ + chunk * kChunk + 64);
        copy_async(to + chunk * kPieceBytes + 1024, bottom_ + chunk * kChunk);
        copy_async(to + chunk * kPieceBytes + 1536, bottom_ + chunk * kChunk + 64);
      }
      ++tile_;
      if (--left_ > 0) {
        top_ += kTileRows * row_bytes_;
        bottom_ += kTileRows * row_bytes_;
      } else if (tile_ < part_.end) {
        aim();
      }
    }
    commit_copies();
  }
  // KBs of the slice in which this warp has weights.
  __device__ int chunks() const { return chunks_; }

 private:
  // Points at tile_. The pointers then hold for left_ tiles: to the end of the segment's whole tiles. In a
  // tile that is not whole, rows past the end repeat the last one; nobody reads their sums.
  __device__ __forceinline__ void aim() {
    const Segment& s = segment_of(plan_, part_.job, tile_);
    const int lane = threadIdx.x % 32, row = (tile_ - s.first_tile) * kTileRows;
    left_ = max(1, (s.rows - row) / kTileRows);
    const uint8_t* p = s.data + part_.slice_begin + threadIdx.x / 32 * 128 + lane % 4 * 16;
    top_ = p + int64_t{s.first_row + min(row + lane / 4, s.rows - 1)} * row_bytes_;
    bottom_ = p + int64_t{s.first_row + min(row + lane / 4 + 8, s.rows - 1)} * row_bytes_;
  }

  const Plan& plan_;
  const Part& part_;
  uint32_t row_bytes_;
  int tile_, chunks_, left_ = 0;
  const uint8_t *top_ = nullptr, *bottom_ = nullptr;
};

// The scales of all the CTA's FP8 tiles, as bf16 (which has 2^-127 too), [tiles][warps][KC].
template <int KC>
__device__ void load_scales(const Plan& plan, const Part& part, uint16_t* scales) {
  const int columns = kWarps * KC, blocks = plan.k / 128;
  for (int i = threadIdx.x; i < (part.end - part.begin) * columns; i += kThreads) {
    const int tile = part.begin + i / columns, warp = i % columns / KC, chunk = i % KC;
    const uint32_t at = chunk * kChunk + warp * 128;
    const Segment& s = segment_of(plan, part.job, tile);
    const int row = s.first_row + (tile - s.first_tile) * kTileRows;
    const uint32_t byte = at < part.slice_bytes
                              ? __ldg(s.scale + int64_t{row / 128} * blocks + (part.slice_begin + at) / 128)
                              : 0;
    scales[i] = byte == 0 ? 0x0040 : static_cast<uint16_t>(byte << 7);
  }
}

// acc += 16 weight rows x 128 bytes.
template <bool BF16, int NT>
__device__ __forceinline__ void multiply(const Piece& piece, float weight_scale, const uint32_t (&b)[NT][16],
                                         const float (&scale)[NT][2], float (&acc)[NT][4]) {
  float sum[2][NT][4] = {};  // of both halves: two chains of products run side by side
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4 &top4 = piece.top[half], &bottom4 = piece.bottom[half];
      const uint32_t top[4] = {top4.x, top4.y, top4.z, top4.w},
                     bottom[4] = {bottom4.x, bottom4.y, bottom4.z, bottom4.w};
      if constexpr (BF16) {
        const int j = i / 2,
                  word = half * 8 + j * 4 + i % 2 * 2;  // products of x's high parts, then of its low parts
#pragma unroll
        for (int nt = 0; nt < NT; ++nt)
          ptx::mma_bf16(sum[half][nt], top[2 * j], bottom[2 * j], top[2 * j + 1], bottom[2 * j + 1],
                        b[nt][word], b[nt][word + 1]);
      } else {
        uint32_t a0, a1, a2, a3;
        ptx::e4m3x4_to_f16(top[i], a0, a2);
        ptx::e4m3x4_to_f16(bottom[i], a1, a3);
#pragma unroll
        for (int nt = 0; nt < NT; ++nt)
          ptx::mma_f16(sum[half][nt], a0, a1, a2, a3, b[nt][half * 8 + 2 * i], b[nt][half * 8 + 2 * i + 1]);
      }
    }
  }
#pragma unroll
  for (int nt = 0; nt < NT; ++nt)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float both = sum[0][nt][i] + sum[1][nt][i];
      acc[nt][i] = BF16 ? acc[nt][i] + both : fmaf(both, weight_scale * scale[nt][i % 2], acc[nt][i]);
    }
}

}  // namespace kvasir::cuda::streamed
