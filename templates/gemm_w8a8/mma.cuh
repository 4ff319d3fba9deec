// y[m, n] = scales * sum over k of x[m, k] * w[n, k] in 8 bits on the tensor cores of sm_80 (s8)
// and sm_89 (e4m3) and later (mma.sync).
//
//   x [m, k], w [n, k]: s8 or e4m3, row-major; y [m, n]: bf16, f16 or fp32. Scales: scales.cuh.
//   m is an argument, n and k are compile-time constants; any m, n, k >= 1: what lies outside the
//   matrices is filled with zeros on its way to shared memory and not stored.
//
// A block computes tile_m x tile_n of y over its share of k. Tiles of x and w travel through a ring
// of `stages` in shared memory (cp.async), whose 16-byte chunks are permuted by XOR with the row so
// that both the copies and ldmatrix are free of bank conflicts:
//
//   byte of (row, column) = row * tile_k + (column / 16 ^ key(row)) * 16 + column % 16
//   key(row) = row % 8 where a row has 8 chunks, row / 2 % 4 where it has 4
//
// Tunables (Config)
//   tile_m, tile_n, tile_k  the block's tile, elements; tile_k is 128 where scales are in blocks
//   warps_m, warps_n        warps along m and n; each computes tile_m / warps_m x tile_n / warps_n
//   stages                  depth of the ring
//   split_k                 blocks that share an output tile; each leaves its sums in the workspace
//                           and the last to arrive adds them in order of k, so results do not
//                           depend on timing
//   group_m                 tiles along m that are visited together, so that w is found in L2
//
// Tiles of w are requested before griddepcontrol.wait: weights do not depend on the previous
// kernel.
//
// Sources: PTX ISA 9.0, "mma.m16n8k32", "ldmatrix", "cp.async".
#pragma once
#include "common/grid.cuh"
#include "common/memory.cuh"
#include "common/mma.cuh"
#include "common/mma8.cuh"
#include "common/types.cuh"
#include "common/workspace_args.h"
#include "gemm_w8a8/scales.cuh"

namespace quern {

template <class Problem, class Config>
struct MmaW8A8 {
  using T = typename Problem::Input;
  using Out = typename Problem::Output;
  using Sum = typename SumOf8<T>::type;
  using Scale = Scales<Problem>;
  static constexpr int kN = Problem::n, kK = Problem::k;
  static constexpr int kTileM = Config::tile_m, kTileN = Config::tile_n, kTileK = Config::tile_k;
  static constexpr int kWarpsM = Config::warps_m, kWarpsN = Config::warps_n;
  static constexpr int kThreads = kWarpsM * kWarpsN * kWarp;
  static constexpr int kStages = Config::stages, kSplitK = Config::split_k;
  static constexpr int kGroupM = Config::group_m;
  static constexpr int kVec = w8a8_vector_bytes(kK);  // bytes per copy
  static constexpr int kWarpTileM = kTileM / kWarpsM, kWarpTileN = kTileN / kWarpsN;
  static constexpr int kBlocksM = kWarpTileM / 16, kBlocksN = kWarpTileN / 8;  // mma per warp
  static constexpr int kTilesN = ceil_div(kN, kTileN), kTilesK = ceil_div(kK, kTileK);
  static constexpr int kBytesX = kTileM * kTileK, kBytesW = kTileN * kTileK;
  static constexpr int kStageBytes = kBytesX + kBytesW;

  static_assert(kWarpTileM % 16 == 0, "a warp computes whole 16-row fragments of x");
  static_assert(kWarpTileN % 16 == 0, "a warp loads w in pairs of 8-column fragments");
  static_assert(kTileK == 64 || kTileK == 128, "tile_k is 64 or 128");
  static_assert(!Scale::kBlocks || kTileK == kScaleBlock, "a tile has one block of scales along k");
  static_assert(!Scale::kBlocks || kScaleBlock % kWarpTileN == 0 || kWarpTileN % kScaleBlock == 0,
                "a warp's columns start at a block of scales or lie in one");
  static_assert(!Scale::kBlocks || kWarpTileN <= kScaleBlock, "a warp's columns share a scale");
  static_assert(kStages >= 2, "a ring has 2 or more stages");

