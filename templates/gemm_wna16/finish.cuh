// What becomes of a sum of this folder's kernels: it is stored, or an expression is computed of it
// (gemm/fusion.cuh).
//
// Where the expression takes two parts, they are sums of rows 8 apart of a row tile of 16, which
// every thread of these kernels holds side by side.
#pragma once
#include "common/types.cuh"
#include "gemm/fusion.cuh"

namespace quern {

/// What x * gamma is multiplied by before it is rounded, where x is normalised: in f16 it might not
/// fit otherwise. Sums are divided by it.
template <class T>
inline constexpr float kNormalisedBy = 1.0f;
template <>
inline constexpr float kNormalisedBy<f16> = 1.0f / 64;

/// Of the sum `value` of one token and row of w. With two parts `row` is one of the first 8 of a
/// row tile and `other` the sum of the row 8 further; without, `other` is not used. Both exist.
template <class Fusion, int n, class Out>
__device__ __forceinline__ void finish_sum(const typename Fusion::Args& args, i64 token, int row,
                                           float value, float other) {
  if constexpr (!Fusion::kFused) {
    static_cast<Out*>(args.y)[token * n + row] = from_f32<Out>(value);
  } else if constexpr (Fusion::kParts == 1) {
    const float sum[1] = {value};
    Fusion::template apply<1>(args, token, row, sum);
  } else {
    const float sum[2] = {value, other};
    Fusion::template apply<1>(args, token, row / 16 * 8 + row % 8, sum);
  }
}

}  // namespace quern
