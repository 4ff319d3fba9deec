// Approximate elementary functions.
//
// Source: PTX ISA 9.0, "ex2": relative error at most 2^-22; subnormals flush to zero.
#pragma once
#include "common/types.cuh"

namespace quern {

__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

constexpr float kLog2E = 1.4426950408889634f;
__device__ __forceinline__ float negative_infinity() { return __uint_as_float(0xff800000u); }

}  // namespace quern
