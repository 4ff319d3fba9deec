// How far an output is from its reference, found where both are: sending a large output to the host
// and comparing it there takes a thousand times as long as the kernel under trial.
//
// The error of an element is |out - ref| / (abs + rel |ref|) in double precision, since an output that
// is one rounding step off often lies exactly at its tolerance. What is not a number, on either side,
// is infinitely wrong.
#pragma once
#include "common/memory.cuh"
#include "utility/utility_args.h"

namespace quern {

__device__ __forceinline__ u32 bits_of(float x) { return __float_as_uint(x); }
__device__ __forceinline__ u32 bits_of(bf16 x) { return x.bits; }
__device__ __forceinline__ u32 bits_of(f16 x) { return x.bits; }
__device__ __forceinline__ u32 bits_of(u8 x) { return x; }

__device__ __forceinline__ u64 error_bits(float out, float reference, const CompareArgs& args) {
  const double off = fabs(static_cast<double>(out) - static_cast<double>(reference));
  if (off == 0.0) return 0;
  const double error = off / (args.abs + args.rel * fabs(static_cast<double>(reference)));
  return error == error ? static_cast<u64>(__double_as_longlong(error)) : 0x7ff0000000000000ull;
}

/// T of u8: bits alone are compared.
template <class T>
__device__ __forceinline__ void compare(const CompareArgs& args) {
  const u64 stride = static_cast<u64>(gridDim.x) * blockDim.x;
  const T* out = static_cast<const T*>(args.out);
  const T* reference = static_cast<const T*>(args.reference);
  u64 worst = 0;  // errors are not negative, so that their bits are ordered as they are
  u32 unequal = 0;
  for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < args.count;
       i += stride) {
    const T a = out[i], b = reference[i];
    unequal += bits_of(a) != bits_of(b);
    if constexpr (sizeof(T) > 1) {
      const u64 error = error_bits(to_f32(a), to_f32(b), args);
      worst = error > worst ? error : worst;
    }
  }
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const u64 other = __shfl_xor_sync(0xffffffffu, worst, offset);
    worst = other > worst ? other : worst;
    unequal += __shfl_xor_sync(0xffffffffu, unequal, offset);
  }
  if (threadIdx.x % kWarp != 0) return;
  if (worst != 0) atomicMax(args.worst, worst);
  if (unequal != 0) atomicAdd(args.unequal, static_cast<u64>(unequal));
}

}  // namespace quern
