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
