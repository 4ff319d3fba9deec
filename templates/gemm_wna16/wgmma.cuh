// y[m, n] = x[m, k] · w[n, k]ᵀ with weights of 4 or 8 bits on the tensor cores of Hopper (sm_90a),
// for tens to thousands of rows of x.
//
//   x [m, k], y [m, n]: row-major; bf16 or f16 in, the same or fp32 out; fp32 sums.
//   codes, scales, zeros: kernel order (gemm_wna16_args.h). m is an argument.
//
// w is the A operand of wgmma, from registers: a warp holds 16 rows of it, which is what a lane's
// 16 bytes of a unit are. Tokens are the N of the product and come from shared memory. A block is
// two to four warpgroups that make fragments and multiply, and one that requests tiles of x through
// TMA and chunks of w by bulk copies into a ring in shared memory; full and empty stages are handed
// over by barriers. A fragment is made while the product before it runs: two sets of registers take
// turns. Scales multiply the fragments, rounding them to 16 bits once more.
//
// Blocks stay resident, one on every SM, and walk over tiles of y. Chunks of w are requested before
// griddepcontrol.wait: weights do not depend on the previous kernel.
//
// Tunables (Config)
//   tile_m     tokens of a tile, multiples of 16 up to 256
//   tile_n     rows of w of a tile: 64 or 128 for each warpgroup
//   warps_n    warps that multiply, along the rows of w: 4, 8, 12 or 16, by fours warpgroups
//   warps_k    warpgroups that share the columns of every stage: 1 or 2; 4 in all at most
//   units      units of 512 bytes that a row tile advances at a stage
//   stages     depth of the ring
//   split_k    blocks that share an output tile; each leaves fp32 sums in the workspace and the
//   last
//              to arrive adds them in order of k, so results do not depend on timing
//   cluster_m  blocks of a cluster along m, each of which fetches a part of w for all
//   cluster_n  blocks of a cluster along n, each of which fetches a part of x for all
//   cluster_k  blocks of a cluster that share an output tile: each adds up a part of its tokens in
//              order of k, sums being sent through distributed shared memory. At 64 x 4096 x 4096
//              1.5 to 2 us less than through the workspace (H200)
//   stream_k   1: tiles that would leave a last round incomplete are divided along k among all
//              blocks (common/stream_k.cuh)
//   group_m    tiles (of a cluster) along m that are visited together, so that x stays in L2 while
//              w passes by
//   tma_store  outputs leave through shared memory, turned about, while the next tile begins. From
//              registers they are 16 bytes of a row of 16-bit outputs: at 2048 x 28672 x 4096 that
//              took 12% longer (H200)
//
// Sources: PTX ISA 9.0, "wgmma.mma_async".
#pragma once
#include "common/cluster_sums.cuh"
#include "common/grid.cuh"
#include "common/mbarrier.cuh"
#include "common/memory.cuh"
#include "common/mma.cuh"
#include "common/quad.cuh"
#include "common/ring.cuh"
#include "common/stream_k.cuh"
#include "common/tma.cuh"
#include "common/types.cuh"
#include "common/wgmma.cuh"
#include "common/workspace_args.h"
#include "gemm_wna16/chunk.cuh"
#include "gemm_wna16/dequantise.cuh"
#include "gemm_wna16/finish.cuh"
#include "gemm_wna16/gemm_wna16_args.h"

