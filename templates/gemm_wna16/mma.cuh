// y[m, n] = x[m, k] · w[n, k]ᵀ with weights of 4 or 8 bits on the tensor cores of sm_80 and later
// (mma.sync), for tens to hundreds of rows of x.
//
//   x [m, k], y [m, n]: row-major; bf16 or f16 in, the same or fp32 out; fp32 sums.
//   codes, scales, zeros: kernel order (gemm_wna16_args.h). m is an argument.
//
// A block computes tile_n rows of w by tile_m tokens over its share of k. w is the A operand: each
// warp streams chunks of its own rows through a ring in shared memory and makes fragments of them
// in registers. x is the B operand: the block's tile of it travels through the same ring in blocks
// of 64 columns, rows of 128 bytes, whose 16-byte pieces are permuted by XOR with the row so that
// copies and ldmatrix are free of bank conflicts.
//
// Scales multiply the fp32 sums of their group where there are at most 16 tokens, and the fragments
// (rounding them to 16 bits once more) where that is cheaper.
//
// Tunables (Config)
//   tile_m      tokens of a block
//   tile_n      rows of w of a block
//   warps_n     warps of a block, each with tile_n / warps_n rows
//   units       units of 512 bytes that a row tile advances at a stage
//   stages      depth of the ring
//   split_k     blocks that share an output tile; each leaves fp32 sums in the workspace and the
//               last to arrive adds them in order of k, so results do not depend on timing
//
// Weights are requested before griddepcontrol.wait: they do not depend on the previous kernel.
#pragma once
#include "common/grid.cuh"
#include "common/memory.cuh"
#include "common/mma.cuh"
#include "common/types.cuh"
#include "common/workspace_args.h"
#include "gemm_wna16/chunk.cuh"
#include "gemm_wna16/dequantise.cuh"
#include "gemm_wna16/finish.cuh"
#include "gemm_wna16/gemm_wna16_args.h"

namespace quern {

template <class Problem, class Config, class Fusion = StoreSums<GemmWna16Args>>
struct MmaWna16 {
  using Args = typename Fusion::Args;
  using T = typename Problem::Input;
  using Out = typename Problem::Output;
  static constexpr int kN = Problem::n, kK = Problem::k, kBits = Problem::bits;
  static constexpr bool kZeros = Problem::zero_points;
  static constexpr int kTileM = Config::tile_m, kTileN = Config::tile_n;
  static constexpr int kWarps = Config::warps_n, kThreads = kWarps * kWarp;
  static constexpr int kStages = Config::stages, kSplitK = Config::split_k;
  static constexpr int kUnits = Config::units;
  using Chunk = Wna16Chunk<Problem, kUnits>;
  static constexpr int kColumns = Chunk::kColumns, kChunks = Chunk::kChunks;
  static constexpr int kTiles = kTileN / 16, kRowTiles = kTiles / kWarps;  // of a block, of a warp
  static constexpr int kTokenTiles = kTileM / 8;
  static constexpr int kTilesN = ceil_div(kN, kTileN);
  static constexpr int kBytesX = kTileM * kColumns * 2;
  static constexpr int kStageBytes = kBytesX + kTiles * Chunk::kBytes;
  static constexpr bool kScaleSums = kTokenTiles <= 2;
  static constexpr int kOutBytes = static_cast<int>(sizeof(Out));

  static_assert(kTileM % 16 == 0, "tokens come in pairs of 8");
  static_assert(kTileN % (16 * kWarps) == 0, "a warp has whole tiles of 16 rows");
  static_assert(kColumns % 64 == 0, "x comes in blocks of 64 columns");
  static_assert(kStages >= 2, "a ring has 2 or more stages");

  using Sums = float[kRowTiles][kTokenTiles][4];

  /// Of a 16-byte piece of the tile of x.
  static __device__ __forceinline__ u32 offset(u32 row, u32 piece) {
    return piece / 8 * (kTileM * 128) + row * 128 + ((piece ^ row) % 8) * 16;
  }

  static __device__ __forceinline__ void load_x(const Args& args, u32 to, int row0, int chunk) {
    constexpr int kPieces = kColumns / 8;  // of a row
    const T* x = static_cast<const T*>(args.x);
    const int column0 = chunk * kColumns;
#pragma unroll 8
    for (int i = static_cast<int>(threadIdx.x); i < kTileM * kPieces; i += kThreads) {
      const int row = i / kPieces, piece = i % kPieces;
      const bool valid = row0 + row < args.m && (kK % kColumns == 0 || column0 + piece * 8 < kK);
      copy_async<16>(to + offset(static_cast<u32>(row), static_cast<u32>(piece)),
                     x + static_cast<i64>(row0 + row) * kK + column0 + piece * 8, valid);
    }
  }

