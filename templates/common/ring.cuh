// Where a thread stands in a ring of buffers whose barriers alternate in parity (mbarrier.cuh).
#pragma once
#include "common/types.cuh"

namespace quern {

/// A place in a ring of `stages`, and the parity of its round.
template <int stages>
struct RingPlace {
  int stage = 0;
  u32 parity = 0;
  /// Of the ring's barriers, which lie one behind the other, that of this place.
  __device__ __forceinline__ u32 of(u32 barriers) const {
    return barriers + static_cast<u32>(stage * 8);
  }
  __device__ __forceinline__ void advance() {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
  __device__ __forceinline__ void advance(int turns) {
    stage += turns;
    parity ^= static_cast<u32>(stage / stages) & 1;
    stage %= stages;
  }
};

}  // namespace quern
