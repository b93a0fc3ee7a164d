// The few instructions of sm_90 that the expert kernels are written in: barriers in shared memory, bulk copies, matrix
// products of one warp, and the order between kernels of one stream.
#pragma once

#include <cstdint>

namespace kvasir::cuda::ptx {

__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

__device__ inline void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
__device__ inline void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives once `value` is there. What it was made of was loaded from memory that may be written again after the arrival, and
// an arrival overtakes loads that still queue. So the arrival depends on the value; it is missing for one bit pattern of a
// NaN that no arithmetic makes.
__device__ inline void barrier_arrive_after(uint64_t* barrier, float value) {
  asm volatile(
      "{\n"
      ".reg .pred there;\n"
      "setp.ne.b32 there, %1, 0x7fedcba9;\n"
      "@there mbarrier.arrive.shared::cta.b64 _, [%0];\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(__float_as_uint(value))
      : "memory");
}
// One arrival that also announces `bytes` of copies.
__device__ inline void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}
// Waits until the phase of this parity has ended.
__device__ inline void barrier_wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "AGAIN:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra DONE;\n"
      "bra AGAIN;\n"
      "DONE:\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}
__device__ inline void barrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// Threads of a block that share a named barrier.
template <int kId, int kThreads>
__device__ inline void sync_threads() {
  asm volatile("bar.sync %0, %1;" ::"n"(kId), "n"(kThreads) : "memory");
}

// Copies `bytes` (a multiple of 16, both addresses too) from global to shared memory; `barrier` hears of it.
__device__ inline void copy_to_shared(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)),
               "l"(from), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}

// d += a[16, 16] * b[16, 8], f16 in, f32 out.
__device__ inline void mma_f16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// The next kernel of the stream may be set up from now on; it waits for this one's writes by itself.
__device__ inline void let_next_kernel_start() { asm volatile("griddepcontrol.launch_dependents;"); }
// Everything before this kernel has ended, and its writes are seen.
__device__ inline void wait_for_last_kernel() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

}  // namespace kvasir::cuda::ptx
