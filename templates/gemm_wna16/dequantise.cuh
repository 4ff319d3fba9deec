// Codes of 4 or 8 bits in kernel order to A fragments of mma and wgmma, exactly: (code - zero) in
// bf16 or f16.
//
// A code is put into the mantissa of a power of two by one logical operation, and the power and the
// zero point are taken off again in one addition:
//   f16   0x6400 | q is 1024 + q; the codes at bits 4 to 7, 0x6400 | q << 4, are 1024 + 16 q, which
//         a multiplication by 1/16 brings down
//   bf16  0x4300 | q is 128 + q for q of at most 7 bits; the eighth bit decides what is taken off:
//         0x4300 (128) or 0x4380 (256)
//
// bf16 uses fma everywhere, because sm_80 has no other bf16x2 arithmetic.
// Source: Kim et al., "Who Says Elephants Can't Run", 2022 (the magic numbers); PTX ISA 9.0.
#pragma once
#include "common/types.cuh"
#include "gemm_wna16/gemm_wna16_args.h"

namespace quern {

/// (a & mask) | magic in one instruction.
__device__ __forceinline__ u32 and_or(u32 a, u32 mask, u32 magic) {
  u32 d;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "r"(mask), "r"(magic));
  return d;
}
/// (~a & mask) | magic in one instruction.
__device__ __forceinline__ u32 andnot_or(u32 a, u32 mask, u32 magic) {
  u32 d;
  asm("lop3.b32 %0, %1, %2, %3, 0xae;" : "=r"(d) : "r"(a), "r"(mask), "r"(magic));
  return d;
}

template <class T>
__device__ __forceinline__ u32 fma2(u32 a, u32 b, u32 c);
template <>
__device__ __forceinline__ u32 fma2<bf16>(u32 a, u32 b, u32 c) {
  u32 d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
template <>
__device__ __forceinline__ u32 fma2<f16>(u32 a, u32 b, u32 c) {
  u32 d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

/// 1 and -0, twice in a register.
template <class T>
inline constexpr u32 kOnes = 0;
template <>
inline constexpr u32 kOnes<bf16> = 0x3f803f80u;
template <>
inline constexpr u32 kOnes<f16> = 0x3c003c00u;

/// Both halves of a register times those of a factor.
template <class T>
__device__ __forceinline__ u32 mul2(u32 a, u32 b) {
  return fma2<T>(a, b, 0x80008000u);
}
/// The low or the high half of a register, twice.
__device__ __forceinline__ u32 twice_low(u32 x) { return __byte_perm(x, 0, 0x1010); }
__device__ __forceinline__ u32 twice_high(u32 x) { return __byte_perm(x, 0, 0x3232); }

/// What is added to the codes of rows g and g + 8 once they are floating-point numbers.
template <class T, int bits>
struct ZeroPoints {
  u32 off[2];
  u32 off_scaled[2];  // f16 with 4 bits: of codes that came 16 times too large

  /// `zeros` has the zero point of row g in its low byte and that of row g + 8 in the next.
  __device__ __forceinline__ void set(u32 zeros) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const u32 z = zeros >> (8 * r) & 0xffu, both = z | z << 16;
      if constexpr (is_f16) {
        off[r] = 0xe400e400u | both;              // -(1024 + z)
        off_scaled[r] = 0xd400d400u | both << 4;  // -(64 + z)
      } else if constexpr (bits == 4) {
        off[r] = 0xc300c300u | both;  // -(128 + z)
      } else {
        const float f = 128.0f - static_cast<float>(z);
        off[r] = pack2<T>(f, f);
      }
    }
  }
  /// The zero point 2^(bits - 1) of symmetric weights.
  __device__ __forceinline__ void set_symmetric() { set(bits == 4 ? 0x0808u : 0x8080u); }

  static constexpr bool is_f16 = kOnes<T> == kOnes<f16>;
};

/// Step `step` of k16 (of 4 with 4 bits, of 2 with 8 bits) of a lane's 16 bytes of codes.
template <class T, int bits, bool symmetric>
__device__ __forceinline__ void dequantise(const u32 (&codes)[4], int step,
                                           const ZeroPoints<T, bits>& zeros, u32 (&a)[4]) {
  constexpr bool is_f16 = ZeroPoints<T, bits>::is_f16;
  if constexpr (bits == 4) {
    const u32 word = codes[step];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if constexpr (is_f16) {
        const u32 w = j < 2 ? word : word >> 8;
        a[j] = j % 2 == 0 ? fma2<T>(and_or(w, 0x000f000fu, 0x64006400u), kOnes<T>, zeros.off[j % 2])
                          : fma2<T>(and_or(w, 0x00f000f0u, 0x64006400u), 0x2c002c00u,
                                    zeros.off_scaled[j % 2]);
      } else {
        a[j] =
            fma2<T>(and_or(word >> (4 * j), 0x000f000fu, 0x43004300u), kOnes<T>, zeros.off[j % 2]);
      }
    }
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const u32 pair = codes[2 * step + j / 2] >> (8 * (j % 2));
      if constexpr (is_f16) {
        a[j] = fma2<T>(and_or(pair, 0x00ff00ffu, 0x64006400u), kOnes<T>, zeros.off[j % 2]);
      } else {
        // code - 128: the eighth bit says whether 128 or 256 is too much.
        const u32 raised = and_or(pair, 0x007f007fu, 0x43004300u);
        a[j] = fma2<T>(raised, kOnes<T>, andnot_or(pair, 0x00800080u, 0xc300c300u));
        if constexpr (!symmetric) a[j] = fma2<T>(a[j], kOnes<T>, zeros.off[j % 2]);
      }
    }
  }
}

/// The same for codes of 4 bits with what was added to them left in, to be taken off the sums:
/// factor(r) * a = offset(r) + code for the row g + 8 r.
template <class T>
struct RaisedCodes {
  static constexpr bool is_f16 = kOnes<T> == kOnes<f16>;
  static constexpr float factor(int r) { return is_f16 && r == 1 ? 0.0625f : 1.0f; }
  static constexpr float offset(int r) { return !is_f16 ? 128.0f : r == 1 ? 64.0f : 1024.0f; }

  static __device__ __forceinline__ void make(const u32 (&codes)[4], int step, u32 (&a)[4]) {
    const u32 word = codes[step];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if constexpr (is_f16)
        a[j] =
            and_or(j < 2 ? word : word >> 8, j % 2 == 0 ? 0x000f000fu : 0x00f000f0u, 0x64006400u);
      else
        a[j] = and_or(word >> (4 * j), 0x000f000fu, 0x43004300u);
    }
  }
};

}  // namespace quern
