// out[i] = stddev * normal(hash(seed, i)), or bits of the hash: random contents made where they are
// needed, because 16 GB of weights would take longer to send than to use.
//
// The hash is two rounds of the 64-bit finaliser of MurmurHash3 over the counter; the pair of
// uniforms goes through Box-Muller. Good enough for test data, not for statistics.
#pragma once
#include "common/memory.cuh"
#include "utility/utility_args.h"

namespace quern {

__device__ __forceinline__ u64 mix64(u64 x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdull;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ull;
  return x ^ (x >> 33);
}

/// out[i] = bits of hash(seed, i): packed weights.
__device__ __forceinline__ void fill_bits(const FillArgs& args) {
  const u64 stride = static_cast<u64>(gridDim.x) * blockDim.x;
  u32* out = static_cast<u32*>(args.out);
  for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < args.count;
       i += stride)
    out[i] = static_cast<u32>(mix64(mix64(i + args.seed * 0x9e3779b97f4a7c15ull)));
}

template <class T>
__device__ __forceinline__ void fill_normal(const FillArgs& args) {
  const u64 stride = static_cast<u64>(gridDim.x) * blockDim.x;
  T* out = static_cast<T*>(args.out);
  for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < args.count;
       i += stride) {
    const u64 h = mix64(mix64(i + args.seed * 0x9e3779b97f4a7c15ull) + 0x632be59bd9b4e019ull);
    const float u = (static_cast<float>(static_cast<u32>(h) >> 8) + 0.5f) * 5.9604644775390625e-8f;
    const float v = static_cast<float>(static_cast<u32>(h >> 40)) * 3.7450703e-7f;  // 2 pi / 2^24
    const float x = args.stddev * sqrtf(-2.0f * __logf(u)) * __cosf(v);
    out[i] = from_f32<T>(args.magnitude ? fabsf(x) : x);
  }
}

}  // namespace quern
