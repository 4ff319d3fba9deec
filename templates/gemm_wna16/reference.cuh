// y[m, n] = sum over k of x[m, k] * (code[n, k] - zero[n, k / group]) * scale[n, k / group],
// written from the formula: the oracle of the faster kernels on the device. A block owns 16 x 16
// elements, one thread each, and passes 64 columns of x and w at a time through shared memory. fp32
// sums of 64 products, themselves added up in fp32.
#pragma once
#include "common/types.cuh"
#include "gemm_wna16/finish.cuh"
#include "gemm_wna16/gemm_wna16_args.h"

namespace quern {

/// The code of one element, found in kernel order.
template <int bits, int k>
__device__ __forceinline__ int wna16_code(const u8* codes, int row, int column) {
  constexpr int unit_columns = wna16_unit_columns(bits);
  const u8* unit =
      codes +
      (static_cast<i64>(row / 16) * (k / unit_columns) + column / unit_columns) * kWna16UnitBytes;
  const int step = column % unit_columns / 16, r = row % 16, c = column % 16;
  const int lane = r % 8 * 4 + c % 8 / 2, reg = r / 8 + c / 8 * 2, half = c % 2;
  const u8* mine = unit + lane * 16;
  if constexpr (bits == 4) {
    const int nibble = reg + 4 * half;
    return mine[step * 4 + nibble / 2] >> (nibble % 2 * 4) & 15;
  } else {
    return mine[(2 * step + reg / 2) * 4 + reg % 2 + 2 * half];
  }
}

template <class Problem, class Fusion = StoreSums<GemmWna16Args>>
__device__ __forceinline__ void gemm_wna16_reference(const typename Fusion::Args& args) {
  using T = typename Problem::Input;
  using Out = typename Problem::Output;
  constexpr int n = Problem::n, k = Problem::k, tile = kWna16ReferenceTile, depth = 64;
  constexpr int groups = k / Problem::group_size, bits = Problem::bits;
  constexpr int blocks_n = n / tile;
  __shared__ float xs[tile][depth], ws[tile][depth + 1];  // no two of 16 rows share a bank
  const int row = threadIdx.x / tile, column = threadIdx.x % tile;
  const i64 first_m = static_cast<i64>(blockIdx.x / blocks_n) * tile;
  const int first_n = static_cast<int>(blockIdx.x % blocks_n) * tile;
  const auto* x = static_cast<const typename StreamOf<Fusion, T>::Type*>(args.x);
  const T* scales = static_cast<const T*>(args.scales);
  const u8* zeros = static_cast<const u8*>(args.zeros);
  float total = 0.0f, squares = 0.0f;
  for (int first = 0; first < k; first += depth) {
    __syncthreads();
    for (int i = threadIdx.x; i < tile * depth; i += tile * tile) {
      const int r = i / depth, c = i % depth, at = first + c, w_row = first_n + r;
      xs[r][c] = first_m + r < args.m ? to_f32(x[(first_m + r) * k + at]) : 0.0f;
      const i64 group = (static_cast<i64>(w_row / 16) * groups + at / Problem::group_size) * 16 +
                        w_row % 8 * 2 + w_row % 16 / 8;
      int zero = 1 << (bits - 1);
      if constexpr (Problem::zero_points) zero = zeros[group];
      const int code = wna16_code<bits, k>(static_cast<const u8*>(args.codes), w_row, at);
      ws[r][c] = static_cast<float>(code - zero) * to_f32(scales[group]);
    }
    __syncthreads();
    if constexpr (Fusion::kNormalises) {
      float square = 0.0f;
      for (int i = 0; i < depth; ++i) square = fmaf(xs[row][i], xs[row][i], square);
      squares += square;
      __syncthreads();
      const T* gamma = static_cast<const T*>(args.gamma) + first;
      for (int i = threadIdx.x; i < tile * depth; i += tile * tile) {
        float& value = xs[i / depth][i % depth];
        value = to_f32(from_f32<T>(value * to_f32(gamma[i % depth]) * kNormalisedBy<T>));
      }
      __syncthreads();
    }
    float sum = 0.0f;
    for (int i = 0; i < depth; ++i) sum = fmaf(xs[row][i], ws[column][i], sum);
    total += sum;
  }
  if constexpr (Fusion::kNormalises)
    total *= rsqrtf(squares * (1.0f / k) + Fusion::kEps) / kNormalisedBy<T>;
  float other = 0.0f;
  if constexpr (Fusion::kParts == 2) other = __shfl_down_sync(0xffffffffu, total, 8);
  if (first_m + row < args.m && (Fusion::kParts == 1 || column < 8))
    finish_sum<Fusion, n, Out>(args, first_m + row, first_n + column, total, other);
}

}  // namespace quern
