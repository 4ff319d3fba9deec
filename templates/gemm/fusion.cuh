// What a product is fused with. The kernels of this folder take a Fusion:
//
//   Fusion::Args         the kernel's parameter: GemmArgs or GemmTmaArgs, and what else is read
//   Fusion::kFused       an expression is computed of the sums, and what it yields is stored;
//   false:
//                        sums are stored as they are, and there is no apply
//   Fusion::kParts       sums that one element of the result is computed from: 1, or 2 where w
//   holds
//                        gate and up
//   Fusion::kLeavesY     true: the result is left in registers, for the kernel to round and store
//   Fusion::apply<N>(args, row, column, sum [, y])   N elements of the result from `column` on,
//                        which is a multiple of N; sum[i * kParts + part]. All of them exist.
//   Fusion::prefetch(args, column, columns, thread)   begins to fetch what `columns` columns of the
//                        result have to themselves (biases, which no kernel before writes), the
//                        share of one of many threads; otherwise it would be waited for at the end
//   Fusion::kNormalises  x is normalised (RMSNorm) with the weights args.gamma[k] and kEps: what is
//                        multiplied is x * gamma, rounded to the type of x, and each row's sums are
//                        scaled by rsqrt(mean(x^2) + eps)
//   Fusion::Stream       type of x where it is normalised: as the product's, or float
//
// The stub defines it around an expression of the kernel language (templates/gemm/gemm_fusion.h).
//
// Where there are two parts, w holds groups of 8 rows of the first and 8 rows of the second in
// turn: rows 16 g + i and 16 g + 8 + i make element 8 g + i. 8 columns are what a fragment of the
// tensor cores spans, so a thread that holds columns c and c + 1 of one part holds those of the
// other as well and has neighbours of the result to store; pairs of rows side by side would leave
// it single elements. A warp of gemv reads rows in whichever order it likes.
#pragma once
#include "common/types.cuh"

namespace quern {

/// No fusion.
template <class Base>
struct StoreSums {
  using Args = Base;
  static constexpr bool kFused = false, kLeavesY = false, kNormalises = false;
  static constexpr int kParts = 1;
};

/// Type of x.
template <class Fusion, class Input, bool normalises = Fusion::kNormalises>
struct StreamOf {
  using Type = Input;
};
template <class Fusion, class Input>
struct StreamOf<Fusion, Input, true> {
  using Type = typename Fusion::Stream;
};

/// Row of w that holds part `index % parts` of element `index / parts`.
template <int parts>
__device__ __forceinline__ constexpr int interleaved_row(int index) {
  return parts == 1 ? index : index / 16 * 16 + index % 2 * 8 + index / 2 % 8;
}

}  // namespace quern
