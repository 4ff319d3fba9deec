// y[m, n] = scales * sum over k of x[m, k] * w[n, k] in 8 bits on the tensor cores of Hopper
// (sm_90a), for many rows.
//
//   x [m, k], w [n, k]: s8 or e4m3, row-major; y [m, n]: bf16, f16 or fp32. Scales: scales.cuh.
//   m is an argument, n and k are compile-time constants, multiples of 8 and 16; any m >= 1: what
//   lies outside the matrices arrives in shared memory as zeros and is not stored.
//
// Tiles travel, and blocks walk over them, as those of the 16-bit kernel (gemm/wgmma.cuh): to a
// ring of rows of 128 bytes, two elements of 8 bits are one of 16. What differs is the product,
// whose instructions take 32 elements, and what becomes of the sums.
//
// Hopper's tensor cores keep some 13 bits of a sum of 8-bit floats while they add to it. So sums of
// 128 * promote products may be added up in fp32 registers of their own (promotion): with scales in
// blocks after every 128, since each 128 has its own scales (DeepSeek-V3, arXiv:2412.19437, section
// 3.3.2). That takes twice as many registers for sums, and so smaller tiles.
//
// Tunables (Config)
//   tile_m, tile_n  a tile of y
//   tile_k          128: rows of a stage's tiles are 128 bytes, the swizzle's span
//   stages          depth of the ring
//   pingpong        false: each warpgroup has half of the rows of every tile. true: each has every
//                   second tile, so that one stores its results while the other multiplies
//   cluster         blocks along m that share a tile of w, each fetching a part of it for all
//   group_m         tiles (of a cluster) along m that are visited together, so that w is found in
//   L2 promote         stages whose products are summed by the tensor cores before the sum is
//   promoted;
//                   0: never
//
// Sources: PTX ISA 9.0, "wgmma.mma_async"; on promotion, DeepGEMM.
#pragma once
#include "common/mma8.cuh"
#include "gemm/wgmma.cuh"
#include "gemm_w8a8/scales.cuh"

namespace quern {

template <class Problem>
struct PairsOf8 : Problem {
  static constexpr int k = Problem::k / 2;
};
template <class Config>
struct PairsOf8Config : Config {
  static constexpr int tile_k = Config::tile_k / 2, split_k = 1;
};

/// Product: start(d, a, b) sets and run(d, a, b) adds 64 rows x tile_n columns of one stage
/// (common/wgmma.h).
template <class Problem, class Config, class Product>
struct WgmmaW8A8 : WgmmaGemm<PairsOf8<Problem>, PairsOf8Config<Config>, Product> {
  using Base = WgmmaGemm<PairsOf8<Problem>, PairsOf8Config<Config>, Product>;
  using typename Base::Ring;
  using typename Base::Schedule;
  using typename Base::Shared;
  using typename Base::Tile;
  using Out = typename Problem::Output;
  using Sum = typename SumOf8<typename Problem::Input>::type;
  using Scale = Scales<Problem>;
  using Base::kBlocksM, Base::kCluster, Base::kGroup, Base::kMathGroups, Base::kN, Base::kPingpong,
      Base::kRows, Base::kStages, Base::kStageBytes, Base::kSums, Base::kTileM, Base::kTileN,
      Base::kTilesK;
  static constexpr int kPromote = Config::promote;

  static_assert(Config::tile_k == 128, "a row of a stage's tile is 128 bytes");
  static_assert(kPromote <= 1 || kBlocksM == 1, "64 rows have sums of several stages to promote");
  static_assert(!Scale::kBlocks || kPromote == 1, "every 128 of k have their own scales");
  static_assert(!Scale::kBlocks || kScaleBlock % kTileN == 0, "a tile lies in one block of scales");

  using Sums = Sum[kBlocksM][kSums];

  /// The operand of 64 rows of x from row `row` of the tile.
  static __device__ __forceinline__ u64 operand_x(const Shared& at, int stage, int row) {
    return wgmma_operand(at.x(stage) + static_cast<u32>(row * Config::tile_k));
  }

  /// Sums of one tile whose products are all added up by the tensor cores.
  static __device__ __forceinline__ void multiply(const Shared& at, Ring& ring, int row,
                                                  Sums& sum) {
#pragma unroll
    for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
      for (int j = 0; j < kSums; ++j) sum[i][j] = 0;
    int last = 0;
#pragma unroll 1
    for (int turn = 0; turn < kTilesK; ++turn) {
      barrier_wait(at.is_full(ring.stage), ring.parity);
      const u64 x = operand_x(at, ring.stage, row);
      const u64 w = wgmma_operand(at.w(ring.stage));
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < kBlocksM; ++i) Product::run(sum[i], x + static_cast<u64>(i) * 512, w);
      wgmma_commit();
      wgmma_wait<1>();  // the turn before this one
      if (turn > 0) Base::release(at, last);
      last = ring.stage;
      ring.advance();
    }
    wgmma_wait<0>();
    Base::release(at, last);
  }

