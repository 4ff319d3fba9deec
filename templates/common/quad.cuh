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

/// Lane t of four holds columns 2t and 2t + 1 of two groups of eight, in v[0..1] and v[2..3]; after it,
/// columns 4 (t % 2) to 4 (t % 2) + 3 of group t / 2. All lanes of the warp call it.
__device__ __forceinline__ void quad_pairs(float (&v)[4], int t) {
  const bool upper = (t & 2) != 0, odd = (t & 1) != 0;
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    const float from_other = __shfl_xor_sync(0xffffffffu, upper ? v[c] : v[2 + c], 2);
    const float low = upper ? from_other : v[c], high = upper ? v[2 + c] : from_other;
    const float between = __shfl_xor_sync(0xffffffffu, odd ? low : high, 1);
    v[c] = odd ? between : low;
    v[2 + c] = odd ? high : between;
  }
}

}  // namespace quern
