// Counter-based random numbers: a draw depends on (key, counter) alone, so it is the same in a
// replayed graph, in another block shape and on the CPU.
//
// Paper: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011 (Philox4x32-10).
#pragma once
#include "common/types.cuh"

namespace quern {

/// First word of Philox4x32-10 for counter {c0, c1, 0, 0}.
__device__ __forceinline__ u32 philox(u32 key0, u32 key1, u32 c0, u32 c1) {
  u32 c2 = 0, c3 = 0;
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const u32 high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
    const u32 high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
    c0 = high1 ^ c1 ^ key0;
    c1 = low1;
    c2 = high0 ^ c3 ^ key1;
    c3 = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c0;
}

/// -log(-log(u)) with u = ((x >> 8) + 1/2) / 2^24. Neither u nor 1 - u rounds: above one half u has
/// no exact fp32 form (the largest would become 1, and its token win whatever its logit), but 1 - u
/// has, and log u = log1p(-(1 - u)).
__device__ __forceinline__ float gumbel(u32 x) {
  const u32 n = x >> 8;
  constexpr float step = 1.0f / 16777216.0f;
  const float log_u = n < (1u << 23)
                          ? logf((static_cast<float>(n) + 0.5f) * step)
                          : log1pf(-((static_cast<float>((1u << 24) - 1 - n) + 0.5f) * step));
  return -logf(-log_u);
}

}  // namespace quern
