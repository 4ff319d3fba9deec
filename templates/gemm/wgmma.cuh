// y[m, n] = sum over k of x[m, k] * w[n, k] on the tensor cores of Hopper (sm_90a), for many rows.
//
//   x [m, k], w [n, k], y [m, n]: row-major; bf16 or f16 in, the same or fp32 out; fp32 sums.
//   m is an argument, n and k are compile-time constants, multiples of 8; any m >= 1: what lies
//   outside the matrices arrives in shared memory as zeros and is not stored.
//
// Blocks stay resident, one on every SM, and walk over tiles of y. A block is a warpgroup whose first
// thread requests tiles of x and w through TMA into a ring in shared memory, and two warpgroups that
// multiply them (wgmma); full and empty stages are handed over by barriers.
//
// Tunables (Config)
//   tile_m, tile_n  a tile of y
//   tile_k          64: rows of a stage's tiles are 128 bytes, the swizzle's span
//   stages          depth of the ring
//   pingpong        false: each warpgroup has half of the rows of every tile. true: each has every
//                   second tile, so that one stores its results while the other multiplies
//   cluster         blocks along m that share a tile of w, each fetching a part of it for all
//   split_k         blocks that share an output tile; each leaves fp32 sums in the workspace and the
//                   last to arrive adds them in order of k, so results do not depend on timing
//   group_m         tiles (of a cluster) along m that are visited together, so that w is found in L2
//
// Tiles of w are requested before griddepcontrol.wait: weights do not depend on the previous kernel.
//
// Sources: PTX ISA 9.0; the division of work follows CUTLASS's warp-specialised persistent kernels
// for Hopper (cooperative and pingpong).
#pragma once
#include "common/grid.cuh"
#include "common/mbarrier.cuh"
#include "common/memory.cuh"
#include "common/quad.cuh"
#include "common/tma.cuh"
#include "common/types.cuh"
#include "common/wgmma.cuh"
#include "common/workspace_args.h"
#include "gemm/fusion.cuh"
#include "gemm/gemm_args.h"

namespace quern {

/// Product: Product::run(d, a, b) adds 64 rows x tile_n columns of one stage (common/wgmma.h).
template <class Problem, class Config, class Product, class Fusion = StoreSums<GemmTmaArgs>>
struct WgmmaGemm {
  using Args = typename Fusion::Args;
  using T = typename Problem::Input;
  using Out = typename Problem::Output;
  static constexpr int kN = Problem::n, kK = Problem::k;
  static constexpr int kTileM = Config::tile_m, kTileN = Config::tile_n, kTileK = Config::tile_k;
  static constexpr int kStages = Config::stages, kSplitK = Config::split_k;
  static constexpr int kCluster = Config::cluster, kGroupM = Config::group_m;
  static constexpr bool kPingpong = Config::pingpong;
  static constexpr bool kAssists = false;
  static constexpr int kGroup = 128;       // threads of a warpgroup
  static constexpr int kMathGroups = 2;
  static constexpr int kRows = kPingpong ? kTileM : kTileM / kMathGroups;  // of a warpgroup
  static constexpr int kBlocksM = kRows / 64, kSums = kTileN / 2;
  static constexpr int kTilesN = ceil_div(kN, kTileN), kTilesK = ceil_div(kK, kTileK);
  static constexpr int kBytesX = kTileM * kTileK * 2, kBytesW = kTileN * kTileK * 2;
  static constexpr int kStageBytes = kBytesX + kBytesW;

  static_assert(kTileK == 64, "a row of a stage's tile is 128 bytes");
  static_assert(kRows % 64 == 0, "wgmma multiplies 64 rows");
  static_assert(!kPingpong || kSplitK == 1, "sums of splits are added by the whole block");
  static_assert(kTileN % 16 == 0, "four lanes store 64 bytes of a row");
  static_assert(kTileN % (8 * Fusion::kParts) == 0, "a tile has all parts of an element");
  static_assert(kTileN % (8 * kCluster) == 0, "each block of a cluster fetches whole groups of rows");

  struct Tile {
    int row0, column0, split, index;
  };