  using Sums = Sum[kBlocksM][kBlocksN][4];

  static __device__ __forceinline__ u32 offset(u32 row, u32 column) {
    const u32 key = kTileK == 128 ? row % 8 : row / 2 % 4;
    return row * kTileK + ((column / 16) ^ key) * 16 + column % 16;
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
    constexpr int kUnroll = kVec == 16 ? ceil_div(rows, kPass) : 4;
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
                             ? first + static_cast<u32>(below * kTileK)
                             : to + offset(static_cast<u32>(row + below), static_cast<u32>(column));
      if constexpr (kVec == 1)  // too small for cp.async; the barrier before use publishes it
        store_shared(target, valid ? *reinterpret_cast<const u8*>(source) : static_cast<u8>(0));
      else
        copy_async<kVec>(target, source, valid);
    }
  }

  /// Fragments of the warp's part of both tiles at columns k0..k0+31.
  static __device__ __forceinline__ void load_fragments(u32 x_tile, u32 w_tile, int k0, u32 lane,
                                                        u32 (&a)[kBlocksM][4],
                                                        u32 (&b)[kBlocksN][2]) {
    // Matrices of x: rows 0-7, rows 8-15, then the same at k + 16.
#pragma unroll
    for (int i = 0; i < kBlocksM; ++i)
      ldmatrix_x4(a[i], x_tile + offset(static_cast<u32>(i * 16) + lane % 16,
                                        static_cast<u32>(k0) + lane / 16 * 16));
      // Matrices of w: columns 0-7 at k and k + 16, then columns 8-15.
#pragma unroll
    for (int j = 0; j < kBlocksN; j += 2) {
      u32 r[4];
      ldmatrix_x4(r, w_tile + offset(static_cast<u32>(j * 8) + lane / 16 * 8 + lane % 8,
                                     static_cast<u32>(k0) + lane / 8 % 2 * 16));
      b[j][0] = r[0];
      b[j][1] = r[1];
      b[j + 1][0] = r[2];
      b[j + 1][1] = r[3];
    }
  }

  /// Adds the product of one stage. Fragments are loaded one step ahead where registers allow.
  static __device__ __forceinline__ void multiply(u32 x_tile, u32 w_tile, u32 lane, Sums& sum) {
    // Where e4m3 is unpacked to f16, fragments take twice the registers.
    constexpr int kBuffers = kBlocksM * kBlocksN >= 32 || !SumOf8<T>::kExact ? 1 : 2;
    u32 a[kBuffers][kBlocksM][4], b[kBuffers][kBlocksN][2];
    if constexpr (kBuffers == 2) load_fragments(x_tile, w_tile, 0, lane, a[0], b[0]);
#pragma unroll
    for (int k0 = 0; k0 < kTileK; k0 += 32) {
      const int now = k0 / 32 % kBuffers;
      const int load = k0 + (kBuffers - 1) * 32, to = load / 32 % kBuffers;
      if (load < kTileK) load_fragments(x_tile, w_tile, load, lane, a[to], b[to]);
#pragma unroll
      for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
        for (int j = 0; j < kBlocksN; ++j) mma_m16n8k32<T>(sum[i][j], a[now][i], b[now][j]);
    }
  }

  /// Adds the product of one stage times the scales of its blocks.
  static __device__ __forceinline__ void multiply_scaled(const GemmW8A8Args& args, u32 x_tile,
                                                         u32 w_tile, i64 row0, int column0,
                                                         int block, u32 lane, Sums& sum) {
    const float w_scale = Scale::of_w_block(args, column0, block);
    float scale[kBlocksM][2];
#pragma unroll
    for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        scale[i][half] = Scale::of_x_block(args, row0 + i * 16 + half * 8 + lane / 4, block);
    Sums part = {};
    multiply(x_tile, w_tile, lane, part);
#pragma unroll
    for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
      for (int j = 0; j < kBlocksN; ++j)
#pragma unroll
        for (int c = 0; c < 4; ++c)
          sum[i][j][c] = fmaf(part[i][j][c], scale[i][c / 2] * w_scale, sum[i][j][c]);
  }

