// Exchanges among the four lanes that share a row of an accumulator fragment.
#pragma once
#include "common/types.cuh"

namespace quern {

/// v[i] of lane t becomes what v[t] of lane i was, t = lane % 4. All lanes of the warp call it.
__device__ __forceinline__ void quad_transpose(u32 (&v)[4], int t) {
#pragma unroll
  for (int distance = 1; distance <= 2; distance *= 2) {
    const bool odd = (t & distance) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & distance) continue;
      const u32 send = odd ? v[i] : v[i + distance];
      const u32 received = __shfl_xor_sync(0xffffffffu, send, distance);
      if (odd)
        v[i] = received;
      else
        v[i + distance] = received;
    }
  }
}

}  // namespace quern
