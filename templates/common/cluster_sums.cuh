// Sums of an output tile whose k is shared by the blocks of a cluster, added through distributed
// shared memory: each block sends the others their part of the columns and adds, in order of k,
// what it is sent.
//
// Sources: PTX ISA 9.0, "st.async", "mapa".
#pragma once
#include "common/mbarrier.cuh"
#include "common/memory.cuh"
#include "common/types.cuh"

namespace quern {

/// `blocks` blocks share a tile; each of `threads` threads has fragments of `sums` sums, floats or
/// ints.
template <class Sum, int blocks, int fragments, int sums, int threads>
struct ClusterSums {
  static constexpr int kPart = sums / blocks;  // of a fragment, that a block adds up
  static constexpr int kThreads = threads;
  static constexpr u32 kBytes = fragments * kPart * kThreads * 4;  // from one block
  static_assert(blocks == 1 || (sums % blocks == 0 && kPart % 4 == 0),
                "blocks send whole groups of four sums");

  u32 parts, full, empty;  // shared memory: (blocks - 1) * kBytes, and two barriers
  int rank;                // of this block among those that share the tile
  u32 first_block;         // number in the cluster of the one of rank 0

  /// One thread, before the barriers are used.
  __device__ __forceinline__ void init() const {
    barrier_init(full, 1);
    barrier_init(empty, kThreads / kWarp * blocks);
  }

  using Sums = Sum[fragments][sums];
  using Part = Sum[fragments][kPart];

  /// `parity` is that of the tiles before this one; `last`: no tile comes after it. `thread` counts
  /// those that add.
  __device__ __forceinline__ void add(u32 parity, bool last, u32 thread, const Sums& sum,
                                      Part& part) const {
    const u32 own = parts + thread * 16;
    barrier_wait(empty, parity ^ 1);
    if (thread == 0) barrier_arrive_expect(full, (blocks - 1) * kBytes);
#pragma unroll
    for (int to = 0; to < blocks; ++to) {
      if (to == rank) continue;
      const u32 slot = static_cast<u32>(rank < to ? rank : rank - 1);
      const u32 block = first_block + static_cast<u32>(to);
      const u32 address = address_at(own + slot * kBytes, block);
      const u32 barrier = address_at(full, block);
#pragma unroll
      for (int i = 0; i < fragments; ++i)
#pragma unroll
        for (int j = 0; j < kPart; j += 4)
          send(address + static_cast<u32>((i * kPart + j) * kThreads * 4), &sum[i][to * kPart + j],
               barrier);
    }
    barrier_wait_cluster(full, parity);
#pragma unroll
    for (int i = 0; i < fragments; ++i)
#pragma unroll
      for (int j = 0; j < kPart; j += 4) {
        Sum total[4];
#pragma unroll
        for (int from = 0; from < blocks; ++from) {
          Sum v[4];
          if (from == rank) {
#pragma unroll
            for (int to = 0; to < blocks; ++to)
              if (to == rank)
#pragma unroll
                for (int c = 0; c < 4; ++c) v[c] = sum[i][to * kPart + j + c];
          } else {
            const u32 slot = static_cast<u32>(from < rank ? from : from - 1);
            receive(own + slot * kBytes + static_cast<u32>((i * kPart + j) * kThreads * 4), v);
          }
#pragma unroll
          for (int c = 0; c < 4; ++c) total[c] = from == 0 ? v[c] : total[c] + v[c];
        }
#pragma unroll
        for (int c = 0; c < 4; ++c) part[i][j + c] = total[c];
      }
    // After the last tile the other blocks may have ended.
    const u32 lane = thread % kWarp;
    __syncwarp();
    if (!last && lane < blocks) barrier_arrive_at(empty, first_block + lane);
  }

 private:
  static __device__ __forceinline__ void send(u32 to, const float* v, u32 barrier) {
    store_at(to, v, barrier);
  }
  static __device__ __forceinline__ void send(u32 to, const int* v, u32 barrier) {
    const float bits[4] = {__int_as_float(v[0]), __int_as_float(v[1]), __int_as_float(v[2]),
                           __int_as_float(v[3])};
    store_at(to, bits, barrier);
  }
  static __device__ __forceinline__ void receive(u32 from, float (&v)[4]) { load_shared(from, v); }
  static __device__ __forceinline__ void receive(u32 from, int (&v)[4]) {
    float bits[4];
    load_shared(from, bits);
#pragma unroll
    for (int c = 0; c < 4; ++c) v[c] = __float_as_int(bits[c]);
  }
};

}  // namespace quern
