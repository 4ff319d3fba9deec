// y[m, n] = sum over k of x[m, k] * w[n, k], written from the formula: the oracle of the faster
// kernels on the device. A block owns 16 x 16 elements, one thread each, and passes 64 columns of x
// and w at a time through shared memory, so that a product of 2,048 rows takes milliseconds and not
// seconds. fp32 sums of 64 products, themselves added up in fp32, which keeps the rounding error
// well below that of one long sum.
#pragma once
#include "common/types.cuh"
#include "gemm/gemm_args.h"

namespace quern {

template <class Problem>
__device__ __forceinline__ void gemm_reference(const GemmArgs& args) {
  using T = typename Problem::Input;
  using Out = typename Problem::Output;
  constexpr int n = Problem::n, k = Problem::k, tile = kReferenceTile, depth = 64;
  constexpr int blocks_n = (n + tile - 1) / tile;
  __shared__ float xs[tile][depth], ws[tile][depth + 1];  // no two of 16 rows share a bank
  const int row = threadIdx.x / tile, column = threadIdx.x % tile;
  const i64 first_m = static_cast<i64>(blockIdx.x / blocks_n) * tile;
  const int first_n = static_cast<int>(blockIdx.x % blocks_n) * tile;
  const T* x = static_cast<const T*>(args.x);
  const T* w = static_cast<const T*>(args.w);
  float total = 0.0f;
  for (int first = 0; first < k; first += depth) {
    const int count = min(depth, k - first);
    __syncthreads();
    for (int i = threadIdx.x; i < tile * depth; i += tile * tile) {
      const int r = i / depth, c = i % depth;
      if (c >= count) continue;
      if (first_m + r < args.m) xs[r][c] = to_f32(x[(first_m + r) * k + first + c]);
      if (first_n + r < n) ws[r][c] = to_f32(w[static_cast<i64>(first_n + r) * k + first + c]);
    }
    __syncthreads();
    if (first_m + row >= args.m || first_n + column >= n) continue;
    float sum = 0.0f;
    for (int i = 0; i < count; ++i) sum = fmaf(xs[row][i], ws[column][i], sum);
    total += sum;
  }
  if (first_m + row < args.m && first_n + column < n)
    static_cast<Out*>(args.y)[(first_m + row) * n + first_n + column] = from_f32<Out>(total);
}

}  // namespace quern
