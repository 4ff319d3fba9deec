// Scales of 8-bit products, applied to the sums: y = f32(sum) * (x_scale * w_scale), in this order.
//
// A problem has one of two schemes. Rank-1 scales (a scale for the tensor or for each row, on
// either side) are applied once, at the end. Block scales (1 x 128 groups of x, 128 x 128 blocks of
// w) change along k: sums of 128 products are scaled and added up in fp32 (promotion), the scheme
// of DeepSeek-V3 (arXiv:2412.19437, section 3.3).
#pragma once
#include "common/memory.cuh"
#include "common/types.cuh"
#include "gemm/gemm_args.h"
#include "gemm_w8a8/gemm_w8a8_args.h"

namespace quern {

/// Of which part of an operand a scale is: the whole tensor, a row (token of x, channel of w), or a
/// block of 128 of k (and of n).
enum class ScaleOf { tensor, row, block };

/// What scales are looked up in.
__device__ __forceinline__ GemmW8A8Args scales_of(const GemmW8A8TmaArgs& args) {
  return {nullptr, nullptr, args.x_scales, args.w_scales, nullptr, nullptr, args.m};
}

template <class Problem>
struct Scales {
  static constexpr bool kBlocks = Problem::x_scale == ScaleOf::block;
  static constexpr int kBlocksK = scale_blocks(Problem::k);
  static_assert((Problem::w_scale == ScaleOf::block) == kBlocks, "both operands or none in blocks");

  /// Scale of row m of x, where scales are rank-1. 0 past the last row.
  static __device__ __forceinline__ float of_x(const GemmW8A8Args& args, i64 m) {
    if constexpr (Problem::x_scale == ScaleOf::tensor) return args.x_scales[0];
    return m < args.m ? args.x_scales[m] : 0.0f;
  }
  /// Scale of row n of w, where scales are rank-1. 0 past the last row.
  static __device__ __forceinline__ float of_w(const GemmW8A8Args& args, int n) {
    if constexpr (Problem::w_scale == ScaleOf::tensor) return args.w_scales[0];
    return n < Problem::n ? args.w_scales[n] : 0.0f;
  }
  /// Scales of rows n and n + 1 of w, n being even and the number of rows too; where scales are
  /// rank-1. 0 past the last row. The compiler may move the load ahead of stores.
  static __device__ __forceinline__ Vec<float, 2> of_w_pair(const GemmW8A8Args& args, int n) {
    Vec<float, 2> pair{};
    if constexpr (Problem::w_scale == ScaleOf::tensor) {
      pair.element[0] = pair.element[1] = args.w_scales[0];
    } else if (n < Problem::n) {
      asm("ld.global.nc.v2.f32 {%0, %1}, [%2];"
          : "=f"(pair.element[0]), "=f"(pair.element[1])
          : "l"(args.w_scales + n));
    }
    return pair;
  }
  /// Scale of row m of x in block `block` of k. 0 past the end.
  static __device__ __forceinline__ float of_x_block(const GemmW8A8Args& args, i64 m, int block) {
    return m < args.m && block < kBlocksK ? args.x_scales[m * kBlocksK + block] : 0.0f;
  }
  /// Scale of row n of w in block `block` of k. 0 past the end.
  static __device__ __forceinline__ float of_w_block(const GemmW8A8Args& args, int n, int block) {
    return n < Problem::n && block < kBlocksK
               ? args.w_scales[static_cast<i64>(n / kScaleBlock) * kBlocksK + block]
               : 0.0f;
  }

  /// Scales of row m of x in four blocks of k from `block` on, a multiple of 4; one access where
  /// rows of scales are aligned to it. Those past the last row or block may be anything.
  static __device__ __forceinline__ Vec<float, 4> of_x_blocks(const GemmW8A8Args& args, i64 m,
                                                              int block) {
    if constexpr (kBlocksK % 4 == 0) {
      return load_vec<float, 4>(args.x_scales + min(m, args.m - 1) * kBlocksK + block);
    } else {
      Vec<float, 4> four;
#pragma unroll
      for (int c = 0; c < 4; ++c) four.element[c] = of_x_block(args, m, block + c);
      return four;
    }
  }
  /// The same of row n of w, which exists.
  static __device__ __forceinline__ Vec<float, 4> of_w_blocks(const GemmW8A8Args& args, int n,
                                                              int block) {
    if constexpr (kBlocksK % 4 == 0) {
      return load_vec<float, 4>(args.w_scales + static_cast<i64>(n / kScaleBlock) * kBlocksK +
                                block);
    } else {
      Vec<float, 4> four;
#pragma unroll
      for (int c = 0; c < 4; ++c) four.element[c] = of_w_block(args, n, block + c);
      return four;
    }
  }
};

}  // namespace quern
