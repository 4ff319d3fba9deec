// Ordering between kernels: programmatic dependent launch (PDL), and the last-block pattern.
//
// Sources: PTX ISA 9.0, "griddepcontrol"; CUDA C++ Programming Guide, "Memory Fence Functions".
#pragma once
#include "common/types.cuh"

namespace quern {

/// Blocks until the kernels that this one depends on have finished and their writes are visible.
/// Every kernel calls it before touching anything a predecessor wrote or reads, because ordering is
/// only transitive if nobody leaves it out. Does nothing without PDL or before sm_90.
__device__ __forceinline__ void pdl_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// Lets the next kernel's blocks start as soon as every block of this one has called it or ended.
__device__ __forceinline__ void pdl_launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// True in every thread of exactly one block: the last of `blocks` to arrive at `counter`, which
/// sees all that the others wrote before they arrived. The counter is left at zero. All threads of
/// the block must call it. `flag` is a word of shared memory.
__device__ __forceinline__ bool last_block(u32* counter, u32 blocks, u32* flag) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0 && threadIdx.y == 0) {
    const u32 arrived = atomicAdd(counter, 1u);
    *flag = arrived == blocks - 1;
    if (*flag) *counter = 0;
  }
  __syncthreads();
  const bool last = *flag != 0;
  if (last) __threadfence();
  return last;
}

}  // namespace quern