namespace quern {

/// Product: Product::run(d, a, b) adds the product of 64 x 16 in registers and tile_m x 16 by
/// descriptor (gemm_wna16_wgmma.cpp writes it).
template <class Problem, class Config, class Product, class Fusion = StoreSums<GemmWna16TmaArgs>>
struct WgmmaWna16 {
  using Args = typename Fusion::Args;
  using T = typename Problem::Input;
  using Out = typename Problem::Output;
  static constexpr int kN = Problem::n, kK = Problem::k, kBits = Problem::bits;
  static constexpr bool kZeros = Problem::zero_points;
  static constexpr int kTileM = Config::tile_m, kTileN = Config::tile_n;
  static constexpr int kStages = Config::stages, kSplitK = Config::split_k;
  static constexpr int kUnits = Config::units;
  using Chunk = Wna16Chunk<Problem, kUnits>;
  static constexpr int kColumns = Chunk::kColumns, kChunks = Chunk::kChunks;
  static constexpr int kSteps = kChunks;  // of a tile
  static constexpr int kClusterM = Config::cluster_m, kClusterN = Config::cluster_n;
  static constexpr int kClusterK = Config::cluster_k, kGroupM = Config::group_m;
  static constexpr int kSharing = kClusterM * kClusterN;  // blocks that fill each other's stages
  static constexpr int kCluster = kSharing * kClusterK;
  static constexpr bool kTmaStore = Config::tma_store, kStreamK = Config::stream_k != 0;
  static constexpr int kGroup = 128;  // threads of a warpgroup
  static constexpr int kGroupsN = Config::warps_n / 4, kGroupsK = Config::warps_k;
  static constexpr int kMathGroups = kGroupsN * kGroupsK, kMathThreads = kMathGroups * kGroup;
  static constexpr int kStoreThreads = kGroupsN * kGroup;    // those that end up with sums
  static constexpr int kBlocksN = kTileN / (64 * kGroupsN);  // of 64 rows, of a warpgroup
  static constexpr int kOwnUnits = kUnits / kGroupsK, kOwnColumns = kOwnUnits * Chunk::kUnitColumns;
  static constexpr int kOwnSpans = ceil_div(kOwnColumns, Chunk::kSpan);
  static constexpr int kSums = kTileM / 2, kTiles = kTileN / 16;
  static constexpr int kColumnsN = ceil_div(ceil_div(kN, kTileN), kClusterN);  // of clusters
  static constexpr int kBytesX = kTileM * kColumns * 2, kBytesW = kTiles * Chunk::kBytes;
  static constexpr int kStageBytes =
      wna16_wgmma_stage_bytes(kBits, Problem::group_size, kZeros, kTileM, kTileN, kUnits);

  // Of a thread; together what the launch gives to all, in units of 8.
  static constexpr int kThreads = kMathThreads + kGroup;
  static constexpr int kRegisters = 65536 / kThreads / 8 * 8;
  static constexpr int kProducerRegisters = kMathGroups == 2 ? 40 : 32;
  static constexpr int kMathRegisters =
      (kRegisters * kThreads - kProducerRegisters * kGroup) / kMathThreads / 8 * 8;

  /// k16 steps whose fragments are made, and then multiplied, together.
  static constexpr int kBatch = kOwnUnits % 2 == 0 && kBlocksN * kSums <= 64 && kRegisters > 100
                                    ? Chunk::kSteps
                                    : Chunk::kSteps / 2;
  static constexpr int kBatches = Chunk::kSteps / kBatch;  // of a unit

  static_assert(kMathGroups >= 2 && kMathGroups <= 4, "two to four warpgroups multiply");
  static_assert(kTileM % (8 * kClusterN) == 0, "blocks fetch whole swizzled rows of x");
  static_assert(kTiles % kClusterM == 0, "blocks fetch whole row tiles of w");
  static_assert(kTileM % (8 * kClusterK) == 0, "blocks store whole groups of tokens");
  static_assert(!kTmaStore || kClusterK == 1, "blocks that add up a tile store parts of it");
  static_assert(!kStreamK || kSplitK * kClusterK == 1, "one way of sharing a tile");
  static_assert(!kTmaStore || !Fusion::kFused, "an expression stores its results itself");
  static_assert(kTileN % (64 * kGroupsN) == 0 && kTiles <= kWarp,
                "warpgroups have whole blocks of 64 rows");
  static_assert(kTileM % 16 == 0 && kTileM <= 256, "a product has 16 to 256 tokens");
  static_assert(kColumns % 64 == 0, "x comes in blocks of 64 columns");
  static_assert(Chunk::kUnitsK % kUnits == 0, "stages are whole: a product may not be skipped");
  static_assert(kUnits % kGroupsK == 0 && kOwnUnits * kBatches % 2 == 0,
                "two sets of registers take turns");
  static_assert(kOwnColumns % Chunk::kSpan == 0 || Chunk::kSpan == kColumns,
                "warpgroups have whole spans of scales, or share one");