  static __device__ __forceinline__ void store_pair(const GemmW8A8Args& args, i64 row, int column,
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

  static __device__ __forceinline__ void store_tile(const GemmW8A8Args& args, i64 row0, int column0,
                                                    u32 lane, const Sums& sum) {
    float x_scale[kBlocksM][2];
    if constexpr (!Scale::kBlocks)
#pragma unroll
      for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          x_scale[i][half] = Scale::of_x(args, row0 + i * 16 + half * 8 + lane / 4);
#pragma unroll
    for (int j = 0; j < kBlocksN; ++j) {
      const int column = column0 + j * 8 + static_cast<int>(lane % 4 * 2);
      float w_scale[2];
      if constexpr (!Scale::kBlocks)
#pragma unroll
        for (int c = 0; c < 2; ++c) w_scale[c] = Scale::of_w(args, column + c);
#pragma unroll
      for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float value[2];
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            value[c] = static_cast<float>(sum[i][j][half * 2 + c]);
            if constexpr (!Scale::kBlocks) value[c] *= x_scale[i][half] * w_scale[c];
          }
          store_pair(args, row0 + i * 16 + half * 8 + lane / 4, column, value[0], value[1]);
        }
    }
  }

  /// Leaves this block's sums in the workspace; in the last block of the tile to arrive, replaces
  /// them by the sums of all blocks and returns true. Sums lie as each thread holds them,
  /// [tile][split][fragment][thread] of four, so every access is whole.
  static __device__ __forceinline__ bool add_splits(const GemmW8A8Args& args, int tile, int split,
                                                    u32* flag, Sums& sum) {
    constexpr i64 kPart = static_cast<i64>(kTileM) * kTileN;
    Sum* parts =
        reinterpret_cast<Sum*>(static_cast<unsigned char*>(args.workspace) + kCounterBytes) +
        tile * kSplitK * kPart + threadIdx.x * 4;
#pragma unroll
    for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
      for (int j = 0; j < kBlocksN; ++j) {
        const Sum(&s)[4] = sum[i][j];
        store_vec<Sum, 4>(parts + split * kPart + (i * kBlocksN + j) * kThreads * 4,
                          {s[0], s[1], s[2], s[3]});
      }
    if (!last_block(static_cast<u32*>(args.workspace) + tile, kSplitK, flag)) return false;
#pragma unroll 1
    for (int other = 0; other < kSplitK; ++other)
#pragma unroll
      for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
        for (int j = 0; j < kBlocksN; ++j) {
          const auto v =
              load_vec<Sum, 4>(parts + other * kPart + (i * kBlocksN + j) * kThreads * 4);
#pragma unroll
          for (int c = 0; c < 4; ++c)
            sum[i][j][c] = other == 0 ? v.element[c] : sum[i][j][c] + v.element[c];
        }
    return true;
  }

  static __device__ __forceinline__ void run(const GemmW8A8Args& args, unsigned char* smem) {
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
        load_tile<kTileN, kN % kTileN == 0>(ring + stage * kStageBytes + kBytesX, w, row, column,
                                            column0, kN, tile_k * kTileK);
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
    int stage = 0;
    for (int tile_k = begin; tile_k < end; ++tile_k) {
      copy_async_wait<kStages - 2>();
      __syncthreads();  // this stage has landed, and all warps are done with the one before it
      const int next = stage == 0 ? kStages - 1 : stage - 1;
      load_x(tile_k + kStages - 1, next);
      load_w(tile_k + kStages - 1, next);
      copy_async_commit();  // an empty group too: waiting counts groups
      const u32 at = ring + stage * kStageBytes;
      const u32 x_tile = at + warp_row * kTileK, w_tile = at + kBytesX + warp_column * kTileK;
      if constexpr (Scale::kBlocks)
        multiply_scaled(args, x_tile, w_tile, row0 + warp_row, column0 + warp_column, tile_k, lane,
                        sum);
      else
        multiply(x_tile, w_tile, lane, sum);
      stage = stage == kStages - 1 ? 0 : stage + 1;
    }

    if constexpr (kSplitK > 1) {
      u32* flag = reinterpret_cast<u32*>(smem + kStages * kStageBytes);
      if (!add_splits(args, tile, split, flag, sum)) return;
    }
    store_tile(args, row0 + warp_row, column0 + warp_column, lane, sum);
  }
};

}  // namespace quern
