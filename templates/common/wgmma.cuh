// Products of a warpgroup (four warps) on the tensor cores of sm_90a: what is common to all shapes.
// The instruction itself is written by the host for the shape at hand (templates/common/wgmma.h),
// since its text names every accumulator register.
//
// Operands lie in shared memory in rows of 128 bytes along k, swizzled as TMA's 128-byte mode
// leaves them, from an address that is a multiple of 1024: the 16-byte chunk of a row is permuted
// by XOR with row % 8.
//
// Accumulators of a 64 x n product: thread t of the group, g = t % 32 / 4, holds in d[4j + 2r + c]
// the element of row 16 (t / 32) + g + 8r, column 8j + 2 (t % 4) + c.
//
// Source: PTX ISA 9.0, "wgmma.mma_async", "Matrix Descriptor Format".
#pragma once
#include "common/types.cuh"

namespace quern {

/// Which warpgroup of the block this thread is in. The compiler sees that it is the same in all
/// lanes of a warp: descriptors made from it stay in uniform registers instead of being computed in
/// every lane and moved there before each product.
__device__ __forceinline__ int warpgroup_index() {
  return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x / 128), 0);
}

/// Descriptor of such an operand. 32 bytes further along k are 2 more; 8 rows are 64 more.
__device__ __forceinline__ u64 wgmma_operand(u32 shared) {
  constexpr u64 kRowsOfAtom = u64{1024 >> 4} << 32;  // bytes between groups of 8 rows
  constexpr u64 kSwizzle128 = u64{1} << 62;
  return kSwizzle128 | kRowsOfAtom | u64{1} << 16 | (shared & 0x3ffff) >> 4;
}
/// Before the first product of a chain, and whenever the accumulators were touched.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Waits until at most `pending` committed groups are still under way.
template <int pending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

}  // namespace quern
