// The instructions of sm_90a that the boundary kernel is written in: clusters, bulk copies, tf32 products,
// dependent launch. Addresses of shared memory are the 32-bit ones.
#pragma once

#include <cstdint>

namespace kvasir::cuda::ptx {

__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
// Both are executed by every thread of every block of the cluster, once per phase.
__device__ inline void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ inline void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// The same place of shared memory in block `rank` of the cluster.
__device__ inline uint32_t remote_address(uint32_t address, uint32_t rank) {
  uint32_t remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
}
__device__ inline void store_remote(uint32_t address, uint32_t rank, float value) {
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(remote_address(address, rank)), "f"(value) : "memory");
}
__device__ inline void store_remote(uint32_t address, uint32_t rank, uint32_t value) {
  asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(remote_address(address, rank)), "r"(value) : "memory");
}
__device__ inline void store_remote(uint32_t address, uint32_t rank, unsigned long long value) {
  asm volatile("st.shared::cluster.u64 [%0], %1;" ::"r"(remote_address(address, rank)), "l"(value) : "memory");
}
__device__ inline void store_remote(uint32_t address, uint32_t rank, double value) {
  asm volatile("st.shared::cluster.f64 [%0], %1;" ::"r"(remote_address(address, rank)), "d"(value) : "memory");
}
__device__ inline uint32_t load_remote(uint32_t address, uint32_t rank) {
  uint32_t value;
  asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(value) : "r"(remote_address(address, rank)) : "memory");
  return value;
}

__device__ inline void barrier_init(uint32_t barrier, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
// Makes initialised barriers visible to the copy engine.
__device__ inline void barrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ inline void barrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// 16-byte aligned runs of device memory into shared memory; `barrier` counts the bytes.
__device__ inline void copy_bulk(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
               "r"(bytes), "r"(barrier)
               : "memory");
}

// Into the L2 cache.
__device__ inline void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// One barrier of the first `threads` threads of a block; 0 is __syncthreads.
template <int kId>
__device__ inline void barrier_sync(int threads) {
  asm volatile("bar.sync %0, %1;" ::"n"(kId), "r"(threads) : "memory");
}

// Dependent launch: what comes before wait_for_previous may run while the previous kernel still does, so it reads nothing
// that a kernel writes. Both are no-ops in an ordinary launch.
__device__ inline void wait_for_previous() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ inline void let_next_start() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// d += A * B, A 16 x 8, B 8 x 8. Lane 4g + c holds A(g, c), A(g+8, c), A(g, c+4), A(g+8, c+4); B(c, g), B(c+4, g);
// d(g, 2c), d(g, 2c+1), d(g+8, 2c), d(g+8, 2c+1). The hardware reads the upper 19 bits of each factor.
__device__ inline void multiply_tf32(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

}  // namespace kvasir::cuda::ptx
