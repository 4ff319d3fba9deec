// How far an output is from its reference, found where both are: sending a large output to the host
// and comparing it there takes a thousand times as long as the kernel under trial.
//
// The error of an element is |out - ref| / (abs + rel |ref|) in f32; what is not a number, on either
// side, is infinitely wrong. f32 rounds the ratio itself, so that a caller who needs to know on
// which side of 1 an error lies looks closer when it comes near.
#pragma once
#include "common/memory.cuh"
#include "utility/utility_args.h"

namespace quern {

__device__ __forceinline__ u32 bits_of(float x) { return __float_as_uint(x); }
__device__ __forceinline__ u32 bits_of(bf16 x) { return x.bits; }
__device__ __forceinline__ u32 bits_of(f16 x) { return x.bits; }
__device__ __forceinline__ u32 bits_of(u8 x) { return x; }

__device__ __forceinline__ float relative_error(float out, float reference, const CompareArgs& args) {
  const float off = fabsf(out - reference);
  if (off == 0.0f) return 0.0f;
  const float error = off / (args.abs + args.rel * fabsf(reference));
  return error == error ? error : __uint_as_float(0x7f800000u);
}

/// T of u8: bits alone are compared.
template <class T>
__device__ __forceinline__ void compare(const CompareArgs& args) {
  const u64 stride = static_cast<u64>(gridDim.x) * blockDim.x;
  const T* out = static_cast<const T*>(args.out);
  const T* reference = static_cast<const T*>(args.reference);
  u32 worst = 0, unequal = 0;  // errors are not negative, so that their bits are ordered as they are
  for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < args.count;
       i += stride) {
    const T a = out[i], b = reference[i];
    unequal += bits_of(a) != bits_of(b);
    if constexpr (sizeof(T) > 1) {
      const u32 error = bits_of(relative_error(to_f32(a), to_f32(b), args));
      worst = error > worst ? error : worst;
    }
  }
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const u32 other = __shfl_xor_sync(0xffffffffu, worst, offset);
    worst = other > worst ? other : worst;
    unequal += __shfl_xor_sync(0xffffffffu, unequal, offset);
  }
  if (threadIdx.x % kWarp != 0) return;
  if (worst != 0) atomicMax(args.worst, static_cast<u64>(worst));
  if (unequal != 0) atomicAdd(args.unequal, static_cast<u64>(unequal));
}

}  // namespace quern
