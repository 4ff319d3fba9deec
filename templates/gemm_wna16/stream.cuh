// y[m, n] = x[m, k] · w[n, k]ᵀ with weights of 4 or 8 bits, for a few rows of x (m <= 16): the
// shape of decoding, where each weight is read once and memory is the roof.
//
//   x [m, k], y [m, n]: row-major; bf16 or f16 in, the same or fp32 out; fp32 sums.
//   codes, scales, zeros: kernel order (gemm_wna16_args.h). m is an argument.
//
// Blocks stay resident and walk over groups of 16 * warps_n rows of w. w is the A operand of
// mma.m16n8k16, tokens are its N, so that one row of x costs no more than eight. Each warp streams
// chunks of its own rows, contiguous in memory, through its own ring in shared memory: no barrier
// is needed but at the end of a row group. The ring is filled before griddepcontrol.wait: weights
// do not depend on the previous kernel. x is then staged in shared memory once. Scales multiply the
// fp32 sums of their group.
//
// Tunables (Config)
//   tile_m         rows of x that are computed (1, 2, 4, 8, 16); rows from m on are not stored
//   warps_n        row tiles of 16 that a block works on at once
//   warps_k        warps that share a row tile, each taking every warps_k-th chunk of k; their sums
//                  are added in order of warp, so results do not depend on timing
//   units          units of 512 bytes in a chunk
//   stages         depth of the ring, chunks
//   blocks_per_sm  resident blocks
//   split_k        blocks that share a row group, each staging and multiplying its part of k; they
//                  leave fp32 sums in the workspace and the last to arrive adds them in order of k
#pragma once
#include "common/grid.cuh"
#include "common/memory.cuh"
#include "common/mma.cuh"
#include "common/types.cuh"
#include "common/workspace_args.h"
#include "gemm_wna16/chunk.cuh"
#include "gemm_wna16/dequantise.cuh"
#include "gemm_wna16/gemm_wna16_args.h"

namespace quern {

template <class Problem, class Config>
struct StreamWna16 {
  using T = typename Problem::Input;
  using Out = typename Problem::Output;
  static constexpr int kN = Problem::n, kK = Problem::k, kBits = Problem::bits;
  static constexpr bool kZeros = Problem::zero_points;
  static constexpr int kM = Config::tile_m, kTokenTiles = kM > 8 ? 2 : 1;
  static constexpr int kWarpsN = Config::warps_n, kWarpsK = Config::warps_k;
  static constexpr int kWarps = kWarpsN * kWarpsK, kThreads = kWarps * kWarp;
  static constexpr int kStages = Config::stages, kSplitK = Config::split_k;
  static constexpr int kUnits = Config::units;
  using Chunk = Wna16Chunk<Problem, kUnits>;
  static constexpr int kChunks = Chunk::kChunks, kChunkBytes = Chunk::kBytes;
  static constexpr int kShare = wna16_share_chunks(kK, kBits, kUnits, kSplitK);
  static constexpr int kSteps = ceil_div(kShare, kWarpsK);
  static constexpr int kRowTiles = kN / 16, kRowGroups = ceil_div(kRowTiles, kWarpsN);
  static constexpr int kStrideX = wna16_x_stride(kK, kBits, kUnits, kSplitK);
  static constexpr int kSums = kWarpsN * kM * 16;  // of a row group

  static_assert(kM == 1 || kM == 2 || kM == 4 || kM == 8 || kM == 16, "tile_m is 1, 2, 4, 8 or 16");
  static_assert(kStages >= 2, "a ring has 2 or more stages");

  /// Where in the stream of (row group, step of k) this warp is.
  struct Cursor {
    int group, step;
    __device__ void advance(int sets) {
      if (++step == kSteps) step = 0, group += sets;
    }
  };

  using Sums = float[kTokenTiles][4];