  /// Scales of one block of k, of this thread's rows and of the tile's columns.
  struct BlockScales {
    float w = 0, x[kBlocksM][2] = {};
    __device__ __forceinline__ void load(const GemmW8A8Args& scales, i64 row0, int column0,
                                         int block) {
      w = Scale::of_w_block(scales, column0, block);
#pragma unroll
      for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          x[i][half] =
              Scale::of_x_block(scales, row0 + i * 64 + half * 8 + threadIdx.x % 32 / 4, block);
    }
  };

  /// Sums of one tile with promotion. `row0` is the first row of this thread's warp in the matrix.
  static __device__ __forceinline__ void multiply_promoted(const GemmW8A8TmaArgs& args,
                                                           const Shared& at, Ring& ring, int row,
                                                           i64 row0, int column0, Sums& sum) {
#pragma unroll
    for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
      for (int j = 0; j < kSums; ++j) sum[i][j] = 0;
    // Scales are requested one turn ahead and multiplied only when they are needed, so that nothing
    // waits for them.
    const GemmW8A8Args scales = scales_of(args);
    BlockScales now, next;
    if constexpr (Scale::kBlocks) now.load(scales, row0, column0, 0);
#pragma unroll 1
    for (int turn = 0; turn < kTilesK; turn += kPromote) {
      if constexpr (Scale::kBlocks) next.load(scales, row0, column0, turn + 1);
      if constexpr (kPromote > 1) {
        Sum part[kSums];
#pragma unroll
        for (int j = 0; j < kSums; ++j) part[j] = 0;
        const int count = min(kPromote, kTilesK - turn);
        int last = 0;
#pragma unroll 1
        for (int s = 0; s < count; ++s) {
          barrier_wait(at.is_full(ring.stage), ring.parity);
          wgmma_fence();
          Product::run(part, operand_x(at, ring.stage, row), wgmma_operand(at.w(ring.stage)));
          wgmma_commit();
          wgmma_wait<1>();  // the stage before this one
          if (s > 0) Base::release(at, last);
          last = ring.stage;
          ring.advance();
        }
        wgmma_wait<0>();
        Base::release(at, last);
#pragma unroll
        for (int j = 0; j < kSums; ++j) sum[0][j] += part[j];
      } else {
        barrier_wait(at.is_full(ring.stage), ring.parity);
#pragma unroll
        for (int i = 0; i < kBlocksM; ++i) {
          Sum part[kSums];
          wgmma_fence();
          Product::start(part, operand_x(at, ring.stage, row + i * 64),
                         wgmma_operand(at.w(ring.stage)));
          wgmma_commit();
          wgmma_wait<0>();
          if (i == kBlocksM - 1) Base::release(at, ring.stage);
          const float scale[2] = {now.w * now.x[i][0], now.w * now.x[i][1]};
#pragma unroll
          for (int j = 0; j < kSums; ++j) {
            if constexpr (Scale::kBlocks)
              sum[i][j] = fmaf(part[j], scale[j % 4 / 2], sum[i][j]);
            else
              sum[i][j] += part[j];
          }
        }
        ring.advance();
      }
      now = next;
    }
  }

