// 8-bit element types: e4m3 of the OCP 8-bit floating point specification (no infinities, NaN in
// 0x7f and 0xff) and their conversion to fp32.
//
// Source: PTX ISA 9.0, "cvt" (.e4m3x2, sm_89 and later).
#pragma once
#include "common/types.cuh"

namespace quern {

struct e4m3 {
  u8 bits;
};
static_assert(sizeof(e4m3) == 1, "an 8-bit type is exactly one byte");

__device__ __forceinline__ float to_f32(i8 x) { return static_cast<float>(x); }
__device__ __forceinline__ float to_f32(e4m3 x) {
  u32 pair;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(pair) : "h"(static_cast<u16>(x.bits)));
  return to_f32(f16{static_cast<u16>(pair & 0xffffu)});
}

}  // namespace quern
