// How the warps of gemm/wgmma.cuh store what they have summed up: rounded as it is, or after an
// expression.
#pragma once
#include "common/memory.cuh"
#include "common/quad.cuh"
#include "common/types.cuh"
#include "gemm/fusion.cuh"

namespace quern {

/// Stores 16 rows by `width` columns of the product, of which a warp's threads hold sums as wgmma
/// leaves them; `whole`: all columns exist.
template <class Problem, class Fusion, int width, bool whole>
struct WgmmaStore {
  using Args = typename Fusion::Args;
  using Out = typename Problem::Output;
  static constexpr int kN = Problem::n, kWidth = width, kSums = width / 2;
  static constexpr bool kWhole = whole;
  static constexpr int kParts = Fusion::kParts;
  static constexpr int kColumns = kN / kParts;           // of the result
  static constexpr int kGroups = kWidth / (8 * kParts);  // of 8 columns of it
  static_assert(kWidth % (16 * kParts) == 0, "four lanes store 64 bytes of a row");

  /// From row `row0` and column `column0` of the product on.
  static __device__ __forceinline__ void run(const Args& args, i64 row0, int column0,
                                             const float (&sum)[kSums]) {
    if constexpr (!Fusion::kFused) {
      store_sums(args, row0, column0, sum);
    } else if constexpr (Fusion::kLeavesY) {
      store_pairs(args, row0, column0 / kParts, sum);
    } else {
      store_groups(args, row0, column0 / kParts, sum);
    }
  }

 private:
  static __device__ __forceinline__ void store_sums(const Args& args, i64 row0, int column0,
                                                    const float (&sum)[kSums]) {
    const int lane = static_cast<int>(threadIdx.x % kWarp), t = lane % 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const i64 row = row0 + lane / 4 + 8 * r;
      Out* y = static_cast<Out*>(args.y) + row * kN;
      const bool exists = row < args.m;
      if constexpr (sizeof(Out) == 2) {
        // Four lanes hold 2 columns of each of 4 groups of 8; after the exchange, a group each.
#pragma unroll
        for (int j = 0; j < kWidth / 8; j += 4) {
          u32 v[4];
#pragma unroll
          for (int q = 0; q < 4; ++q)
            v[q] = j + q < kWidth / 8
                       ? pack2<Out>(sum[(j + q) * 4 + 2 * r], sum[(j + q) * 4 + 2 * r + 1])
                       : 0u;
          quad_transpose(v, t);
          const int column = column0 + (j + t) * 8;
          if (exists && (kWidth % 32 == 0 || j + t < kWidth / 8) && (kWhole || column < kN))
            *reinterpret_cast<Bytes<16>*>(y + column) = {{v[0], v[1], v[2], v[3]}};
        }
      } else {
#pragma unroll
        for (int j = 0; j < kWidth / 8; j += 2) {
          float v[4] = {sum[j * 4 + 2 * r], sum[j * 4 + 2 * r + 1], sum[j * 4 + 4 + 2 * r],
                        sum[j * 4 + 4 + 2 * r + 1]};
          quad_pairs(v, t);
          const int column = column0 + (j + t / 2) * 8 + t % 2 * 4;
          if (exists && (kWhole || column < kN))
            store_vec<Out, 4>(y + column, {v[0], v[1], v[2], v[3]});
        }
      }
    }
  }

  /// The sums behind columns c and c + 1 of group j that this lane holds.
  static __device__ __forceinline__ void pair_of(const float (&sum)[kSums], int j, int r,
                                                 float (&parts)[2 * kParts]) {
#pragma unroll
    for (int c = 0; c < 2; ++c)
#pragma unroll
      for (int part = 0; part < kParts; ++part)
        parts[c * kParts + part] = sum[(j * kParts + part) * 4 + 2 * r + c];
  }