  struct Tile {
    int row0, column0, split, index;
  };
  /// Where a block stands in its cluster.
  struct Rank {
    int m, n, k;
    __device__ explicit Rank(int rank)
        : m(rank / kClusterK % kClusterM), n(rank / kClusterK / kClusterM), k(rank % kClusterK) {}
    /// Number in the cluster of the block that has the first part of k of the same tile.
    __device__ u32 first_of_tile() const {
      return static_cast<u32>(kClusterK * (m + kClusterM * n));
    }
    /// The blocks that share x with this one, and those that share w, a bit each.
    __device__ u16 sharing_x() const {
      u32 blocks = 0;
#pragma unroll
      for (int i = 0; i < kClusterN; ++i) blocks |= 1u << (k + kClusterK * (m + kClusterM * i));
      return static_cast<u16>(blocks);
    }
    __device__ u16 sharing_w() const {
      u32 blocks = 0;
#pragma unroll
      for (int i = 0; i < kClusterM; ++i) blocks |= 1u << (k + kClusterK * (i + kClusterM * n));
      return static_cast<u16>(blocks);
    }
  };
  struct Schedule {
    int rows, count;  // rows of tiles of a cluster; work in all
    __device__ explicit Schedule(int m)
        : rows(ceil_div(ceil_div(m, kTileM), kClusterM)), count(rows * kColumnsN * kSplitK) {}
    __device__ Tile at(int work, const Rank& rank) const {
      const int tile = work / kSplitK;
      const int first = tile / (kGroupM * kColumnsN) * kGroupM;
      const int group = min(rows - first, kGroupM), in_group = tile % (kGroupM * kColumnsN);
      return {((first + in_group % group) * kClusterM + rank.m) * kTileM,
              (in_group / group * kClusterN + rank.n) * kTileN, work % kSplitK * kClusterK + rank.k,
              tile * kSharing + rank.n * kClusterM + rank.m};
    }
  };
  static __device__ __forceinline__ int first_step(int split) {
    return split * kChunks / (kSplitK * kClusterK);
  }

  using Parts =
      typename ChooseType<kStreamK, StreamedTiles<WgmmaWna16>, WholeTiles<WgmmaWna16>>::Type;
  using Part = TilePart<WgmmaWna16>;
  using Streamed = StreamKSums<kBlocksN, kSums, kStoreThreads>;

  using Ring = RingPlace<kStages>;
  using Exchange = ClusterSums<float, kClusterK, kBlocksN, kSums, kStoreThreads>;

  struct Shared {
    unsigned char* tiles;
    u32 full, empty;
    u32 stores;         // buffers of y
    float* halves;      // sums of the second warpgroups along k
    Exchange exchange;  // of sums with the other blocks of a tile
    __device__ unsigned char* x(int stage) const { return tiles + stage * kStageBytes; }
    __device__ unsigned char* w(int stage) const { return x(stage) + kBytesX; }
    __device__ u32 is_full(int stage) const { return full + static_cast<u32>(stage) * 8; }
    __device__ u32 is_empty(int stage) const { return empty + static_cast<u32>(stage) * 8; }
  };

