// CudaMemory::draw: one thread per 64 bits of the generator, four elements each.
#include <algorithm>

#include "backend/cuda/memory.h"

namespace kvasir::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void draw_elements(T* to, int64_t count, const T* table, uint64_t seed, uint64_t tensor, int64_t piece_elements) {
  int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t group = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; group * 4 < count; group += stride) {
    int64_t first = group * 4, piece = first / piece_elements, at = first % piece_elements;
    uint64_t bits = random_bits(random_state(seed, tensor, piece) + (at / 4 + 1) * kRandomStep);
    for (int k = 0; k < 4 && first + k < count; ++k) to[first + k] = table[bits >> (16 * k) & 0xffff];
  }
}

}  // namespace

void CudaMemory::draw(const RandomDraw& d) {
  KVASIR_CHECK(d.piece_bytes % (4 * d.element_bytes) == 0, "pieces of {} bytes, elements of {}", d.piece_bytes, d.element_bytes);
  auto table = allocate(int64_t{65536} * d.element_bytes, "a table of draws");
  if (!table) {
    if (!fault_) fault_ = table.error();
    return;
  }
  write(table->data(), d.table, table->size());
  auto run = [&]<class T>(T) {
    int64_t blocks = std::min<int64_t>((d.count + 4 * kThreads - 1) / (4 * kThreads), 132 * 16);
    draw_elements<<<static_cast<unsigned>(blocks), kThreads, 0, stream_>>>(static_cast<T*>(d.to), d.count, reinterpret_cast<const T*>(table->data()),
                                                                        d.seed, d.tensor, d.piece_bytes / d.element_bytes);
    keep(cudaGetLastError(), "drawing");
  };
  if (d.element_bytes == 1) run(uint8_t{});
  if (d.element_bytes == 2) run(uint16_t{});
  if (d.element_bytes == 4) run(uint32_t{});
}

}  // namespace kvasir::cuda
