// y[m, n] = sum over k of x[m, k] * w[n, k], written from the formula: the oracle of the faster
// kernels on the device. A block owns 16 x 16 elements, one thread each, and passes 64 columns of x
// and w at a time through shared memory, so that a product of 2,048 rows takes milliseconds and not
// seconds. fp32 sums of 64 products, themselves added up in fp32, which keeps the rounding error
// well below that of one long sum.
#pragma once
#include "common/types.cuh"
#include "gemm/fusion.cuh"
#include "gemm/gemm_args.h"

namespace quern {

template <class Problem, class Fusion = StoreSums<GemmArgs>>
__device__ __forceinline__ void gemm_reference(const typename Fusion::Args& args) {
  using T = typename Problem::Input;
  using Out = typename Problem::Output;
  constexpr int parts = Fusion::kParts, n = Problem::n / parts, k = Problem::k;
  constexpr int tile = kReferenceTile, depth = 64;
  constexpr int blocks_n = (n + tile - 1) / tile;
  __shared__ float xs[tile][depth], ws[parts][tile][depth + 1];  // no two of 16 rows share a bank
  const int row = threadIdx.x / tile, column = threadIdx.x % tile;
  const i64 first_m = static_cast<i64>(blockIdx.x / blocks_n) * tile;
  const int first_n = static_cast<int>(blockIdx.x % blocks_n) * tile;
  const auto* x = static_cast<const typename StreamOf<Fusion, T>::Type*>(args.x);
  const T* w = static_cast<const T*>(args.w);
  float total[parts] = {}, squares = 0.0f;
  for (int first = 0; first < k; first += depth) {
    const int count = min(depth, k - first);
    __syncthreads();
    for (int i = threadIdx.x; i < tile * depth; i += tile * tile) {
      const int r = i / depth, c = i % depth;
      if (c >= count) continue;
      if (first_m + r < args.m) xs[r][c] = to_f32(x[(first_m + r) * k + first + c]);
#pragma unroll
      for (int part = 0; part < parts; ++part)
        if (first_n + r < n)
          ws[part][r][c] =
              to_f32(w[static_cast<i64>(interleaved_row<parts>((first_n + r) * parts + part)) * k +
                       first + c]);
    }
    __syncthreads();
    if constexpr (Fusion::kNormalises) {
      float square = 0.0f;
      for (int i = 0; i < count; ++i) square = fmaf(xs[row][i], xs[row][i], square);
      squares += square;
      __syncthreads();
      const T* gamma = static_cast<const T*>(args.gamma);
      for (int i = threadIdx.x; i < tile * depth; i += tile * tile)
        if (i % depth < count)
          xs[i / depth][i % depth] =
              to_f32(from_f32<T>(xs[i / depth][i % depth] * to_f32(gamma[first + i % depth])));
      __syncthreads();
    }
    if (first_m + row >= args.m || first_n + column >= n) continue;
#pragma unroll
    for (int part = 0; part < parts; ++part) {
      float sum = 0.0f;
      for (int i = 0; i < count; ++i) sum = fmaf(xs[row][i], ws[part][column][i], sum);
      total[part] += sum;
    }
  }
  if (first_m + row >= args.m || first_n + column >= n) return;
  if constexpr (Fusion::kNormalises)
#pragma unroll
    for (int part = 0; part < parts; ++part)
      total[part] *= rsqrtf(squares * (1.0f / k) + Fusion::kEps);
  if constexpr (Fusion::kFused)
    Fusion::template apply<1>(args, first_m + row, first_n + column, total);
  else
    static_cast<Out*>(args.y)[(first_m + row) * n + first_n + column] = from_f32<Out>(total[0]);
}

}  // namespace quern
