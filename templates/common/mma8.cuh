// Tensor-core products of 8-bit inputs: m16n8k32, s8 with exact s32 sums (sm_80 and later) or e4m3
// with fp32 sums (sm_89 and later).
//
// Fragments (PTX ISA 9.0, "Matrix Fragments for mma.m16n8k32"), g = lane / 4, t = lane % 4, four
// elements to a register:
//   a[0] row g,   k 4t..4t+3     a[1] row g+8, same k     a[2], a[3] the same with k + 16
//   b[0] k 4t..4t+3, col g       b[1] k + 16
//   c[0], c[1] row g, cols 2t, 2t+1                        c[2], c[3] row g+8
// In bytes they are those of m16n8k16 with 16-bit inputs, so ldmatrix loads them too.
#pragma once
#include "common/fp8.cuh"
#include "common/types.cuh"

namespace quern {

/// The type in which products of T are summed: exact for s8.
template <class T>
struct SumOf8;
template <>
struct SumOf8<i8> {
  using type = i32;
  static constexpr bool kExact = true;
};
template <>
struct SumOf8<e4m3> {
  using type = float;
  static constexpr bool kExact = false;
};

__device__ __forceinline__ i32 to_sum(i8 x) { return x; }
__device__ __forceinline__ float to_sum(e4m3 x) { return to_f32(x); }

template <class T>
__device__ __forceinline__ void mma_m16n8k32(typename SumOf8<T>::type (&c)[4], const u32 (&a)[4],
                                             const u32 (&b)[2]);
template <>
__device__ __forceinline__ void mma_m16n8k32<i8>(i32 (&c)[4], const u32 (&a)[4],
                                                 const u32 (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ __forceinline__ void mma_m16n8k32<e4m3>(float (&c)[4], const u32 (&a)[4],
                                                   const u32 (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace quern