  /// A row tile for each thread; `index` counts the producers.
  static __device__ __forceinline__ void load_w(const Args& args, const Shared& at, int stage,
                                                const Tile& tile, int chunk, const Rank& rank,
                                                int index) {
    const u32 barrier = at.is_full(stage);
    if (index == 0) barrier_arrive_expect(barrier, kBytesX + kTiles * Chunk::bytes_of(chunk));
    constexpr int kOwn = kTiles / kClusterM;
    if (index < kOwn) {
      const int row_tile = rank.m * kOwn + index;
      Chunk::template load_bulk<kClusterM>(
          args, shared_address(at.w(stage)) + static_cast<u32>(row_tile * Chunk::kBytes),
          min(tile.column0 / 16 + row_tile, kN / 16 - 1), chunk, barrier, rank.sharing_w());
    }
  }
  static __device__ __forceinline__ void load_x(const Args& args, const Shared& at, int stage,
                                                const Tile& tile, int chunk, const Rank& rank,
                                                int index) {
    if (index >= kColumns / 64) return;
    const int column = chunk * kColumns + index * 64;
    const u32 to = shared_address(at.x(stage)) + static_cast<u32>(index * kTileM * 128);
    if constexpr (kClusterN == 1) {
      tma_load(to, args.x_map, at.is_full(stage), column, tile.row0);
    } else {
      const int row = rank.n * (kTileM / kClusterN);
      tma_load_multicast(to + static_cast<u32>(row * 128), args.x_map, at.is_full(stage), column,
                         tile.row0 + row, rank.sharing_x());
    }
  }

  /// One warpgroup: copies are issued one by one, by all four warps in turns.
  static __device__ __forceinline__ void produce(const Args& args, const Shared& at,
                                                 const Schedule& schedule, int cluster,
                                                 int num_clusters, const Rank& rank) {
    const int index = static_cast<int>(threadIdx.x % kWarp * 4 + threadIdx.x % kGroup / kWarp);
    Ring ring;
    int ahead = 0;  // stages of the first part whose w was requested before the wait
    Part part;
    if (Parts parts(schedule, rank, cluster, num_clusters); parts.next(part)) {
      ahead = min(kStages, part.end - part.begin);
      for (int s = 0; s < ahead; ++s) load_w(args, at, s, part.tile, part.begin + s, rank, index);
    }
    pdl_wait();
    for (Parts parts(schedule, rank, cluster, num_clusters); parts.next(part);)
      for (int chunk = part.begin; chunk < part.end; ++chunk) {
        if (ahead > 0) {
          --ahead;
        } else {
          barrier_wait(at.is_empty(ring.stage), ring.parity ^ 1);
          load_w(args, at, ring.stage, part.tile, chunk, rank, index);
        }
        load_x(args, at, ring.stage, part.tile, chunk, rank, index);
        ring.advance();
      }
  }

  /// Hands a stage back to the blocks that fill it.
  static __device__ __forceinline__ void release(const Shared& at, int stage, const Rank& rank,
                                                 int lane) {
    if constexpr (kSharing == 1) {
      if (lane == 0) barrier_arrive(at.is_empty(stage));
    } else {
      if (lane < kSharing)
        barrier_arrive_at(at.is_empty(stage), static_cast<u32>(rank.k + kClusterK * lane));
    }
  }

  using Sums = float[kBlocksN][kSums];

