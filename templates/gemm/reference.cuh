// y[m, n] = sum over k of x[m, k] * w[n, k], written from the formula: the oracle of the faster
// kernels on the device. One thread per element; fp32 sums of 64 products, themselves added up in
// fp32, which keeps the rounding error well below that of one long sum.
#pragma once
#include "common/types.cuh"
#include "gemm/gemm_args.h"

namespace quern {

template <class Problem>
__device__ __forceinline__ void gemm_reference(const GemmArgs& args) {
  using T = typename Problem::Input;
  using Out = typename Problem::Output;
  constexpr int n = Problem::n, k = Problem::k;
  const i64 index = static_cast<i64>(blockIdx.x) * kReferenceThreads + threadIdx.x;
  if (index >= args.m * n) return;
  const T* x = static_cast<const T*>(args.x) + index / n * k;
  const T* w = static_cast<const T*>(args.w) + index % n * k;
  float total = 0.0f;
  for (int first = 0; first < k; first += 64) {
    float sum = 0.0f;
    for (int i = first; i < min(first + 64, k); ++i) sum = fmaf(to_f32(x[i]), to_f32(w[i]), sum);
    total += sum;
  }
  static_cast<Out*>(args.y)[index] = from_f32<Out>(total);
}

}  // namespace quern
