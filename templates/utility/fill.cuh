// out[i] = stddev * normal(hash(seed, i)), a uniform value, or bits of the hash: random contents
// made where they are needed, because 16 GB of weights would take longer to send than to use.
//
// The hash is two rounds of the 64-bit finaliser of MurmurHash3 over the counter; for normal values
// a pair of uniforms goes through Box-Muller. Good enough for test data, not for statistics.
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

/// out[i] = make(i), by all threads of the grid.
template <class T, class Make>
__device__ __forceinline__ void fill(const FillArgs& args, Make make) {
  const u64 stride = static_cast<u64>(gridDim.x) * blockDim.x;
  T* out = static_cast<T*>(args.out);
  for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < args.count; i += stride)
    out[i] = make(i);
}

/// out[i] = bits of hash(seed, i): packed weights.
__device__ __forceinline__ void fill_bits(const FillArgs& args) {
  fill<u32>(args, [&](u64 i) {
    return static_cast<u32>(mix64(mix64(i + args.seed * 0x9e3779b97f4a7c15ull)));
  });
}

/// 64 bits for floating contents, and of 24 of them a number of (0, 1).
__device__ __forceinline__ u64 float_bits(const FillArgs& args, u64 i) {
  return mix64(mix64(i + args.seed * 0x9e3779b97f4a7c15ull) + 0x632be59bd9b4e019ull);
}
__device__ __forceinline__ float unit_uniform(u64 bits) {
  return (static_cast<float>(static_cast<u32>(bits) >> 8) + 0.5f) * 5.9604644775390625e-8f;
}

template <class T>
__device__ __forceinline__ void fill_normal(const FillArgs& args) {
  fill<T>(args, [&](u64 i) {
    const u64 h = float_bits(args, i);
    const float v = static_cast<float>(static_cast<u32>(h >> 40)) * 3.7450703e-7f;  // 2 pi / 2^24
    const float x = args.stddev * sqrtf(-2.0f * __logf(unit_uniform(h))) * __cosf(v);
    return from_f32<T>(args.magnitude ? fabsf(x) : x);
  });
}

template <class T>
__device__ __forceinline__ void fill_uniform(const FillArgs& args) {
  fill<T>(args, [&](u64 i) {
    return from_f32<T>(args.least + (args.most - args.least) * unit_uniform(float_bits(args, i)));
  });
}

}  // namespace quern