  /// Sums of one tile over its share of k; of every chunk warpgroup `part` along k has its part.
  static __device__ __forceinline__ void multiply(const Shared& at, Ring& ring, int begin, int end,
                                                  int row_tile, int part, int lane,
                                                  const Rank& rank, Sums& sum) {
#pragma unroll
    for (int i = 0; i < kBlocksN; ++i)
#pragma unroll
      for (int j = 0; j < kSums; ++j) sum[i][j] = 0.0f;
    ZeroPoints<T, kBits> zeros[kZeros ? kBlocksN : 1];
    if constexpr (!kZeros) zeros[0].set_symmetric();
    u32 a[2][kBatch][kBlocksN][4];
    int last = -1;
#pragma unroll 1
    for (int chunk = begin; chunk < end; ++chunk) {
      barrier_wait(at.is_full(ring.stage), ring.parity);
      const u64 x = wgmma_operand(
          shared_address(at.x(ring.stage)) +
          static_cast<u32>(kGroupsK == 1 ? 0 : part * (kOwnColumns / 64 * kTileM * 128)));
      const unsigned char* w = at.w(ring.stage) + row_tile * Chunk::kBytes;
      const int first_unit = kGroupsK == 1 ? 0 : part * kOwnUnits;
      const int first_column =
          kGroupsK == 1 || Chunk::kSpan > kOwnColumns ? 0 : part * kOwnColumns;  // of scales
      Bytes<16> codes[kOwnUnits][kBlocksN];
      u32 scales[kOwnSpans][kBlocksN];
#pragma unroll
      for (int i = 0; i < kBlocksN; ++i) {
#pragma unroll
        for (int u = 0; u < kOwnUnits; ++u)
          codes[u][i] = Chunk::codes(w + i * 4 * Chunk::kBytes, first_unit + u, lane);
#pragma unroll
        for (int span = 0; span < kOwnSpans; ++span)
          scales[span][i] =
              Chunk::scales(w + i * 4 * Chunk::kBytes, first_column + span * Chunk::kSpan, lane);
      }
#pragma unroll
      for (int u = 0; u < kOwnUnits; ++u) {
#pragma unroll
        for (int batch = 0; batch < kBatches; ++batch) {
          const int p = (u * kBatches + batch) % 2;
          const int first = u * Chunk::kUnitColumns + batch * kBatch * 16;
#pragma unroll
          for (int s = 0; s < kBatch; ++s)
#pragma unroll
            for (int i = 0; i < kBlocksN; ++i) {
              const int step = batch * kBatch + s, column = first + s * 16;
              if constexpr (kZeros) {
                if (step == 0 || column % Chunk::kSpan == 0)
                  zeros[i].set(
                      Chunk::zeros(w + i * 4 * Chunk::kBytes, first_column + column, lane));
              }
              const u32 pair = scales[column / Chunk::kSpan][i];
              const u32 scale[2] = {twice_low(pair), twice_high(pair)};
              dequantise<T, kBits, !kZeros>(codes[u][i].word, step, zeros[kZeros ? i : 0],
                                            a[p][s][i]);
#pragma unroll
              for (int r = 0; r < 4; ++r) a[p][s][i][r] = mul2<T>(a[p][s][i][r], scale[r % 2]);
            }
          wgmma_fence();
#pragma unroll
          for (int s = 0; s < kBatch; ++s)
#pragma unroll
            for (int i = 0; i < kBlocksN; ++i) {
              const int column = first + s * 16;
              Product::run(sum[i], a[p][s][i],
                           x + static_cast<u64>(column / 64 * (kTileM * 8) + column % 64 / 8));
            }
          wgmma_commit();
          wgmma_wait<1>();  // the other set of registers is free
          if (u == 0 && batch == 0 && last >= 0) release(at, last, rank, lane);
        }
      }
      last = ring.stage;
      ring.advance();
    }
    wgmma_wait<0>();
    if (last >= 0) release(at, last, rank, lane);
  }

  /// Adds the sums of the second warpgroups along k to those of the first; true for the first.
  static __device__ __forceinline__ bool add_halves(const Shared& at, int part, Sums& sum) {
    const u32 id = static_cast<u32>(8 + threadIdx.x / kGroup % kGroupsN);
    float* half = at.halves + threadIdx.x % kStoreThreads * 4;
#pragma unroll
    for (int i = 0; i < kBlocksN && part == 1; ++i)
#pragma unroll
      for (int j = 0; j < kSums; j += 4)
        store_vec<float, 4>(half + (i * kSums + j) * kStoreThreads,
                            {sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]});
    named_sync(id, 2 * kGroup);
#pragma unroll
    for (int i = 0; i < kBlocksN && part == 0; ++i)
#pragma unroll
      for (int j = 0; j < kSums; j += 4) {
        const auto v = load_vec<float, 4>(half + (i * kSums + j) * kStoreThreads);
#pragma unroll
        for (int c = 0; c < 4; ++c) sum[i][j + c] += v.element[c];
      }
    named_sync(id, 2 * kGroup);
    return part == 0;
  }