  /// Adds the products of one chunk. `x` is the shared address of the lane's row for ldmatrix at
  /// the chunk's first column.
  static __device__ __forceinline__ void multiply(const unsigned char* chunk, u32 x, int lane,
                                                  Sums& sum) {
    Sums part = {};
    ZeroPoints<T, kBits> zeros;
    zeros.set_symmetric();
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      const Bytes<16> codes = Chunk::codes(chunk, u, lane);
#pragma unroll
      for (int step = 0; step < Chunk::kSteps; step += 2) {
        const int column = u * Chunk::kUnitColumns + step * 16;
        if (kZeros && column % Chunk::kSpan == 0) zeros.set(Chunk::zeros(chunk, column, lane));
        u32 b[kTokenTiles][4];
#pragma unroll
        for (int j = 0; j < kTokenTiles; ++j)
          ldmatrix_x4(b[j], x + static_cast<u32>(j * 8 * kStrideX + column * 2));
#pragma unroll
        for (int s = 0; s < 2; ++s) {
          u32 a[4];
          dequantise<T, kBits, !kZeros>(codes.word, step + s, zeros, a);
#pragma unroll
          for (int j = 0; j < kTokenTiles; ++j) {
            const u32 pair[2] = {b[j][2 * s], b[j][2 * s + 1]};
            mma_m16n8k16<T>(part[j], a, pair);
          }
        }
        if ((column + 32) % Chunk::kSpan != 0) continue;
        float scale[2];
        unpack2<T>(Chunk::scales(chunk, column, lane), scale[0], scale[1]);
#pragma unroll
        for (int j = 0; j < kTokenTiles; ++j)
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            sum[j][c] = fmaf(part[j][c], scale[c / 2], sum[j][c]);
            part[j][c] = 0.0f;
          }
      }
    }
  }

  /// Stores the sum of value `i` of a row group, whose order is [warp_n][token][16 rows].
  static __device__ __forceinline__ void store(const GemmWna16Args& args, int group, int i,
                                               float value) {
    const int token = i / 16 % kM, row = (group * kWarpsN + i / (16 * kM)) * 16 + i % 16;
    if (token < args.m && (kRowTiles % kWarpsN == 0 || row < kN))
      static_cast<Out*>(args.y)[static_cast<i64>(token) * kN + row] = from_f32<Out>(value);
  }

  static __device__ __forceinline__ float* parts(const GemmWna16Args& args) {
    return reinterpret_cast<float*>(static_cast<unsigned char*>(args.workspace) + kCounterBytes);
  }

  /// Adds the sums of the warps that share a row tile, and stores the results, or leaves them in
  /// the workspace where other blocks have more. `partial` alternates between two buffers, so that
  /// one barrier a row group is enough.
  static __device__ __forceinline__ void finish(const GemmWna16Args& args, float* partial,
                                                int group, int split, int warp_n, int warp_k,
                                                int lane, Sums& sum) {
    float* mine = partial + (warp_k * kWarpsN + warp_n) * kM * 16;
#pragma unroll
    for (int j = 0; j < kTokenTiles; ++j)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int token = j * 8 + lane % 4 * 2 + c % 2;
        if (kM >= 8 || token < kM) mine[token * 16 + lane / 4 + c / 2 * 8] = sum[j][c];
        sum[j][c] = 0.0f;
      }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kSums; i += kThreads) {
      float total = partial[i];
#pragma unroll
      for (int other = 1; other < kWarpsK; ++other) total += partial[other * kSums + i];
      if constexpr (kSplitK == 1)
        store(args, group, i, total);
      else
        parts(args)[(static_cast<i64>(group) * kSplitK + split) * kSums + i] = total;
    }
  }

  /// Copies the block's share of x to shared memory, with zeros where it ends.
  static __device__ __forceinline__ void stage_x(const GemmWna16Args& args, unsigned char* to,
                                                 int column0) {
    constexpr int kPieces = kShare * Chunk::kColumns / 8;  // of 16 bytes, in a row
    const T* x = static_cast<const T*>(args.x);
    const u32 address = shared_address(to);
    for (int i = static_cast<int>(threadIdx.x); i < kM * kPieces; i += kThreads) {
      const int row = i / kPieces, column = i % kPieces * 8;
      copy_async<16>(address + static_cast<u32>(row * kStrideX + column * 2),
                     x + static_cast<i64>(row) * kK + column0 + column,
                     row < args.m && column0 + column < kK);
    }
  }

  static __device__ __forceinline__ void run(const GemmWna16Args& args, unsigned char* smem) {
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    const int warp = static_cast<int>(threadIdx.x / kWarp);
    const int warp_n = warp % kWarpsN, warp_k = warp / kWarpsN;
    // Blocks that differ in their split alone are a set and walk over the same row groups.
    const int set = static_cast<int>(blockIdx.x) / kSplitK;
    const int split = static_cast<int>(blockIdx.x) % kSplitK;
    const int sets = static_cast<int>(gridDim.x) / kSplitK;
    const int begin = split * kShare, end = min(begin + kShare, kChunks);
    const int num_groups = set < kRowGroups ? (kRowGroups - set - 1) / sets + 1 : 0;
    const int num_steps = num_groups * kSteps;

    unsigned char* x = smem;
    unsigned char* ring = smem + kM * kStrideX;
    float* partial = reinterpret_cast<float*>(ring + kWarps * kStages * kChunkBytes);
    unsigned char* mine = ring + warp * kStages * kChunkBytes;

    pdl_launch_dependents();
    Cursor read{set, 0}, load{set, 0};
    const auto issue = [&](int step, int slot) {
      if (step < num_steps) {
        const int chunk = begin + load.step * kWarpsK + warp_k;
        if (chunk < end)
          Chunk::load(args, shared_address(mine + slot * kChunkBytes),
                      min(load.group * kWarpsN + warp_n, kRowTiles - 1), chunk, lane);
        load.advance(sets);
      }
    };
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) {
      issue(s, s);
      copy_async_commit();
    }
    pdl_wait();
    stage_x(args, x, begin * Chunk::kColumns);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();

    // ldmatrix takes the address of row lane % 8 at columns lane / 8 * 8; rows that are not there
    // are as good as any other, because nobody reads their sums.
    const u32 x_lane = shared_address(x) +
                       static_cast<u32>(lane % 8 < kM ? lane % 8 : kM - 1) * kStrideX +
                       static_cast<u32>(lane / 8 * 16);
    Sums sum = {};
    int slot = 0, parity = 0;
    for (int step = 0; step < num_steps; ++step) {
      copy_async_wait<kStages - 2>();
      __syncwarp();  // the scales are other lanes' copies; and all are done with the slot before
      issue(step + kStages - 1, slot == 0 ? kStages - 1 : slot - 1);
      copy_async_commit();  // an empty group too: waiting counts groups
      const int chunk = read.step * kWarpsK + warp_k;
      if (begin + chunk < end)
        multiply(mine + slot * kChunkBytes, x_lane + static_cast<u32>(chunk * Chunk::kColumns * 2),
                 lane, sum);
      if (read.step == kSteps - 1) {
        finish(args, partial + parity * kWarpsK * kSums, read.group, split, warp_n, warp_k, lane,
               sum);
        parity ^= 1;
      }
      read.advance(sets);
      slot = slot == kStages - 1 ? 0 : slot + 1;
    }

    if constexpr (kSplitK > 1) {
      u32* flag = reinterpret_cast<u32*>(partial + 2 * kWarpsK * kSums);
      if (!last_block(static_cast<u32*>(args.workspace) + set, kSplitK, flag)) return;
      for (int group = set; group < kRowGroups; group += sets)
        for (int i = static_cast<int>(threadIdx.x); i < kSums; i += kThreads) {
          const float* from = parts(args) + static_cast<i64>(group) * kSplitK * kSums + i;
          float values[kSplitK];
#pragma unroll
          for (int s = 0; s < kSplitK; ++s) values[s] = load_from_l2<float>(from + s * kSums);
          float total = values[0];
#pragma unroll
          for (int s = 1; s < kSplitK; ++s) total += values[s];
          store(args, group, i, total);
        }
    }
  }
};

}  // namespace quern