  /// Scales the sums of 64 rows and stores them; `row0` is the warp's first row.
  static __device__ __forceinline__ void store(const GemmW8A8TmaArgs& args, i64 row0, int column0,
                                               const Sum (&sum)[kSums]) {
    const GemmW8A8Args scales = scales_of(args);
    const int lane = static_cast<int>(threadIdx.x % kWarp), t = lane % 4;
    float x_scale[2] = {1, 1};
    Vec<float, 2> tensor_scale{};
    if constexpr (Problem::w_scale == ScaleOf::tensor) tensor_scale = Scale::of_w_pair(scales, 0);
    if constexpr (!Scale::kBlocks)
#pragma unroll
      for (int r = 0; r < 2; ++r) x_scale[r] = Scale::of_x(scales, row0 + lane / 4 + 8 * r);
#pragma unroll
    for (int j = 0; j < kTileN / 8; j += 4) {
      Vec<float, 2> w_scale[4] = {};
      if constexpr (!Scale::kBlocks)
#pragma unroll
        for (int q = 0; q < 4; ++q)
          if (j + q < kTileN / 8)
            w_scale[q] = Problem::w_scale == ScaleOf::tensor
                             ? tensor_scale
                             : Scale::of_w_pair(scales, column0 + (j + q) * 8 + t * 2);
      const auto value = [&](int q, int r, int c) {
        const float v = static_cast<float>(sum[(j + q) * 4 + 2 * r + c]);
        if constexpr (Scale::kBlocks) return v;
        return v * (x_scale[r] * w_scale[q].element[c]);
      };
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const i64 row = row0 + lane / 4 + 8 * r;
        Out* y = static_cast<Out*>(args.y) + row * kN;
        const bool exists = row < args.m;
        if constexpr (sizeof(Out) == 2) {
          // Four lanes hold 2 columns of each of 4 groups of 8; after the exchange, a group each.
          u32 v[4];
#pragma unroll
          for (int q = 0; q < 4; ++q)
            v[q] = j + q < kTileN / 8 ? pack2<Out>(value(q, r, 0), value(q, r, 1)) : 0u;
          quad_transpose(v, t);
          const int column = column0 + (j + t) * 8;
          if (exists && (kTileN % 32 == 0 || j + t < kTileN / 8) &&
              (kN % kTileN == 0 || column < kN))
            *reinterpret_cast<Bytes<16>*>(y + column) = {{v[0], v[1], v[2], v[3]}};
        } else {
#pragma unroll
          for (int q = 0; q < 4; ++q) {
            if (j + q >= kTileN / 8) continue;
            const int column = column0 + (j + q) * 8 + t * 2;
            if (exists && (kN % kTileN == 0 || column < kN))
              store_vec<Out, 2>(y + column, {value(q, r, 0), value(q, r, 1)});
          }
        }
      }
    }
  }

  static __device__ __forceinline__ void consume(const GemmW8A8TmaArgs& args, const Shared& at,
                                                 const Schedule& schedule, int cluster,
                                                 int num_clusters, int rank) {
    const int group = static_cast<int>(threadIdx.x / kGroup);
    const int warp = static_cast<int>(threadIdx.x % kGroup / kWarp);
    const int row = kPingpong ? 0 : group * kRows;
    pdl_wait();  // scales of x are the predecessor's
    Ring ring;
    Sums sum;
    // In turns: a group may wait for stages only once the other has had all that come before.
    if (kPingpong && group == 1) named_arrive(2, kMathGroups * kGroup);
    int turn = 0;
    for (int work = cluster; work < schedule.count; work += num_clusters, turn ^= 1) {
      const Tile tile = schedule.at(work, rank);
      if (kPingpong && turn != group) {
        ring.advance(kTilesK);
        continue;
      }
      const i64 row0 = tile.row0 + row + warp * 16;
      if constexpr (kPingpong) named_sync(2 + static_cast<u32>(group), kMathGroups * kGroup);
      if constexpr (kPromote > 0)
        multiply_promoted(args, at, ring, row, row0, tile.column0, sum);
      else
        multiply(at, ring, row, sum);
      if constexpr (kPingpong) named_arrive(3 - static_cast<u32>(group), kMathGroups * kGroup);
#pragma unroll
      for (int i = 0; i < kBlocksM; ++i) store(args, row0 + i * 64, tile.column0, sum[i]);
    }
  }

  static __device__ __forceinline__ void run(const GemmW8A8TmaArgs& args, unsigned char* smem) {
    const u32 base = (shared_address(smem) + 1023) / 1024 * 1024;
    Shared at;
    at.tiles = base;
    at.full = base + kStages * kStageBytes;
    at.empty = at.full + kStages * 8;
    const int rank = kCluster == 1 ? 0 : static_cast<int>(cluster_rank());
    const int cluster = static_cast<int>(blockIdx.x) / kCluster;
    const int num_clusters = static_cast<int>(gridDim.x) / kCluster;

    pdl_launch_dependents();
    if (threadIdx.x == 0) {
      prefetch_map(args.x_map);
      prefetch_map(args.w_map);
      constexpr u32 kWarps = (kPingpong ? 1 : kMathGroups) * kGroup / kWarp;  // that read a stage
      for (int s = 0; s < kStages; ++s) {
        barrier_init(at.is_full(s), 1);
        barrier_init(at.is_empty(s), kWarps * kCluster);
      }
      barrier_init_fence();
    }
    if constexpr (kCluster > 1) {
      cluster_sync();
    } else {
      __syncthreads();
    }
    const Schedule schedule(static_cast<int>(args.m));
    if (threadIdx.x >= kMathGroups * kGroup) {
      give_registers<40>();
      if (threadIdx.x == kMathGroups * kGroup)
        Base::produce(args, at, schedule, cluster, num_clusters, rank);
    } else {
      take_registers<232>();
      consume(args, at, schedule, cluster, num_clusters, rank);
    }
    // No block may end while another of its cluster still writes to it.
    if constexpr (kCluster > 1) {
      __syncwarp();
      cluster_sync();
    }
  }
};

}  // namespace quern
