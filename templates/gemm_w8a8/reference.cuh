// y[m, n] = sum over k of x[m, k] * w[n, k], scaled, written from the formula: the oracle of the
// faster kernels on the device. A block owns 16 x 16 elements, one thread each, and passes 128
// columns of x and w at a time through shared memory. Integer sums are exact; those of e4m3 are
// fp32 sums of 128 products, themselves added up in fp32.
#pragma once
#include "common/mma8.cuh"
#include "common/types.cuh"
#include "gemm_w8a8/scales.cuh"

namespace quern {

template <class Problem>
__device__ __forceinline__ void gemm_w8a8_reference(const GemmW8A8Args& args) {
  using T = typename Problem::Input;
  using Out = typename Problem::Output;
  using Sum = typename SumOf8<T>::type;
  using Scale = Scales<Problem>;
  constexpr int n = Problem::n, k = Problem::k, tile = kW8A8ReferenceTile, depth = kScaleBlock;
  constexpr int blocks_n = (n + tile - 1) / tile;
  __shared__ Sum xs[tile][depth], ws[tile][depth + 1];  // no two of 16 rows share a bank
  const int row = static_cast<int>(threadIdx.x) / tile;
  const int column = static_cast<int>(threadIdx.x) % tile;
  const i64 first_m = static_cast<i64>(blockIdx.x / blocks_n) * tile;
  const int first_n = static_cast<int>(blockIdx.x % blocks_n) * tile;
  const i64 m_row = first_m + row;
  const int n_row = first_n + column;
  const T* x = static_cast<const T*>(args.x);
  const T* w = static_cast<const T*>(args.w);
  Sum total = 0;
  for (int first = 0; first < k; first += depth) {
    const int count = min(depth, k - first);
    __syncthreads();
#pragma unroll 2
    for (int i = static_cast<int>(threadIdx.x); i < tile * depth; i += tile * tile) {
      const int r = i / depth, c = i % depth;
      if (c >= count) continue;
      if (first_m + r < args.m) xs[r][c] = to_sum(x[(first_m + r) * k + first + c]);
      if (first_n + r < n) ws[r][c] = to_sum(w[static_cast<i64>(first_n + r) * k + first + c]);
    }
    __syncthreads();
    if (m_row >= args.m || n_row >= n) continue;
    Sum sum = 0;
#pragma unroll 8
    for (int i = 0; i < count; ++i) sum += xs[row][i] * ws[column][i];
    if constexpr (Scale::kBlocks) {
      const int block = first / depth;
      total = fmaf(static_cast<float>(sum),
                   Scale::of_x_block(args, m_row, block) * Scale::of_w_block(args, n_row, block),
                   total);
    } else {
      total += sum;
    }
  }
  if (m_row >= args.m || n_row >= n) return;
  float y = static_cast<float>(total);
  if constexpr (!Scale::kBlocks) y *= Scale::of_x(args, m_row) * Scale::of_w(args, n_row);
  static_cast<Out*>(args.y)[m_row * n + n_row] = from_f32<Out>(y);
}

}  // namespace quern
