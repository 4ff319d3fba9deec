// y[m, n] = sum over k of x[m, k] * w[n, k] on the tensor cores of sm_80 and later (mma.sync).
//
//   x [m, k], w [n, k], y [m, n]: row-major; bf16 or f16 in, the same or fp32 out; fp32 sums.
//   m is an argument, n and k are compile-time constants; any m, n, k >= 1: what lies outside the
//   matrices is filled with zeros on its way to shared memory and not stored.
//
// A block computes tile_m x tile_n of y over its share of k. Tiles of x and w travel through a ring
// of `stages` in shared memory (cp.async), whose 16-byte chunks are permuted by XOR with the row so
// that both the copies and ldmatrix are free of bank conflicts:
//
//   byte of (row, column) = row * tile_k * 2 + (column / 8 ^ key(row)) * 16 + column % 8 * 2
//   key(row) = row % 8 where a row has 8 chunks or more, row / 2 % 4 where it has 4
//
// Tunables (Config)
//   tile_m, tile_n, tile_k  the block's tile, elements
//   warps_m, warps_n        warps along m and n; each computes tile_m / warps_m x tile_n / warps_n
//   stages                  depth of the ring
//   split_k                 blocks that share an output tile; each leaves fp32 sums in the
//   workspace
//                           and the last to arrive adds them in order of k, so results do not
//                           depend on timing
//   group_m                 tiles along m that are visited together, so that w is found in L2
//
// Tiles of w are requested before griddepcontrol.wait: weights do not depend on the previous
// kernel.
//
// Sources: PTX ISA 9.0, "mma.m16n8k16", "ldmatrix", "cp.async".
#pragma once
#include "common/grid.cuh"
#include "common/memory.cuh"
#include "common/mma.cuh"
#include "common/types.cuh"
#include "common/workspace_args.h"
#include "gemm/fusion.cuh"
#include "gemm/gemm_args.h"

namespace quern {

template <class Problem, class Config, class Fusion = StoreSums<GemmArgs>>
struct MmaGemm {
  using Args = typename Fusion::Args;
  using T = typename Problem::Input;
  using Out = typename Problem::Output;
  static constexpr int kN = Problem::n, kK = Problem::k;
  static constexpr int kTileM = Config::tile_m, kTileN = Config::tile_n, kTileK = Config::tile_k;
  static constexpr int kWarpsM = Config::warps_m, kWarpsN = Config::warps_n;
  static constexpr int kThreads = kWarpsM * kWarpsN * kWarp;
  static constexpr int kStages = Config::stages, kSplitK = Config::split_k;
  static constexpr int kGroupM = Config::group_m, kParts = Fusion::kParts;
  static constexpr int kVec = gemm_vector_elements(kK);  // elements per copy
  static constexpr int kWarpTileM = kTileM / kWarpsM, kWarpTileN = kTileN / kWarpsN;
  static constexpr int kBlocksM = kWarpTileM / 16, kBlocksN = kWarpTileN / 8;  // mma per warp
  static constexpr int kTilesN = ceil_div(kN, kTileN), kTilesK = ceil_div(kK, kTileK);
  static constexpr int kBytesX = kTileM * kTileK * 2, kBytesW = kTileN * kTileK * 2;
  static constexpr int kStageBytes = kBytesX + kBytesW;
  /// With one row of tiles every weight is read once, so it need not stay in L2.
  static constexpr bool kStreamW = kTileM == 16;

  static_assert(kWarpTileM % 16 == 0, "a warp computes whole 16-row fragments of x");
  static_assert(kWarpTileN % 16 == 0, "a warp loads w in pairs of 8-column fragments");
  static_assert(kTileK == 32 || kTileK == 64 || kTileK == 128, "tile_k is 32, 64 or 128");
  static_assert(kStages >= 2, "a ring has 2 or more stages");
  static_assert(!Fusion::kNormalises || kTileM == 16, "16 rows of x are normalised");

  using Sums = float[kBlocksM][kBlocksN][4];

  static __device__ __forceinline__ u32 offset(u32 row, u32 column) {
    const u32 key = kTileK >= 64 ? row % 8 : row / 2 % 4;
    return row * (kTileK * 2) + ((column / 8) ^ key) * 16 + column % 8 * 2;
  }

  static constexpr int kPerRow = kTileK / kVec;     // copies of a tile's row
  static constexpr int kPass = kThreads / kPerRow;  // rows that the block copies at once
  static_assert(kThreads % kPerRow == 0, "the block copies whole rows of a tile at once");

