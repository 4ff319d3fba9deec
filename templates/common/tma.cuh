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

}  // namespace quern