  /// Leaves this block's sums in the workspace; in the last block of the tile to arrive, replaces
  /// them by the sums of all and returns true. [tile][split][fragment][thread] of four floats.
  static __device__ __forceinline__ bool add_splits(const Args& args, const Tile& tile, u32* flag,
                                                    Sums& sum) {
    constexpr i64 kTile = static_cast<i64>(kTileM) * kTileN;
    float* parts =
        reinterpret_cast<float*>(static_cast<unsigned char*>(args.workspace) + kCounterBytes) +
        tile.index * kSplitK * kTile + threadIdx.x * 4;
#pragma unroll
    for (int i = 0; i < kBlocksN; ++i)
#pragma unroll
      for (int j = 0; j < kSums; j += 4)
        store_vec<float, 4>(parts + tile.split * kTile + (i * kSums + j) * kStoreThreads,
                            {sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]});
    __threadfence();
    named_sync(1, kStoreThreads);
    if (threadIdx.x == 0) {
      u32* counter = static_cast<u32*>(args.workspace) + tile.index;
      *flag = atomicAdd(counter, 1u) == kSplitK - 1;
      if (*flag) *counter = 0;
    }
    named_sync(1, kStoreThreads);
    const bool last = *flag != 0;
    named_sync(1, kStoreThreads);  // the flag may be set again
    if (!last) return false;
    __threadfence();
#pragma unroll 1
    for (int other = 0; other < kSplitK; ++other)
#pragma unroll
      for (int i = 0; i < kBlocksN; ++i)
#pragma unroll
        for (int j = 0; j < kSums; j += 4) {
          const auto v =
              load_from_l2<Vec<float, 4>>(parts + other * kTile + (i * kSums + j) * kStoreThreads);
#pragma unroll
          for (int c = 0; c < 4; ++c)
            sum[i][j + c] = other == 0 ? v.element[c] : sum[i][j + c] + v.element[c];
        }
    return true;
  }

  /// Stores 64 columns of y from `column0` on, those of the warpgroup, from row `row0` on: some
  /// tokens at a time are laid out in shared memory as boxes of 128 bytes, turned about, and leave
  /// while the next are, and the warpgroup goes on to the next tile. `index` counts its threads.
  static __device__ __forceinline__ void store_boxes(const Args& args, const Shared& at, int row0,
                                                     int column0, int group, int index, u32& buffer,
                                                     const float (&sum)[kSums]) {
    constexpr int kTokens = wna16_wgmma_store_tokens(kTileM, sizeof(Out));
    constexpr int kBoxes = sizeof(Out) / 2, kBoxBytes = kTokens * 128;
    if (kN % (kTileN * kClusterN) != 0 && column0 >= kN) return;
    const int lane = index % kWarp, warp = index / kWarp;
    const u32 id = static_cast<u32>(2 + group);
#pragma unroll
    for (int token0 = 0; token0 < kTileM; token0 += kTokens) {
      if (token0 > 0 && row0 + token0 >= args.m) break;
      const u32 to = at.stores + (static_cast<u32>(group) * 2 + buffer) * (kBoxes * kBoxBytes);
      buffer ^= 1;
      if (index == 0) bulk_wait_read<1>();
      named_sync(id, kGroup);
      if constexpr (sizeof(Out) == 2) {
        // Chunk c of 16 bytes of row r lies at c ^ r % 8. Four matrices: two groups of 8 columns
        // by two groups of 8 tokens.
        const int chunk = warp * 2 + lane / 8 % 2;
        const u32 address =
            to + static_cast<u32>((lane / 16 * 8 + lane % 8) * 128 + (chunk ^ lane % 8) * 16);
#pragma unroll
        for (int j = 0; j < kTokens / 8; j += 2) {
          const float* v = sum + (token0 / 8 + j) * 4;
          const u32 r[4] = {pack2<Out>(v[0], v[1]), pack2<Out>(v[2], v[3]), pack2<Out>(v[4], v[5]),
                            pack2<Out>(v[6], v[7])};
          stmatrix_x4_trans(address + static_cast<u32>(j * 1024), r);
        }
      } else {
        const int g = lane / 4, t = lane % 4;
        const u32 box = to + static_cast<u32>(warp / 2 * kBoxBytes + g % 4 * 4);
#pragma unroll
        for (int j = 0; j < kTokens / 8; ++j)
#pragma unroll
          for (int r = 0; r < 2; ++r)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              const int chunk = warp % 2 * 4 + r * 2 + g / 4, row = 2 * t + c;
              store_shared(box + static_cast<u32>((j * 8 + row) * 128 + (chunk ^ row) * 16),
                           sum[(token0 / 8 + j) * 4 + 2 * r + c]);
            }
      }
      async_shared_fence();
      named_sync(id, kGroup);
      if (index == 0) {
#pragma unroll
        for (int box = 0; box < kBoxes; ++box)
          tma_store(to + static_cast<u32>(box * kBoxBytes), args.y_map, column0 + box * 32,
                    row0 + token0);
        bulk_commit();
      }
    }
  }

  /// Stores 16 columns of y, `column0` being the warp's first.
  template <int count>
  static __device__ __forceinline__ void store(const Args& args, i64 row0, int column0, int lane,
                                               const float (&sum)[count]) {
    constexpr int kGroups = count / 4;  // of 8 tokens
    if (kN % (kTileN * kClusterN) != 0 && column0 >= kN) return;
    const int t = lane % 4;
    if constexpr (Fusion::kFused) {
#pragma unroll
      for (int j = 0; j < kGroups; ++j)
#pragma unroll
        for (int c = 0; c < 4 / Fusion::kParts; ++c) {
          const i64 row = row0 + j * 8 + 2 * t + c % 2;
          if (row < args.m)
            finish_sum<Fusion, kN, Out>(args, row, column0 + c / 2 * 8 + lane / 4, sum[j * 4 + c],
                                        sum[j * 4 + c % 2 + 2]);
        }
      return;
    }
    Out* y = static_cast<Out*>(args.y) + column0;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if constexpr (sizeof(Out) == 2) {
        // Turned about, a lane has two columns of one token of each of four groups of 8; after the
        // exchange, eight columns of one token of one group.
#pragma unroll
        for (int j = 0; j < kGroups; j += 4) {
          u32 v[4];
#pragma unroll
          for (int q = 0; q < 4; ++q)
            v[q] = j + q < kGroups ? transpose_8x8(pack2<Out>(sum[(j + q) * 4 + 2 * r],
                                                              sum[(j + q) * 4 + 2 * r + 1]))
                                   : 0u;
          quad_transpose(v, t);
          const i64 row = row0 + (j + t) * 8 + lane / 4;
          if (row < args.m && (kGroups % 4 == 0 || j + t < kGroups))
            *reinterpret_cast<Bytes<16>*>(y + row * kN + 8 * r) = {{v[0], v[1], v[2], v[3]}};
        }
      } else {
#pragma unroll
        for (int j = 0; j < kGroups; ++j)
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            const i64 row = row0 + j * 8 + 2 * t + c;
            if (row < args.m) y[row * kN + 8 * r + lane / 4] = sum[j * 4 + 2 * r + c];
          }
      }
    }
  }

  static __device__ __forceinline__ void consume(const Args& args, const Shared& at,
                                                 const Schedule& schedule, int cluster,
                                                 int num_clusters, const Rank& rank, u32* flag) {
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    const int group = static_cast<int>(threadIdx.x / kGroup);
    const int warp = static_cast<int>(threadIdx.x % kGroup / kWarp);
    const int group_n = group % kGroupsN, part_k = group / kGroupsN;
    const int row_tile = group_n * kBlocksN * 4 + warp;  // the warp's first; the others 4 apart
    Ring ring;
    Sums sum;
    u32 parity = 0, buffer = 0;
    bool is_first = true;
    Part part;
    for (Parts parts(schedule, rank, cluster, num_clusters); parts.next(part); is_first = false) {
      const Tile& tile = part.tile;
      multiply(at, ring, part.begin, part.end, row_tile, part_k, lane, rank, sum);
      if constexpr (kGroupsK > 1) {
        if (!add_halves(at, part_k, sum)) continue;
      }
      if constexpr (kClusterK > 1) {
        typename Exchange::Part own;
        if (kSharing == 1 && is_first) cluster_wait();  // the others have begun
        at.exchange.add(parity, parts.work >= schedule.count, threadIdx.x, sum, own);
        parity ^= 1;
#pragma unroll
        for (int i = 0; i < kBlocksN; ++i)
          store(args, tile.row0 + rank.k * (kTileM / kClusterK),
                tile.column0 + (row_tile + i * 4) * 16, lane, own[i]);
      } else {
        if constexpr (kSplitK > 1) {
          if (!add_splits(args, tile, flag, sum)) continue;
        }
        if constexpr (kStreamK) {
          const auto slot = [&](int walker) {
            return walker * kSharing + rank.n * kClusterM + rank.m;
          };
          const int thread = static_cast<int>(threadIdx.x);
          if (part.begin > 0) {
            Streamed::leave(args.workspace, slot(cluster), thread, 1, sum);
            continue;
          }
          if (part.end < kSteps)
            Streamed::gather(args.workspace, parts.plan, cluster, parts.tile, thread, 1, sum, slot);
        }
#pragma unroll
        for (int i = 0; i < kBlocksN; ++i) {
          if constexpr (kTmaStore)
            store_boxes(args, at, tile.row0, tile.column0 + (group_n * kBlocksN + i) * 64, group,
                        static_cast<int>(threadIdx.x % kGroup), buffer, sum[i]);
          else
            store(args, tile.row0, tile.column0 + (row_tile + i * 4) * 16, lane, sum[i]);
        }
      }
    }
    if (kTmaStore && threadIdx.x % kGroup == 0) bulk_wait_read<0>();
  }

  static __device__ __forceinline__ void run(const Args& args, unsigned char* smem) {
    Shared at;
    at.tiles = smem + (1024 - shared_address(smem) % 1024) % 1024;
    at.stores = shared_address(at.tiles) + kStages * kStageBytes;
    const Rank rank(kCluster == 1 ? 0 : static_cast<int>(cluster_rank()));
    const u32 sums =
        at.stores + wna16_wgmma_store_bytes(kTileM, Config::warps_n, kTmaStore, sizeof(Out));
    const u32 halves = sums + wna16_wgmma_sums_bytes(kTileM, kTileN, kClusterK);
    at.halves = reinterpret_cast<float*>(smem + (halves - shared_address(smem)));
    at.full = halves + (kGroupsK - 1) * kTileM * kTileN * 4;
    at.empty = at.full + kStages * 8;
    const u32 exchanged = at.empty + kStages * 8;
    at.exchange = {sums, exchanged, exchanged + 8, rank.k, rank.first_of_tile()};
    u32* flag = reinterpret_cast<u32*>(smem + (exchanged + 16 - shared_address(smem)));
    const int cluster = static_cast<int>(blockIdx.x) / kCluster;
    const int num_clusters = static_cast<int>(gridDim.x) / kCluster;

    pdl_launch_dependents();
    if (threadIdx.x == 0) {
      prefetch_map(args.x_map);
      if constexpr (kTmaStore) prefetch_map(args.y_map);
      constexpr u32 kWarps = kMathThreads / kWarp;
      for (int s = 0; s < kStages; ++s) {
        barrier_init(at.is_full(s), 1);
        barrier_init(at.is_empty(s), kWarps * kSharing);
      }
      at.exchange.init();
      barrier_init_fence();
    }
    if constexpr (kSharing > 1) {
      cluster_sync();
    } else {
      if constexpr (kCluster > 1) cluster_arrive();
      __syncthreads();
    }
    const Schedule schedule(static_cast<int>(args.m));
    if (threadIdx.x >= kMathThreads) {
      give_registers<kProducerRegisters>();
      produce(args, at, schedule, cluster, num_clusters, rank);
    } else {
      take_registers<kMathRegisters>();
      consume(args, at, schedule, cluster, num_clusters, rank, flag);
    }
    // No block may end while another of its cluster still fills its stages. Sums it waits for.
    if constexpr (kSharing > 1) {
      __syncwarp();
      cluster_sync();
    }
  }
};

}  // namespace quern