  /// Where the n-th tile of this cluster lies; `count` of all.
  struct Schedule {
    int rows, count;  // rows of tiles of a cluster; work in all
    __device__ explicit Schedule(int m)
        : rows(ceil_div(ceil_div(m, kTileM), kCluster)), count(rows * kTilesN * kSplitK) {}
    __device__ Tile at(int work, int rank) const {
      const int tile = work / kSplitK;
      const int first = tile / (kGroupM * kTilesN) * kGroupM;
      const int group = min(rows - first, kGroupM), in_group = tile % (kGroupM * kTilesN);
      return {((first + in_group % group) * kCluster + rank) * kTileM, in_group / group * kTileN,
              work % kSplitK, tile * kCluster + rank};
    }
  };
  static __device__ __forceinline__ int first_k(int split) { return split * kTilesK / kSplitK; }

  /// Stage and parity of the n-th turn of the ring.
  struct Ring {
    int stage = 0;
    u32 parity = 0;
    __device__ void advance() {
      if (++stage == kStages) {
        stage = 0;
        parity ^= 1;
      }
    }
    __device__ void advance(int turns) {
      stage += turns;
      parity ^= static_cast<u32>(stage / kStages) & 1;
      stage %= kStages;
    }
  };

  struct Shared {
    u32 tiles, full, empty;
    __device__ u32 x(int stage) const { return tiles + static_cast<u32>(stage) * kStageBytes; }
    __device__ u32 w(int stage) const { return x(stage) + kBytesX; }
    __device__ u32 is_full(int stage) const { return full + static_cast<u32>(stage) * 8; }
    __device__ u32 is_empty(int stage) const { return empty + static_cast<u32>(stage) * 8; }
  };

  static __device__ __forceinline__ void load_x(const Args& args, const Shared& at, int stage,
                                                const Tile& tile, int tile_k) {
    tma_load(at.x(stage), args.x_map, at.is_full(stage), tile_k * kTileK, tile.row0);
  }
  static __device__ __forceinline__ void load_w(const Args& args, const Shared& at, int stage,
                                                const Tile& tile, int tile_k, int rank) {
    barrier_arrive_expect(at.is_full(stage), kStageBytes);
    if constexpr (kCluster == 1) {
      tma_load(at.w(stage), args.w_map, at.is_full(stage), tile_k * kTileK, tile.column0);
    } else {
      constexpr int part = kTileN / kCluster;
      tma_load_multicast(at.w(stage) + static_cast<u32>(rank * part * kTileK * 2), args.w_map,
                         at.is_full(stage), tile_k * kTileK, tile.column0 + rank * part,
                         (1u << kCluster) - 1);
    }
  }

  /// One thread.
  static __device__ __forceinline__ void produce(const Args& args, const Shared& at,
                                                 const Schedule& schedule, int cluster,
                                                 int num_clusters, int rank) {
    Ring ring;
    int ahead = 0;  // stages of the first tile whose w was requested before the wait
    if (cluster < schedule.count) {
      const Tile tile = schedule.at(cluster, rank);
      const int begin = first_k(tile.split), end = first_k(tile.split + 1);
      ahead = min(kStages, end - begin);
      for (int s = 0; s < ahead; ++s) load_w(args, at, s, tile, begin + s, rank);
    }
    pdl_wait();
    for (int work = cluster; work < schedule.count; work += num_clusters) {
      const Tile tile = schedule.at(work, rank);
      const int end = first_k(tile.split + 1);
      for (int k = first_k(tile.split); k < end; ++k) {
        if (ahead > 0) {
          --ahead;
        } else {
          barrier_wait(at.is_empty(ring.stage), ring.parity ^ 1);
          load_w(args, at, ring.stage, tile, k, rank);
        }
        load_x(args, at, ring.stage, tile, k);
        ring.advance();
      }
    }
  }

  using Sums = float[kBlocksM][kSums];

  static __device__ __forceinline__ void release(const Shared& at, int stage) {
    const u32 lane = threadIdx.x % kWarp;
    if constexpr (kCluster == 1) {
      if (lane == 0) barrier_arrive(at.is_empty(stage));
    } else {
      if (lane < kCluster) barrier_arrive_at(at.is_empty(stage), lane);
    }
  }

  /// Sums of one tile, over its share of k; `row` is the group's first row of the tile.
  static __device__ __forceinline__ void multiply(const Shared& at, Ring& ring, int turns, int row,
                                                  Sums& sum) {
#pragma unroll
    for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
      for (int j = 0; j < kSums; ++j) sum[i][j] = 0.0f;
    int last = 0;
#pragma unroll 1
    for (int turn = 0; turn < turns; ++turn) {
      barrier_wait(at.is_full(ring.stage), ring.parity);
      const u64 x = wgmma_operand(at.x(ring.stage) + static_cast<u32>(row * kTileK * 2));
      const u64 w = wgmma_operand(at.w(ring.stage));
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < kBlocksM; ++i) Product::run(sum[i], x + static_cast<u64>(i) * 512, w);
      wgmma_commit();
      wgmma_wait<1>();  // the turn before this one
      if (turn > 0) release(at, last);
      last = ring.stage;
      ring.advance();
    }
    wgmma_wait<0>();
    if (turns > 0) release(at, last);
  }

