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

/// One level of warp_sum_many: lanes `offset` apart exchange half of the `live` values.
template <int live, int offset, int count>
__device__ __forceinline__ void warp_sum_level(float (&v)[count], int lane) {
  if constexpr (live > 1) {
    constexpr int half = live / 2;
    const bool upper = (lane & offset) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float send = upper ? v[i] : v[i + half];
      const float keep = upper ? v[i + half] : v[i];
      v[i] = keep + __shfl_xor_sync(0xffffffffu, send, offset);
    }
  } else {
    v[0] += __shfl_xor_sync(0xffffffffu, v[0], offset);
  }
  if constexpr (offset > 1) warp_sum_level<(live > 1 ? live / 2 : 1), offset / 2>(v, lane);
}
/// Sums `count` values (a power of two) over the lanes of a warp with one exchange per value rather
/// than five: at each level a lane hands half of its values to its partner. Afterwards lane l holds
/// the sum of value l / (32 / count) in v[0] or, where count > 32, of values
/// l * (count / 32) + j in v[j].
template <int count>
__device__ __forceinline__ void warp_sum_many(float (&v)[count], int lane) {
  static_assert((count & (count - 1)) == 0, "a power of two");
  warp_sum_level<count, kWarp / 2>(v, lane);
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
