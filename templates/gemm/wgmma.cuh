// y[m, n] = sum over k of x[m, k] * w[n, k] on the tensor cores of Hopper (sm_90a), for many rows.
//
//   x [m, k], w [n, k], y [m, n]: row-major; bf16 or f16 in, the same or fp32 out; fp32 sums.
//   m is an argument, n and k are compile-time constants, multiples of 8; any m >= 1: what lies
//   outside the matrices arrives in shared memory as zeros and is not stored.
//
// Blocks stay resident, one on every SM, and walk over tiles of y. A block is a warpgroup whose
// first thread requests tiles of x and w through TMA into a ring in shared memory, and two
// warpgroups that multiply them (wgmma); full and empty stages are handed over by barriers.
//
// Tunables (Config)
//   tile_m, tile_n  a tile of y
//   tile_k          64: rows of a stage's tiles are 128 bytes, the swizzle's span
//   stages          depth of the ring
//   pingpong        false: each warpgroup has half of the rows of every tile. true: each has every
//                   second tile, so that one stores its results while the other multiplies
//   cluster         blocks along m that share a tile of w, each fetching a part of it for all
//   split_k         blocks that share an output tile; each leaves fp32 sums in the workspace, and
//                   the last to arrive adds them in order of k: results do not depend on timing
//   cluster_k       the same by the blocks of a cluster, which send each other their sums through
//                   distributed shared memory; each adds, in order of k, and stores a part of the
//                   columns. They do so once: every tile then has a cluster of its own. At 64 x
//                   4096 x 4096 10.9 us, through the workspace 12.9 (H200)
//   stream_k        1: tiles that would leave a last round incomplete are divided along k among
//                   all blocks (common/stream_k.cuh)
//   group_m         tiles (of a cluster) along m that are visited together, to find w in L2
//
// Tiles of w are requested before griddepcontrol.wait: weights do not depend on the previous
// kernel.
//
// Sources: PTX ISA 9.0; the division of work follows CUTLASS's warp-specialised persistent kernels
// for Hopper (cooperative and pingpong).
#pragma once
#include "common/cluster_sums.cuh"
#include "common/grid.cuh"
#include "common/mbarrier.cuh"
#include "common/memory.cuh"
#include "common/ring.cuh"
#include "common/stream_k.cuh"
#include "common/tma.cuh"
#include "common/types.cuh"
#include "common/wgmma.cuh"
#include "common/workspace_args.h"
#include "gemm/fusion.cuh"
#include "gemm/gemm_args.h"
#include "gemm/wgmma_store.cuh"

namespace quern {

/// Product: Product::run(d, a, b) adds 64 rows x tile_n columns of one stage (common/wgmma.h); Sum:
/// the type of what it adds to.
template <class Problem, class Config, class Product, class Fusion = StoreSums<GemmTmaArgs>,
          class Sum = float>
struct WgmmaGemm {
  using Args = typename Fusion::Args;
  static constexpr int kN = Problem::n, kK = Problem::k;
  static constexpr int kTileM = Config::tile_m, kTileN = Config::tile_n, kTileK = Config::tile_k;
  static constexpr int kStages = Config::stages, kSplitK = Config::split_k;
  static constexpr int kCluster = Config::cluster, kGroupM = Config::group_m;
  static constexpr int kClusterK = Config::cluster_k, kBlocks = kCluster * kClusterK;
  static constexpr bool kPingpong = Config::pingpong, kStreamK = Config::stream_k != 0;
  static constexpr bool kAssists = false;
  static constexpr int kGroup = 128;  // threads of a warpgroup
  static constexpr int kMathGroups = 2;
  static constexpr int kRows = kPingpong ? kTileM : kTileM / kMathGroups;  // of a warpgroup
  static constexpr int kBlocksM = kRows / 64, kSums = kTileN / 2;
  static constexpr int kSharers = kSplitK * kClusterK;  // blocks that have a part of a tile's k
  static constexpr int kTilesN = ceil_div(kN, kTileN), kTilesK = ceil_div(kK, kTileK);
  static constexpr int kSteps = kTilesK;  // of a tile
  static constexpr int kBytesX = kTileM * kTileK * 2, kBytesW = kTileN * kTileK * 2;
  static constexpr int kStageBytes = kBytesX + kBytesW;
  static constexpr bool kWhole = kN % kTileN == 0;  // all columns of all tiles exist

  static_assert(kTileK == 64, "a row of a stage's tile is 128 bytes");
  static_assert(kRows % 64 == 0, "wgmma multiplies 64 rows");
  static_assert(!kPingpong || kSplitK == 1, "sums of splits are added by the whole block");
  static_assert(kClusterK == 1 || (kCluster == 1 && kSplitK == 1), "one way of sharing a tile");
  static_assert(!kStreamK || kSharers == 1, "one way of sharing a tile");
  static_assert(kTileN % (8 * kCluster) == 0,
                "each block of a cluster fetches whole groups of rows");

  struct Tile {
    int row0, column0, split, index;
  };