  /// Requests columns k0.. of `rows` rows of a matrix [limit, kK] into a tile. `from` is this
  /// thread's first piece at column 0, in the tile's row `row` and column `column`; `row0` is the
  /// tile's first row; with `whole`, all of the rows exist. A copy that is not valid reads nothing,
  /// so its address may lie anywhere.
  template <int rows, bool whole>
  static __device__ __forceinline__ void load_tile(u32 to, const T* from, int row, int column,
                                                   int row0, int limit, int k0) {
    constexpr int kUnroll = kVec == 8 ? ceil_div(rows, kPass) : 4;
    from += k0;
    const u32 first = to + offset(static_cast<u32>(row), static_cast<u32>(column));
#pragma unroll kUnroll
    for (int i = 0; i < ceil_div(rows, kPass); ++i) {
      const int below = i * kPass;
      if (rows % kPass != 0 && row + below >= rows) break;
      const bool valid =
          (whole || row0 + row + below < limit) && (kK % kTileK == 0 || k0 + column < kK);
      const T* source = from + static_cast<i64>(below) * kK;
      // Rows that are a multiple of 8 apart have the same key.
      const u32 target = kPass % 8 == 0
                             ? first + static_cast<u32>(below * kTileK * 2)
                             : to + offset(static_cast<u32>(row + below), static_cast<u32>(column));
      if constexpr (kVec == 1) {  // too small for cp.async; the barrier before use publishes it
        store_shared(target, valid ? source->bits : static_cast<u16>(0));
      } else {
        copy_async<kVec * 2>(target, source, valid);
      }
    }
  }

  /// Fragments of the warp's part of both tiles at columns k0..k0+15.
  static __device__ __forceinline__ void load_fragments(u32 x_tile, u32 w_tile, int k0, u32 lane,
                                                        u32 (&a)[kBlocksM][4],
                                                        u32 (&b)[kBlocksN][2]) {
    // Matrices of x: rows 0-7, rows 8-15, then the same at k + 8.
#pragma unroll
    for (int i = 0; i < kBlocksM; ++i)
      ldmatrix_x4(a[i], x_tile + offset(static_cast<u32>(i * 16) + lane % 16,
                                        static_cast<u32>(k0) + lane / 16 * 8));
      // Matrices of w: columns 0-7 at k and k + 8, then columns 8-15.
#pragma unroll
    for (int j = 0; j < kBlocksN; j += 2) {
      u32 r[4];
      ldmatrix_x4(r, w_tile + offset(static_cast<u32>(j * 8) + lane / 16 * 8 + lane % 8,
                                     static_cast<u32>(k0) + lane / 8 % 2 * 8));
      b[j][0] = r[0];
      b[j][1] = r[1];
      b[j + 1][0] = r[2];
      b[j + 1][1] = r[3];
    }
  }

  /// For an x that is normalised: this lane's elements of gamma for one tile of k, and its share of
  /// the sums of squares of rows g and g + 8 of x.
  struct Norm {
    u32 gamma[kTileK / 16][2];
    float squares[2];
  };

  static __device__ __forceinline__ void load_gamma(const Args& args, int tile_k, u32 lane,
                                                    Norm& norm) {
    if constexpr (Fusion::kNormalises) {
      const T* gamma = static_cast<const T*>(args.gamma);
#pragma unroll
      for (int i = 0; i < kTileK / 16; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int k = tile_k * kTileK + i * 16 + half * 8 + static_cast<int>(lane % 4) * 2;
          // What lies past the end meets zeros.
          norm.gamma[i][half] = *reinterpret_cast<const u32*>(gamma + min(k, kK - 2));
        }
    }
  }

  static __device__ __forceinline__ void take_gamma(const Norm& from, Norm& to) {
    if constexpr (Fusion::kNormalises)
#pragma unroll
      for (int i = 0; i < kTileK / 16; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) to.gamma[i][half] = from.gamma[i][half];
  }

  /// Takes the squares of 16 columns of x and multiplies them by gamma.
  static __device__ __forceinline__ void normalise(Norm& norm, int step, u32 (&a)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float low, high;
      unpack2<T>(a[i], low, high);
      norm.squares[i % 2] = fmaf(high, high, fmaf(low, low, norm.squares[i % 2]));
      a[i] = multiply_bf16x2(a[i], norm.gamma[step][i / 2]);
    }
  }