  /// store() where the expression leaves its result in registers: it only reads, so that rows and
  /// columns that do not exist read others that do.
  static __device__ __forceinline__ void store_pairs(const Args& args, i64 row0, int column0,
                                                     const float (&sum)[kSums]) {
    const int lane = static_cast<int>(threadIdx.x % kWarp), t = lane % 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const i64 row = row0 + lane / 4 + 8 * r;
      const bool exists = row < args.m;
      const i64 read_row = exists ? row : args.m - 1;
      Out* y = static_cast<Out*>(args.y) + row * kColumns;
      const auto pair = [&](int j, float(&out)[2]) {
        int column = column0 + j * 8 + t * 2;
        if constexpr (!kWhole) column = min(column, kColumns - 2);
        float parts[2 * kParts];
        pair_of(sum, j, r, parts);
        Fusion::template apply<2>(args, read_row, column, parts, out);
      };
      if constexpr (sizeof(Out) == 2) {
#pragma unroll
        for (int j = 0; j < kGroups; j += 4) {
          u32 v[4];
#pragma unroll
          for (int q = 0; q < 4; ++q) {
            float out[2] = {};
            if (j + q < kGroups) pair(j + q, out);
            v[q] = pack2<Out>(out[0], out[1]);
          }
          quad_transpose(v, t);
          const int column = column0 + (j + t) * 8;
          if (exists && (kGroups % 4 == 0 || j + t < kGroups) && (kWhole || column < kColumns))
            *reinterpret_cast<Bytes<16>*>(y + column) = {{v[0], v[1], v[2], v[3]}};
        }
      } else {
#pragma unroll
        for (int j = 0; j < kGroups; j += 2) {
          float low[2], high[2];
          pair(j, low);
          pair(j + 1, high);
          float v[4] = {low[0], low[1], high[0], high[1]};
          quad_pairs(v, t);
          const int column = column0 + (j + t / 2) * 8 + t % 2 * 4;
          if (exists && (kWhole || column < kColumns))
            store_vec<Out, 4>(y + column, {v[0], v[1], v[2], v[3]});
        }
      }
    }
  }

  /// Groups that a lane has of four times as many, where the expression stores its results. An
  /// expression that reads what it then writes (a residual) is called with all of them at once: its
  /// loads are then on their way together, and not each behind the stores of the one before.
  static constexpr int run_of(int run) {
    return run == 1 || (kGroups % (4 * run) == 0 && kColumns % (8 * run) == 0) ? run
                                                                               : run_of(run / 2);
  }
  static constexpr int kRun = run_of(kParts == 1 ? 4 : 2);

  /// store() where the expression stores its results: 8 neighbours of a row at once, or more.
  static __device__ __forceinline__ void store_groups(const Args& args, i64 row0, int column0,
                                                      const float (&sum)[kSums]) {
    const int lane = static_cast<int>(threadIdx.x % kWarp), t = lane % 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const i64 row = row0 + lane / 4 + 8 * r;
#pragma unroll
      for (int j = 0; j < kGroups; j += 4 * kRun) {
        float parts[kRun * 8 * kParts];
#pragma unroll
        for (int i = 0; i < kRun; ++i)
#pragma unroll
          for (int part = 0; part < kParts; ++part)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              u32 v[4];
#pragma unroll
              for (int q = 0; q < 4; ++q) {
                const int group = j + q * kRun + i;
                v[q] = group < kGroups
                           ? __float_as_uint(sum[(group * kParts + part) * 4 + 2 * r + c])
                           : 0u;
              }
              quad_transpose(v, t);
#pragma unroll
              for (int q = 0; q < 4; ++q)
                parts[(8 * i + 2 * q + c) * kParts + part] = __uint_as_float(v[q]);
            }
        const int group = j + t * kRun, column = column0 + group * 8;
        if (row < args.m && (kGroups % 4 == 0 || group < kGroups) && (kWhole || column < kColumns))
          Fusion::template apply<8 * kRun>(args, row, column, parts);
      }
    }
  }
};

}  // namespace quern
