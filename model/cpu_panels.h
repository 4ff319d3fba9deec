#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "runtime/base/half.h"

/// The micro-kernel of the CPU's matrix products, for the files that feed it with weights of one
/// form or another. Everything here is inlined into functions marked QUERN_CLONES.

// Functions marked with this are built for baseline x86-64 and for the two levels that matter, and
// the loader picks one. Sanitizers instrument the picking, which runs before they are ready.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define QUERN_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define QUERN_CLONES
#endif
// Helpers are inlined into every clone, so that each is built for its instruction set. Vectors are
// passed by reference: by value, their calling convention would differ between the clones.
#define QUERN_INLINE inline __attribute__((always_inline))

namespace quern::cpu {

// GCC's and Clang's vector extension: eight lanes are one AVX register, two of SSE or NEON.
constexpr int kLanes = 8;
using Vec = float __attribute__((vector_size(32)));
using IntVec = std::int32_t __attribute__((vector_size(32)));
using HalfVec = std::uint16_t __attribute__((vector_size(16)));

QUERN_INLINE void load(const float* from, Vec& to) { std::memcpy(&to, from, sizeof to); }
QUERN_INLINE void store(const Vec& from, float* to) { std::memcpy(to, &from, sizeof from); }

struct Bf16 {
  std::uint16_t bits;
};
struct F16 {
  std::uint16_t bits;
};

QUERN_INLINE void load(const Bf16* from, Vec& to) {
  HalfVec half;
  std::memcpy(&half, from, sizeof half);
  const IntVec wide = __builtin_convertvector(half, IntVec) << 16;
  std::memcpy(&to, &wide, sizeof to);
}

QUERN_INLINE void load(const F16* from, Vec& to) {
  HalfVec half;
  std::memcpy(&half, from, sizeof half);
  const IntVec wide = __builtin_convertvector(half, IntVec);
  // The exponent is rebiased by a product with 2^112, which serves subnormals too.
  const IntVec magnitude = (wide & 0x7fff) << 13;
  Vec value;
  std::memcpy(&value, &magnitude, sizeof value);
  value *= 0x1p112f;
  IntVec bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits |= (wide & 0x8000) << 16;
  bits |= ((wide & 0x7c00) == 0x7c00) & 0x7f800000;  // infinity and NaN
  std::memcpy(&to, &bits, sizeof to);
}

QUERN_INLINE float scalar(float value) { return value; }
QUERN_INLINE float scalar(Bf16 value) { return bf16_to_f32(value.bits); }
QUERN_INLINE float scalar(F16 value) { return f16_to_f32(value.bits); }

QUERN_INLINE float sum(const Vec& v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

constexpr std::int64_t kPanel = 2 * kLanes;  // columns of the micro-kernel
constexpr int kTileRows = 6;                 // 6 x 16 accumulators take 12 of AVX2's 16 registers

/// out[r, 0..16) (+)= sum over k of x[r, k] * panel[k, 0..16), for ROWS rows.
template <int ROWS>
QUERN_INLINE void tile(const float* x, std::int64_t x_stride, const float* panel,
                       std::int64_t depth, float* out, std::int64_t out_stride, bool accumulate) {
  Vec low[ROWS], high[ROWS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
    if (accumulate) {
      load(out + r * out_stride, low[r]);
      load(out + r * out_stride + kLanes, high[r]);
    } else {
      low[r] = high[r] = Vec{};
    }
  }
  for (std::int64_t k = 0; k < depth; ++k) {
    Vec panel_low, panel_high;
    load(panel + k * kPanel, panel_low);
    load(panel + k * kPanel + kLanes, panel_high);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const float factor = x[r * x_stride + k];
      low[r] += panel_low * factor;
      high[r] += panel_high * factor;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
    store(low[r], out + r * out_stride);
    store(high[r], out + r * out_stride + kLanes);
  }
}

/// The same for any number of rows.
QUERN_INLINE void tile_rows(std::int64_t rows, const float* x, std::int64_t x_stride,
                            const float* panel, std::int64_t depth, float* out,
                            std::int64_t out_stride, bool accumulate) {
  std::int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows)
    tile<kTileRows>(x + r * x_stride, x_stride, panel, depth, out + r * out_stride, out_stride,
                    accumulate);
  for (; r + 2 <= rows; r += 2)
    tile<2>(x + r * x_stride, x_stride, panel, depth, out + r * out_stride, out_stride, accumulate);
  if (r < rows)
    tile<1>(x + r * x_stride, x_stride, panel, depth, out + r * out_stride, out_stride, accumulate);
}

// A task's weights, kBlockCols outputs by kBlockDepth inputs, are unpacked to f32 once and stay in
// the L2 cache (64 KiB) while the rows of x stream by; one panel of them fits into L1.
constexpr std::int64_t kBlockCols = 4 * kPanel;
constexpr std::int64_t kBlockDepth = 256;
/// Outputs [begin, end) of x [m, cols] times a weight that `panels` unpacks:
/// panels.pack(first_output, first_k, depth, packed) writes packed[k, c] = weight[first_output + c,
/// first_k + k] for 16 outputs, zeros past the last. At most kBlockCols outputs.
template <class PANELS>
QUERN_INLINE void multiply_packed(const float* x, std::int64_t m, const PANELS& panels,
                                  std::int64_t cols, std::int64_t begin, std::int64_t end,
                                  float* out, std::int64_t out_stride) {
  alignas(64) float packed[kBlockCols * kBlockDepth];
  float edge[kTileRows * kPanel];
  for (std::int64_t k = 0; k < cols; k += kBlockDepth) {
    const std::int64_t depth = std::min(kBlockDepth, cols - k);
    for (std::int64_t c = begin; c < end; c += kPanel)
      panels.pack(c, k, depth, packed + (c - begin) * kBlockDepth);
    for (std::int64_t i = 0; i < m; i += kTileRows) {
      const std::int64_t tile_height = std::min<std::int64_t>(kTileRows, m - i);
      for (std::int64_t c = begin; c < end; c += kPanel) {
        const float* panel = packed + (c - begin) * kBlockDepth;
        float* target = out + i * out_stride + c;
        if (c + kPanel <= end) {
          tile_rows(tile_height, x + i * cols + k, cols, panel, depth, target, out_stride, k > 0);
          continue;
        }
        tile_rows(tile_height, x + i * cols + k, cols, panel, depth, edge, kPanel, false);
        for (std::int64_t r = 0; r < tile_height; ++r)
          for (std::int64_t j = 0; j < end - c; ++j)
            target[r * out_stride + j] =
                (k > 0 ? target[r * out_stride + j] : 0.0f) + edge[r * kPanel + j];
      }
    }
  }
}

}  // namespace quern::cpu