  /// Scales the sums of rows g and g + 8.
  static __device__ __forceinline__ void scale(float (&squares)[2], Sums& sum) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      squares[r] += __shfl_xor_sync(0xffffffffu, squares[r], 1);
      squares[r] += __shfl_xor_sync(0xffffffffu, squares[r], 2);
      const float inverse = rsqrtf(squares[r] * (1.0f / kK) + Fusion::kEps);
#pragma unroll
      for (int j = 0; j < kBlocksN; ++j) {
        sum[0][j][2 * r] *= inverse;
        sum[0][j][2 * r + 1] *= inverse;
      }
    }
  }

  /// Adds the product of one stage. Fragments are loaded one step ahead where registers allow.
  static __device__ __forceinline__ void multiply(u32 x_tile, u32 w_tile, u32 lane, Norm& norm,
                                                  Sums& sum) {
    constexpr int kBuffers = kBlocksM * kBlocksN >= 32 ? 1 : 2;
    u32 a[kBuffers][kBlocksM][4], b[kBuffers][kBlocksN][2];
    if constexpr (kBuffers == 2) load_fragments(x_tile, w_tile, 0, lane, a[0], b[0]);
#pragma unroll
    for (int k0 = 0; k0 < kTileK; k0 += 16) {
      const int now = k0 / 16 % kBuffers;
      const int load = k0 + (kBuffers - 1) * 16, to = load / 16 % kBuffers;
      if (load < kTileK) load_fragments(x_tile, w_tile, load, lane, a[to], b[to]);
      if constexpr (Fusion::kNormalises) normalise(norm, k0 / 16, a[now][0]);
#pragma unroll
      for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
        for (int j = 0; j < kBlocksN; ++j) mma_m16n8k16<T>(sum[i][j], a[now][i], b[now][j]);
    }
  }

  static __device__ __forceinline__ void store_pair(const Args& args, i64 row, int column,
                                                    float first, float second) {
    if (row >= args.m) return;
    Out* y = static_cast<Out*>(args.y) + row * kN + column;
    if constexpr (kN % 2 == 0) {
      if (column < kN) store_vec<Out, 2>(y, {from_f32<Out>(first), from_f32<Out>(second)});
    } else {
      if (column < kN) y[0] = from_f32<Out>(first);
      if (column + 1 < kN) y[1] = from_f32<Out>(second);
    }
  }

  /// Elements `column` and the next of the result; sums of the parts, as Fusion::apply has them.
  static __device__ __forceinline__ void store_fused(const Args& args, i64 row, int column,
                                                     const float (&sum)[2 * kParts]) {
    constexpr int columns = kN / kParts;
    if (row >= args.m) return;
    if constexpr (columns % 2 == 0) {
      if (column < columns) Fusion::template apply<2>(args, row, column, sum);
    } else {
      const float first[1] = {sum[0]}, second[1] = {sum[1]};
      if (column < columns) Fusion::template apply<1>(args, row, column, first);
      if (column + 1 < columns) Fusion::template apply<1>(args, row, column + 1, second);
    }
  }

  static __device__ __forceinline__ void store_tile_fused(const Args& args, i64 row0, int column0,
                                                          u32 lane, const Sums& sum) {
#pragma unroll
    for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
      for (int j = 0; j < kBlocksN; j += kParts)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float parts[2 * kParts];
#pragma unroll
          for (int c = 0; c < 2; ++c)
#pragma unroll
            for (int part = 0; part < kParts; ++part)
              parts[c * kParts + part] = sum[i][j + part][2 * r + c];
          store_fused(args, row0 + i * 16 + static_cast<int>(lane / 4) + 8 * r,
                      (column0 + j * 8) / kParts + static_cast<int>(lane % 4 * 2), parts);
        }
  }

  static __device__ __forceinline__ void store_tile(const Args& args, i64 row0, int column0,
                                                    u32 lane, const Sums& sum) {
#pragma unroll
    for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
      for (int j = 0; j < kBlocksN; ++j) {
        const i64 row = row0 + i * 16 + static_cast<int>(lane / 4);
        const int column = column0 + j * 8 + static_cast<int>(lane % 4 * 2);
        store_pair(args, row, column, sum[i][j][0], sum[i][j][1]);
        store_pair(args, row + 8, column, sum[i][j][2], sum[i][j][3]);
      }
  }

  /// Leaves this block's sums in the workspace; in the last block of the tile to arrive, replaces
  /// them by the sums of all blocks and returns true. Sums lie as each thread holds them,
  /// [tile][split][fragment][thread] of four floats, so every access is whole.
  static __device__ __forceinline__ bool add_splits(const Args& args, int tile, int split,
                                                    u32* flag, Norm& norm, Sums& sum) {
    constexpr i64 kSumsPart = static_cast<i64>(kTileM) * kTileN;
    constexpr i64 kPart = kSumsPart + (Fusion::kNormalises ? kThreads * 4 : 0);
    float* parts =
        reinterpret_cast<float*>(static_cast<unsigned char*>(args.workspace) + kCounterBytes) +
        tile * kSplitK * kPart + threadIdx.x * 4;
#pragma unroll
    for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
      for (int j = 0; j < kBlocksN; ++j) {
        const float(&s)[4] = sum[i][j];
        store_vec<float, 4>(parts + split * kPart + (i * kBlocksN + j) * kThreads * 4,
                            {s[0], s[1], s[2], s[3]});
      }
    if constexpr (Fusion::kNormalises)
      store_vec<float, 4>(parts + split * kPart + kSumsPart,
                          {norm.squares[0], norm.squares[1], 0.0f, 0.0f});
    if (!last_block(static_cast<u32*>(args.workspace) + tile, kSplitK, flag)) return false;
    if constexpr (Fusion::kNormalises) {
      norm.squares[0] = norm.squares[1] = 0.0f;
#pragma unroll 1
      for (int other = 0; other < kSplitK; ++other) {
        const auto v = load_vec<float, 4>(parts + other * kPart + kSumsPart);
        norm.squares[0] += v.element[0];
        norm.squares[1] += v.element[1];
      }
    }
#pragma unroll 1
    for (int other = 0; other < kSplitK; ++other)
#pragma unroll
      for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
        for (int j = 0; j < kBlocksN; ++j) {
          const auto v =
              load_vec<float, 4>(parts + other * kPart + (i * kBlocksN + j) * kThreads * 4);
#pragma unroll
          for (int c = 0; c < 4; ++c)
            sum[i][j][c] = other == 0 ? v.element[c] : sum[i][j][c] + v.element[c];
        }
    return true;
  }

  static __device__ __forceinline__ void run(const Args& args, unsigned char* smem) {
    const u32 lane = threadIdx.x % kWarp;
    const int warp = static_cast<int>(threadIdx.x / kWarp);
    const int warp_row = warp / kWarpsN * kWarpTileM, warp_column = warp % kWarpsN * kWarpTileN;
    const int m = static_cast<int>(args.m);

    const int tile = static_cast<int>(blockIdx.x) / kSplitK;
    const int split = static_cast<int>(blockIdx.x) % kSplitK;
    const int tiles_m = ceil_div(m, kTileM);
    const int first_m = tile / (kGroupM * kTilesN) * kGroupM;
    const int group = min(tiles_m - first_m, kGroupM), in_group = tile % (kGroupM * kTilesN);
    const int row0 = (first_m + in_group % group) * kTileM, column0 = in_group / group * kTileN;
    const int begin = split * kTilesK / kSplitK, end = (split + 1) * kTilesK / kSplitK;

    // This thread's piece of a tile's first rows, in shared memory and in x and w.
    const int row = static_cast<int>(threadIdx.x / kPerRow);
    const int column = static_cast<int>(threadIdx.x % kPerRow * kVec);
    const T* x = static_cast<const T*>(args.x) + static_cast<i64>(row0 + row) * kK + column;
    const T* w = static_cast<const T*>(args.w) + static_cast<i64>(column0 + row) * kK + column;
    const u32 ring = shared_address(smem);
    const auto load_x = [&](int tile_k, int stage) {
      if (tile_k < end)
        load_tile<kTileM, false>(ring + stage * kStageBytes, x, row, column, row0, m,
                                        tile_k * kTileK);
    };
    const auto load_w = [&](int tile_k, int stage) {
      if (tile_k < end)
        load_tile<kTileN, kN % kTileN == 0>(ring + stage * kStageBytes + kBytesX, w, row,
                                                      column, column0, kN, tile_k * kTileK);
    };

    pdl_launch_dependents();
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) load_w(begin + s, s);
    pdl_wait();
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) {
      load_x(begin + s, s);
      copy_async_commit();
    }

    Sums sum = {};
    Norm norm, next_norm;
    norm.squares[0] = norm.squares[1] = 0.0f;
    load_gamma(args, begin, lane, norm);
    int stage = 0;
    for (int tile_k = begin; tile_k < end; ++tile_k) {
      copy_async_wait<kStages - 2>();
      __syncthreads();  // this stage has landed, and all warps are done with the one before it
      const int next = stage == 0 ? kStages - 1 : stage - 1;
      load_x(tile_k + kStages - 1, next);
      load_w(tile_k + kStages - 1, next);
      copy_async_commit();  // an empty group too: waiting counts groups
      const u32 at = ring + stage * kStageBytes;
      load_gamma(args, min(tile_k + 1, kTilesK - 1), lane, next_norm);
      multiply(at + warp_row * kTileK * 2, at + kBytesX + warp_column * kTileK * 2, lane, norm,
               sum);
      take_gamma(next_norm, norm);
      stage = stage == kStages - 1 ? 0 : stage + 1;
    }

    if constexpr (kSplitK > 1) {
      u32* flag = reinterpret_cast<u32*>(smem + kStages * kStageBytes);
      if (!add_splits(args, tile, split, flag, norm, sum)) return;
    }
    if constexpr (Fusion::kNormalises) scale(norm.squares, sum);
    if constexpr (Fusion::kFused) {
      store_tile_fused(args, row0 + warp_row, column0 + warp_column, lane, sum);
    } else {
      store_tile(args, row0 + warp_row, column0 + warp_column, lane, sum);
    }
  }
};

}  // namespace quern
