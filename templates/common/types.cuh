// Scalar types of device code and their conversions, over PTX: no CUDA header is included, which
// keeps a compile to tens of milliseconds and the binary free of header files at run time.
//
// Sources: PTX ISA 9.0, "cvt"; conversions to 16 bits round to nearest even.
#pragma once

namespace quern {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i8 = signed char;
using i32 = int;
using i64 = long long;

struct bf16 {
  u16 bits;
};
struct f16 {
  u16 bits;
};
static_assert(sizeof(bf16) == 2 && sizeof(f16) == 2, "16-bit types are exactly two bytes");

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16 x) {
  return __uint_as_float(static_cast<u32>(x.bits) << 16);
}
__device__ __forceinline__ float to_f32(f16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}

template <class T>
__device__ __forceinline__ T from_f32(float x);
template <>
__device__ __forceinline__ float from_f32<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 from_f32<bf16>(float x) {
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
template <>
__device__ __forceinline__ f16 from_f32<f16>(float x) {
  f16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

// Two floats to one 32-bit register; `low` ends up at the lower address.
template <class T>
__device__ __forceinline__ u32 pack2(float low, float high);
template <>
__device__ __forceinline__ u32 pack2<bf16>(float low, float high) {
  u32 y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
template <>
__device__ __forceinline__ u32 pack2<f16>(float low, float high) {
  u32 y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}

// One 32-bit register of two 16-bit values to two floats.
template <class T>
__device__ __forceinline__ void unpack2(u32 x, float& low, float& high);
template <>
__device__ __forceinline__ void unpack2<bf16>(u32 x, float& low, float& high) {
  low = __uint_as_float(x << 16);
  high = __uint_as_float(x & 0xffff0000u);
}
template <>
__device__ __forceinline__ void unpack2<f16>(u32 x, float& low, float& high) {
  low = to_f32(f16{static_cast<u16>(x & 0xffffu)});
  high = to_f32(f16{static_cast<u16>(x >> 16)});
}

/// Products of two pairs of bf16, rounded to nearest even.
__device__ __forceinline__ u32 multiply_bf16x2(u32 a, u32 b) {
  u32 y;  // adding -0 changes nothing, and sm_80 has no product alone
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(0x80008000u));
  return y;
}

/// A where `first`, else B.
template <bool first, class A, class B>
struct ChooseType {
  using Type = A;
};
template <class A, class B>
struct ChooseType<false, A, B> {
  using Type = B;
};

constexpr int kWarp = 32;
__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
__host__ __device__ constexpr int round_up(int a, int b) { return ceil_div(a, b) * b; }

}  // namespace quern