  /// Adds the product of one stage.
  static __device__ __forceinline__ void multiply(u32 x, const unsigned char* w, int lane,
                                                  Sums& sum) {
    // Matrices of ldmatrix: tokens 0-7 at k and k + 8, then tokens 8-15.
    const u32 row = static_cast<u32>(lane / 16 * 8 + lane % 8), half = lane / 8 % 2;
    ZeroPoints<T, kBits> zeros[kZeros ? kRowTiles : 1];
    if constexpr (!kZeros) zeros[0].set_symmetric();
    u32 scales[kRowTiles][2];
    float part[kScaleSums ? kRowTiles : 1][kTokenTiles][4] = {};
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      Bytes<16> codes[kRowTiles];
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) codes[r] = Chunk::codes(w + r * Chunk::kBytes, u, lane);
#pragma unroll
      for (int step = 0; step < Chunk::kSteps; ++step) {
        const int column = u * Chunk::kUnitColumns + step * 16;
        if (column % Chunk::kSpan == 0) {
#pragma unroll
          for (int r = 0; r < kRowTiles; ++r) {
            const unsigned char* chunk = w + r * Chunk::kBytes;
            if constexpr (kZeros) zeros[r].set(Chunk::zeros(chunk, column, lane));
            const u32 pair = Chunk::scales(chunk, column, lane);
            scales[r][0] = kScaleSums ? pair : twice_low(pair);
            scales[r][1] = twice_high(pair);
          }
        }
        u32 b[kTokenTiles / 2][4];
#pragma unroll
        for (int j = 0; j < kTokenTiles / 2; ++j)
          ldmatrix_x4(b[j], x + offset(row, static_cast<u32>(column / 8) + half) + j * 16 * 128);
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r) {
          u32 a[4];
          dequantise<T, kBits, !kZeros>(codes[r].word, step, zeros[kZeros ? r : 0], a);
          if constexpr (!kScaleSums)
#pragma unroll
            for (int i = 0; i < 4; ++i) a[i] = mul2<T>(a[i], scales[r][i % 2]);
#pragma unroll
          for (int j = 0; j < kTokenTiles; ++j) {
            const u32 pair[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
            mma_m16n8k16<T>(kScaleSums ? part[kScaleSums ? r : 0][j] : sum[r][j], a, pair);
          }
        }
        if constexpr (kScaleSums)
          if ((column + 16) % Chunk::kSpan == 0)
#pragma unroll
            for (int r = 0; r < kRowTiles; ++r) {
              float scale[2];
              unpack2<T>(scales[r][0], scale[0], scale[1]);
#pragma unroll
              for (int j = 0; j < kTokenTiles; ++j)
#pragma unroll
                for (int c = 0; c < 4; ++c) {
                  sum[r][j][c] = fmaf(part[r][j][c], scale[c / 2], sum[r][j][c]);
                  part[r][j][c] = 0.0f;
                }
            }
      }
    }
  }

  /// Leaves this block's sums in the workspace; in the last block of the tile to arrive, replaces
  /// them by the sums of all blocks and returns true. Sums lie as each thread holds them,
  /// [tile][split][fragment][thread] of four floats, so every access is whole.
  static __device__ __forceinline__ bool add_splits(const Args& args, int tile, int split,
                                                    u32* flag, Sums& sum) {
    constexpr i64 kPart = static_cast<i64>(kTileM) * kTileN;
    float* parts =
        reinterpret_cast<float*>(static_cast<unsigned char*>(args.workspace) + kCounterBytes) +
        tile * kSplitK * kPart + threadIdx.x * 4;
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
      for (int j = 0; j < kTokenTiles; ++j) {
        const float(&s)[4] = sum[r][j];
        store_vec<float, 4>(parts + split * kPart + (r * kTokenTiles + j) * kThreads * 4,
                            {s[0], s[1], s[2], s[3]});
      }
    if (!last_block(static_cast<u32*>(args.workspace) + tile, kSplitK, flag)) return false;
#pragma unroll 1
    for (int other = 0; other < kSplitK; ++other)
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
        for (int j = 0; j < kTokenTiles; ++j) {
          const auto v = load_from_l2<Vec<float, 4>>(parts + other * kPart +
                                                     (r * kTokenTiles + j) * kThreads * 4);
#pragma unroll
          for (int c = 0; c < 4; ++c)
            sum[r][j][c] = other == 0 ? v.element[c] : sum[r][j][c] + v.element[c];
        }
    return true;
  }

  /// Computes the expression of the block's sums.
  static __device__ __forceinline__ void apply(const Args& args, int row0, int column0, int warp,
                                               int lane, const Sums& sum) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
      for (int j = 0; j < kTokenTiles; ++j)