  /// Where a block stands in its cluster.
  struct Rank {
    int m, k;
    __device__ explicit Rank(int rank)
        : m(kCluster == 1 ? 0 : rank), k(kClusterK == 1 ? 0 : rank) {}
  };

  /// Where the n-th tile of this cluster lies; `count` of all.
  struct Schedule {
    int rows, count;  // rows of tiles of a cluster; work in all
    __device__ explicit Schedule(int m)
        : rows(ceil_div(ceil_div(m, kTileM), kCluster)), count(rows * kTilesN * kSplitK) {}
    __device__ Tile at(int work, const Rank& rank) const {
      const int tile = work / kSplitK;
      const int first = tile / (kGroupM * kTilesN) * kGroupM;
      const int group = min(rows - first, kGroupM), in_group = tile % (kGroupM * kTilesN);
      return {((first + in_group % group) * kCluster + rank.m) * kTileM, in_group / group * kTileN,
              work % kSplitK + rank.k, tile * kCluster + rank.m};
    }
  };
  static __device__ __forceinline__ int first_step(int split) { return split * kTilesK / kSharers; }

  using Parts =
      typename ChooseType<kStreamK, StreamedTiles<WgmmaGemm>, WholeTiles<WgmmaGemm>>::Type;
  using Part = TilePart<WgmmaGemm>;

  using Ring = RingPlace<kStages>;
  using Exchange = ClusterSums<Sum, kClusterK, kBlocksM, kSums, kPingpong ? kGroup : 2 * kGroup>;

  using Streamed = StreamKSums<kBlocksM, kSums, kPingpong ? kGroup : 2 * kGroup>;

  struct Shared {
    u32 tiles, full, empty;
    Exchange exchange;  // of sums with the other blocks of a tile
    __device__ u32 x(int stage) const { return tiles + static_cast<u32>(stage) * kStageBytes; }
    __device__ u32 w(int stage) const { return x(stage) + kBytesX; }
    __device__ u32 is_full(int stage) const { return full + static_cast<u32>(stage) * 8; }
    __device__ u32 is_empty(int stage) const { return empty + static_cast<u32>(stage) * 8; }
  };

  /// Shared memory behind all that is described here.
  static __device__ __forceinline__ u32 end_of(const Shared& at) {
    return at.empty + kStages * 8 + 16 +
           (kClusterK > 1 ? 16 + (kClusterK - 1) * Exchange::kBytes : 0u);
  }

  static __device__ __forceinline__ void load_x(const Args& args, const Shared& at, int stage,
                                                const Tile& tile, int tile_k) {
    tma_load(at.x(stage), args.x_map, at.is_full(stage), tile_k * kTileK, tile.row0);
  }
  static __device__ __forceinline__ void load_w(const Args& args, const Shared& at, int stage,
                                                const Tile& tile, int tile_k, const Rank& rank) {
    barrier_arrive_expect(at.is_full(stage), kStageBytes);
    if constexpr (kCluster == 1) {
      tma_load(at.w(stage), args.w_map, at.is_full(stage), tile_k * kTileK, tile.column0);
    } else {
      constexpr int part = kTileN / kCluster;
      tma_load_multicast(at.w(stage) + static_cast<u32>(rank.m * part * kTileK * 2), args.w_map,
                         at.is_full(stage), tile_k * kTileK, tile.column0 + rank.m * part,
                         (1u << kCluster) - 1);
    }
  }

