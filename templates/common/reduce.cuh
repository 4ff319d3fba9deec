// Reductions across a warp and a block.
#pragma once
#include "common/types.cuh"

namespace quern {

struct Sum {
  static constexpr float identity = 0.0f;
  __device__ static float apply(float a, float b) { return a + b; }
};
struct Max {
  static constexpr float identity = -3.402823466e+38f;
  __device__ static float apply(float a, float b) { return fmaxf(a, b); }
};

/// Over groups of `width` adjacent lanes (a power of two); every lane gets the result.
template <class Op, int width = kWarp>
__device__ __forceinline__ float warp_reduce(float x) {
#pragma unroll
  for (int offset = width / 2; offset > 0; offset /= 2)
    x = Op::apply(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

/// Sums `count` values (a power of two) over the lanes of a warp with one exchange per value rather
/// than five: at each level a lane hands half of its values to its partner. Afterwards lane l holds
/// the sum of value l / (32 / count) in v[0] or, where count > 32, of values
/// l * (count / 32) + j in v[j].
template <int count>
__device__ __forceinline__ void warp_sum_many(float (&v)[count], int lane) {
  static_assert((count & (count - 1)) == 0, "a power of two");
#pragma unroll
  for (int level = 0; level < 5; ++level) {
    const int offset = 16 >> level;
    const int half = count >> (level + 1);
    if (half == 0) {
      v[0] += __shfl_xor_sync(0xffffffffu, v[0], offset);
      continue;
    }
    const bool upper = (lane & offset) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float send = upper ? v[i] : v[i + half];
      const float keep = upper ? v[i + half] : v[i];
      v[i] = keep + __shfl_xor_sync(0xffffffffu, send, offset);
    }
  }
}

/// Over a block of `threads`; every thread gets the result. `scratch` holds threads / 32 floats and
/// may be reused after the next __syncthreads().
template <class Op, int threads>
__device__ __forceinline__ float block_reduce(float x, float* scratch) {
  static_assert(threads % kWarp == 0 && threads <= 1024, "whole warps, at most 32 of them");
  constexpr int warps = threads / kWarp;
  x = warp_reduce<Op>(x);
  if constexpr (warps == 1) return x;
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = threadIdx.x % kWarp < warps ? scratch[threadIdx.x % kWarp] : Op::identity;
  return warp_reduce<Op>(x);
}

}  // namespace quern