#pragma unroll
        for (int c = 0; c < 4 / Fusion::kParts; ++c) {
          const int token = row0 + j * 8 + lane % 4 * 2 + c % 2;
          const int row = column0 + (warp * kRowTiles + r) * 16 + lane / 4 + c / 2 * 8;
          if (token < args.m && (kN % kTileN == 0 || row < kN))
            finish_sum<Fusion, kN, Out>(args, token, row, sum[r][j][c], sum[r][j][c % 2 + 2]);
        }
  }

  /// Turns the block's sums in shared memory into rows of y.
  static __device__ __forceinline__ void store_tile(const Args& args, unsigned char* smem, int row0,
                                                    int column0, int warp, int lane,
                                                    const Sums& sum) {
    constexpr int kStride = wna16_y_stride(kTileN, kOutBytes);
    constexpr int kPieces = kTileN * kOutBytes / 16;  // of a row
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
      for (int j = 0; j < kTokenTiles; ++j)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const int token = j * 8 + lane % 4 * 2 + c % 2;
          const int column = (warp * kRowTiles + r) * 16 + lane / 4 + c / 2 * 8;
          *reinterpret_cast<Out*>(smem + token * kStride + column * kOutBytes) =
              from_f32<Out>(sum[r][j][c]);
        }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kTileM * kPieces; i += kThreads) {
      const int token = i / kPieces, piece = i % kPieces, column = piece * (16 / kOutBytes);
      if (row0 + token >= args.m || (kN % kTileN != 0 && column0 + column >= kN)) continue;
      *reinterpret_cast<Bytes<16>*>(static_cast<Out*>(args.y) +
                                    static_cast<i64>(row0 + token) * kN + column0 + column) =
          *reinterpret_cast<const Bytes<16>*>(smem + token * kStride + piece * 16);
    }
  }

  static __device__ __forceinline__ void run(const Args& args, unsigned char* smem) {
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    const int warp = static_cast<int>(threadIdx.x / kWarp);
    // Tiles of the same rows of w are neighbours, so that it is found in L2.
    const int tile = static_cast<int>(blockIdx.x) / kSplitK;
    const int split = static_cast<int>(blockIdx.x) % kSplitK;
    const int tiles_m = static_cast<int>((args.m + kTileM - 1) / kTileM);
    const int row0 = tile % tiles_m * kTileM, column0 = tile / tiles_m * kTileN;
    const int begin = split * kChunks / kSplitK, end = (split + 1) * kChunks / kSplitK;

    const u32 ring = shared_address(smem);
    const auto load_w = [&](int chunk, int stage) {
      if (chunk >= end) return;
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        const int mine = warp * kRowTiles + r;
        Chunk::load(args,
                    ring + static_cast<u32>(stage * kStageBytes + kBytesX + mine * Chunk::kBytes),
                    min(column0 / 16 + mine, kN / 16 - 1), chunk, lane);
      }
    };

    pdl_launch_dependents();
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) load_w(begin + s, s);
    pdl_wait();
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) {
      if (begin + s < end) load_x(args, ring + static_cast<u32>(s * kStageBytes), row0, begin + s);
      copy_async_commit();
    }

    Sums sum = {};
    int stage = 0;
    for (int chunk = begin; chunk < end; ++chunk) {
      copy_async_wait<kStages - 2>();
      __syncthreads();  // this stage has landed, and all warps are done with the one before it
      const int next = chunk + kStages - 1, to = stage == 0 ? kStages - 1 : stage - 1;
      if (next < end) load_x(args, ring + static_cast<u32>(to * kStageBytes), row0, next);
      load_w(next, to);
      copy_async_commit();  // an empty group too: waiting counts groups
      multiply(ring + static_cast<u32>(stage * kStageBytes),
               smem + stage * kStageBytes + kBytesX + warp * kRowTiles * Chunk::kBytes, lane, sum);
      stage = stage == kStages - 1 ? 0 : stage + 1;
    }
    copy_async_wait<0>();
    __syncthreads();  // the ring's room is free

    if constexpr (kSplitK > 1) {
      constexpr int kFlagAt = wna16_mma_smem_bytes(kBits, Problem::group_size, kZeros, kTileM,
                                                   kTileN, kUnits, kStages, kOutBytes) -
                              16;
      if (!add_splits(args, tile, split, reinterpret_cast<u32*>(smem + kFlagAt), sum)) return;
    }
    if constexpr (Fusion::kFused)
      apply(args, row0, column0, warp, lane, sum);
    else
      store_tile(args, smem, row0, column0, warp, lane, sum);
  }
};

}  // namespace quern
