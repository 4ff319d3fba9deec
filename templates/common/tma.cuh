// Copies by the tensor memory accelerator (sm_90 and later), which end on a barrier. A map is the 128
// bytes, in the kernel's parameter (__grid_constant__), with which the driver describes a matrix.
//
// Sources: PTX ISA 9.0, "cp.async.bulk.tensor", "cp.async.bulk".
#pragma once
#include "common/types.cuh"

namespace quern {

__device__ __forceinline__ void prefetch_map(const void* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/// The box whose first element is (column, row) of a matrix; what lies outside becomes zero and
/// counts as bytes all the same.
__device__ __forceinline__ void tma_load(u32 to_shared, const void* map, u32 barrier, int column,
                                         int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];" ::"r"(to_shared),
      "l"(map), "r"(barrier), "r"(column), "r"(row)
      : "memory");
}
/// The same to the same place of every block of the cluster in `blocks`, a bit each, whose own
/// barriers count the bytes.
__device__ __forceinline__ void tma_load_multicast(u32 to_shared, const void* map, u32 barrier,
                                                   int column, int row, u16 blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to_shared),
      "l"(map), "r"(barrier), "r"(column), "r"(row), "h"(blocks)
      : "memory");
}

/// `bytes` (a multiple of 16) from a 16-byte aligned address.
__device__ __forceinline__ void bulk_load(u32 to_shared, const void* from, u32 bytes, u32 barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          to_shared),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}
/// The same to the same place of every block of the cluster in `blocks`, a bit each, whose own
/// barriers count the bytes.
__device__ __forceinline__ void bulk_load_multicast(u32 to_shared, const void* from, u32 bytes,
                                                    u32 barrier, u16 blocks) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1], %2, [%3], %4;" ::"r"(to_shared),
      "l"(from), "r"(bytes), "r"(barrier), "h"(blocks)
      : "memory");
}

/// Writes a box from shared memory, swizzled as tma_load() leaves it; what lies outside of the
/// matrix is left out. What other threads stored is seen after their async_shared_fence() and a
/// barrier. One thread, which then calls bulk_commit().
__device__ __forceinline__ void tma_store(u32 from_shared, const void* map, int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
      "r"(from_shared), "r"(column), "r"(row)
      : "memory");
}
__device__ __forceinline__ void bulk_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
/// Waits until at most `pending` of this thread's groups of stores still read shared memory.
template <int pending>
__device__ __forceinline__ void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory");
}
/// Makes this thread's stores to shared memory visible to the copy engine.
__device__ __forceinline__ void async_shared_fence() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace quern