  /// Leaves this block's sums in the workspace; in the last block of the tile to arrive, replaces them
  /// by the sums of all and returns true. [tile][split][fragment][thread] of four floats.
  static __device__ __forceinline__ bool add_splits(const Args& args, const Tile& tile,
                                                    u32* flag, Sums& sum) {
    constexpr int kThreads = kMathGroups * kGroup;
    constexpr i64 kPart = static_cast<i64>(kTileM) * kTileN;
    float* parts =
        reinterpret_cast<float*>(static_cast<unsigned char*>(args.workspace) + kCounterBytes) +
        tile.index * kSplitK * kPart + threadIdx.x * 4;
#pragma unroll
    for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
      for (int j = 0; j < kSums; j += 4)
        store_vec<float, 4>(parts + tile.split * kPart + (i * kSums + j) * kThreads,
                            {sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]});
    __threadfence();
    named_sync(1, kThreads);
    if (threadIdx.x == 0) {
      u32* counter = static_cast<u32*>(args.workspace) + tile.index;
      *flag = atomicAdd(counter, 1u) == kSplitK - 1;
      if (*flag) *counter = 0;
    }
    named_sync(1, kThreads);
    const bool last = *flag != 0;
    named_sync(1, kThreads);  // the flag may be set again
    if (!last) return false;
    __threadfence();
#pragma unroll 1
    for (int other = 0; other < kSplitK; ++other)
#pragma unroll
      for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
        for (int j = 0; j < kSums; j += 4) {
          const auto v = load_vec<float, 4>(parts + other * kPart + (i * kSums + j) * kThreads);
#pragma unroll
          for (int c = 0; c < 4; ++c)
            sum[i][j + c] = other == 0 ? v.element[c] : sum[i][j + c] + v.element[c];
        }
    return true;
  }

  /// `row0` is the warp's first row.
  static __device__ __forceinline__ void store(const Args& args, i64 row0, int column0,
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
        for (int j = 0; j < kTileN / 8; j += 4) {
          u32 v[4];
#pragma unroll
          for (int q = 0; q < 4; ++q)
            v[q] = j + q < kTileN / 8 ? pack2<Out>(sum[(j + q) * 4 + 2 * r], sum[(j + q) * 4 + 2 * r + 1])
                                      : 0u;
          quad_transpose(v, t);
          const int column = column0 + (j + t) * 8;
          if (exists && (kTileN % 32 == 0 || j + t < kTileN / 8) &&
              (kN % kTileN == 0 || column < kN))
            *reinterpret_cast<Bytes<16>*>(y + column) = {{v[0], v[1], v[2], v[3]}};
        }
      } else {
#pragma unroll
        for (int j = 0; j < kTileN / 8; j += 2) {
          float v[4] = {sum[j * 4 + 2 * r], sum[j * 4 + 2 * r + 1], sum[j * 4 + 4 + 2 * r],
                        sum[j * 4 + 4 + 2 * r + 1]};
          quad_pairs(v, t);
          const int column = column0 + (j + t / 2) * 8 + t % 2 * 4;
          if (exists && (kN % kTileN == 0 || column < kN))
            store_vec<Out, 4>(y + column, {v[0], v[1], v[2], v[3]});
        }
      }
    }
  }

  static constexpr int kParts = Fusion::kParts;
  static constexpr int kColumns = kN / kParts;           // of the result
  static constexpr int kGroups = kTileN / (8 * kParts);  // of 8 columns of it, in a tile
  static_assert(kGroups % 2 == 0, "four lanes store 64 bytes of a row");

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
        if constexpr (kN % kTileN != 0) column = min(column, kColumns - 2);
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
          if (exists && (kGroups % 4 == 0 || j + t < kGroups) &&
              (kN % kTileN == 0 || column < kColumns))
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
          if (exists && (kN % kTileN == 0 || column < kColumns))
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
        if (row < args.m && (kGroups % 4 == 0 || group < kGroups) &&
            (kN % kTileN == 0 || column < kColumns))
          Fusion::template apply<8 * kRun>(args, row, column, parts);
      }
    }
  }

  static __device__ __forceinline__ void consume(const Args& args, const Shared& at,
                                                 const Schedule& schedule, int cluster,
                                                 int num_clusters, int rank, u32* flag) {
    const int group = warpgroup_index();
    const int warp = static_cast<int>(threadIdx.x % kGroup / kWarp);
    const int row = kPingpong ? 0 : group * kRows;
    Ring ring;
    Sums sum;
    // In turns: a group may wait for stages only once the other has had all that come before.
    if (kPingpong && group == 1) named_arrive(2, kMathGroups * kGroup);
    int turn = 0;
    for (int work = cluster; work < schedule.count; work += num_clusters, turn ^= 1) {
      const Tile tile = schedule.at(work, rank);
      const int turns = first_k(tile.split + 1) - first_k(tile.split);
      if (kPingpong && turn != group) {
        ring.advance(turns);
        continue;
      }
      if constexpr (Fusion::kFused)
        Fusion::prefetch(args, tile.column0 / kParts, min(kTileN, kN - tile.column0) / kParts,
                         static_cast<int>(threadIdx.x) % kGroup);
      if constexpr (kPingpong) named_sync(2 + static_cast<u32>(group), kMathGroups * kGroup);
      multiply(at, ring, turns, row, sum);
      if constexpr (kPingpong) named_arrive(3 - static_cast<u32>(group), kMathGroups * kGroup);
      if constexpr (kSplitK > 1) {
        if (!add_splits(args, tile, flag, sum)) continue;
      }
#pragma unroll
      for (int i = 0; i < kBlocksM; ++i) {
        const i64 first = tile.row0 + row + i * 64 + warp * 16;
        if constexpr (!Fusion::kFused) {
          store(args, first, tile.column0, sum[i]);
        } else if constexpr (Fusion::kLeavesY) {
          store_pairs(args, first, tile.column0 / kParts, sum[i]);
        } else {
          store_groups(args, first, tile.column0 / kParts, sum[i]);
        }
      }
    }
  }

  static __device__ __forceinline__ void run(const Args& args, unsigned char* smem) {
    run_as<WgmmaGemm>(args, smem);
  }

  /// Kernel::consume(args, at, schedule, cluster, num_clusters, rank, flag) makes the products of the
  /// tiles that arrive, by the schedule, and stores them; it must hand back every stage. Where
  /// Kernel::kAssists, a warp runs Kernel::assist(args, at, schedule, cluster, num_clusters, rank), which
  /// arrives once at every full stage.
  template <class Kernel, class KernelArgs>
  static __device__ __forceinline__ void run_as(const KernelArgs& args, unsigned char* smem) {
    const u32 base = (shared_address(smem) + 1023) / 1024 * 1024;
    Shared at;
    at.tiles = base;
    at.full = base + kStages * kStageBytes;
    at.empty = at.full + kStages * 8;
    u32* flag = reinterpret_cast<u32*>(smem + (at.empty + kStages * 8 - shared_address(smem)));
    const int rank = kCluster == 1 ? 0 : static_cast<int>(cluster_rank());
    const int cluster = static_cast<int>(blockIdx.x) / kCluster;
    const int num_clusters = static_cast<int>(gridDim.x) / kCluster;

    pdl_launch_dependents();
    if (threadIdx.x == 0) {
      prefetch_map(args.x_map);
      prefetch_map(args.w_map);
      constexpr u32 kWarps = (kPingpong ? 1 : kMathGroups) * kGroup / kWarp;  // that read a stage
      for (int s = 0; s < kStages; ++s) {
        barrier_init(at.is_full(s), Kernel::kAssists ? 2 : 1);
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
      give_registers<Kernel::kAssists ? 56 : 40>();
      if (threadIdx.x == kMathGroups * kGroup)
        produce(args, at, schedule, cluster, num_clusters, rank);
      if constexpr (Kernel::kAssists) {
        if (threadIdx.x / kWarp == kMathGroups * kGroup / kWarp + 1)
          Kernel::assist(args, at, schedule, cluster, num_clusters, rank);
      }
    } else {
      take_registers<Kernel::kAssists ? 224 : 232>();
      Kernel::consume(args, at, schedule, cluster, num_clusters, rank, flag);
    }
    // No block may end while another of its cluster still writes to it.
    if constexpr (kCluster > 1) {
      __syncwarp();
      cluster_sync();
    }
  }
};

}  // namespace quern