  /// One thread.
  static __device__ __forceinline__ void produce(const Args& args, const Shared& at,
                                                 const Schedule& schedule, int cluster,
                                                 int num_clusters, const Rank& rank) {
    Ring ring;
    int ahead = 0;  // stages of the first part whose w was requested before the wait
    Part part;
    if (Parts walk(schedule, rank, cluster, num_clusters); walk.next(part)) {
      ahead = min(kStages, part.end - part.begin);
      for (int s = 0; s < ahead; ++s) load_w(args, at, s, part.tile, part.begin + s, rank);
    }
    pdl_wait();
    for (Parts walk(schedule, rank, cluster, num_clusters); walk.next(part);)
      for (int k = part.begin; k < part.end; ++k) {
        if (ahead > 0) {
          --ahead;
        } else {
          barrier_wait(at.is_empty(ring.stage), ring.parity ^ 1);
          load_w(args, at, ring.stage, part.tile, k, rank);
        }
        load_x(args, at, ring.stage, part.tile, k);
        ring.advance();
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

  /// Leaves this block's sums in the workspace; in the last block of the tile to arrive, replaces
  /// them by the sums of all and returns true. [tile][split][fragment][thread] of four floats.
  static __device__ __forceinline__ bool add_splits(const Args& args, const Tile& tile, u32* flag,
                                                    Sums& sum) {
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

  /// Calls store(row, column, sums) for each 16 rows of the warp, from row `row0` on, and the
  /// columns of the tile that are this block's: all of them, or its part of what the blocks that
  /// share the tile have added up.
  template <class AllSums, class Store>
  static __device__ __forceinline__ void store_own(const Shared& at, const Rank& rank,
                                                   const Tile& tile, i64 row0, const AllSums& sum,
                                                   const Store& store) {
    if constexpr (kClusterK > 1) {
      cluster_wait();  // the others have begun
      typename Exchange::Part part;
      at.exchange.add(0, true, threadIdx.x % Exchange::kThreads, sum, part);
#pragma unroll
      for (int i = 0; i < kBlocksM; ++i)
        store(row0 + i * 64, tile.column0 + rank.k * (kTileN / kClusterK), part[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kBlocksM; ++i) store(row0 + i * 64, tile.column0, sum[i]);
    }
  }

  static __device__ __forceinline__ void consume(const Args& args, const Shared& at,
                                                 const Schedule& schedule, int cluster,
                                                 int num_clusters, const Rank& rank, u32* flag) {
    const int group = warpgroup_index();
    const int warp = static_cast<int>(threadIdx.x % kGroup / kWarp);
    const int row = kPingpong ? 0 : group * kRows;
    Ring ring;
    Sums sum;
    // In turns: a group may wait for stages only once the other has had all that come before.
    if (kPingpong && group == 1) named_arrive(2, kMathGroups * kGroup);
    Part part;
    Parts walk(schedule, rank, cluster, num_clusters);
    for (int turn = 0; walk.next(part); turn ^= 1) {
      const Tile& tile = part.tile;
      const int turns = part.end - part.begin;
      if (kPingpong && turn != group) {
        ring.advance(turns);
        continue;
      }
      if constexpr (Fusion::kFused)
        Fusion::prefetch(args, tile.column0 / Fusion::kParts,
                         min(kTileN, kN - tile.column0) / Fusion::kParts,
                         static_cast<int>(threadIdx.x) % kGroup);
      if constexpr (kPingpong) named_sync(2 + static_cast<u32>(group), kMathGroups * kGroup);
      multiply(at, ring, turns, row, sum);
      if constexpr (kPingpong) named_arrive(3 - static_cast<u32>(group), kMathGroups * kGroup);
      if constexpr (kSplitK > 1) {
        if (!add_splits(args, tile, flag, sum)) continue;
      }
      if constexpr (kStreamK) {
        const auto slot = [&](int walker) { return walker * kCluster + rank.m; };
        const int thread = static_cast<int>(threadIdx.x) % Streamed::kThreads;
        const u32 barrier = kPingpong ? 4 + static_cast<u32>(group) : 1;
        if (part.begin > 0) {
          Streamed::leave(args.workspace, slot(cluster), thread, barrier, sum);
          continue;
        }
        if (part.end < kTilesK)
          Streamed::gather(args.workspace, walk.plan, cluster, walk.tile, thread, barrier, sum,
                           slot);
      }
      const i64 row0 = tile.row0 + row + warp * 16;
      store_own(at, rank, tile, row0, sum, [&](i64 first, int column, const auto& sums) {
        WgmmaStore<Problem, Fusion, kTileN / kClusterK, kWhole>::run(args, first, column, sums);
      });
    }
  }

  static __device__ __forceinline__ void run(const Args& args, unsigned char* smem) {
    run_as<WgmmaGemm>(args, smem);
  }

  /// Kernel::consume(args, at, schedule, cluster, num_clusters, rank, flag) makes the products of
  /// the tiles that arrive, by the schedule, and stores them; it must hand back every stage. Where
  /// Kernel::kAssists, a warp runs Kernel::assist(args, at, schedule, cluster, num_clusters, rank),
  /// which arrives once at every full stage.
  template <class Kernel, class KernelArgs>
  static __device__ __forceinline__ void run_as(const KernelArgs& args, unsigned char* smem) {
    const u32 base = (shared_address(smem) + 1023) / 1024 * 1024;
    Shared at;
    at.tiles = base;
    at.full = base + kStages * kStageBytes;
    at.empty = at.full + kStages * 8;
    u32* flag = reinterpret_cast<u32*>(smem + (at.empty + kStages * 8 - shared_address(smem)));
    const Rank rank(kBlocks == 1 ? 0 : static_cast<int>(cluster_rank()));
    const u32 exchange = at.empty + kStages * 8 + 16;
    at.exchange = {exchange + 16, exchange, exchange + 8, rank.k, 0};
    const int cluster = static_cast<int>(blockIdx.x) / kBlocks;
    const int num_clusters = static_cast<int>(gridDim.x) / kBlocks;

    pdl_launch_dependents();
    if (threadIdx.x == 0) {
      prefetch_map(args.x_map);
      prefetch_map(args.w_map);
      constexpr u32 kWarps = (kPingpong ? 1 : kMathGroups) * kGroup / kWarp;  // that read a stage
      for (int s = 0; s < kStages; ++s) {
        barrier_init(at.is_full(s), Kernel::kAssists ? 2 : 1);
        barrier_init(at.is_empty(s), kWarps * kCluster);
      }
      if constexpr (kClusterK > 1) at.exchange.init();
      barrier_init_fence();
    }
    if constexpr (kCluster > 1) {
      cluster_sync();
    } else {
      if constexpr (kClusterK > 1) cluster_arrive();
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
