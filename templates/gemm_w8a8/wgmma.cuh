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
// 128 products may be added up in fp32 registers of their own (promotion): with scales in blocks of
// 128 of k always, since each has its own scales (DeepSeek-V3, arXiv:2412.19437, section 3.3.2).
// The tensor cores write two sets of such sums in turn, one while the other is added up, without
// which both warpgroups add at the same time and the tensor cores wait: 685 clocks for the products
// of 128 x 128 x 128 instead of 529, of 512 at best. That takes three times as many registers for
// sums, and so smaller tiles.
//
// Tunables (Config)
//   tile_m, tile_n  a tile of y
//   tile_k          128: rows of a stage's tiles are 128 bytes, the swizzle's span
//   stages          depth of the ring
//   pingpong        false: each warpgroup has half of the rows of every tile. true: each has every
//                   second tile, so that one stores its results while the other multiplies
//   cluster         blocks along m that share a tile of w, each fetching a part of it for all
//   cluster_k       blocks of a cluster that share the k of an output tile evenly, and exchange
//                   their sums once: every tile then has a cluster of its own
//   group_m         tiles (of a cluster) along m that are visited together, to find w in L2
//   promote         1: sums of 128 products are promoted; 0: the tensor cores add up all of k
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
  static constexpr int tile_k = Config::tile_k / 2, split_k = 1, stream_k = 0;
};

/// Product: start(d, a, b) sets and run(d, a, b) adds 64 rows x tile_n columns of one stage
/// (common/wgmma.h).
template <class Problem, class Config, class Product>
struct WgmmaW8A8
    : WgmmaGemm<PairsOf8<Problem>, PairsOf8Config<Config>, Product, StoreSums<GemmTmaArgs>,
                typename SumOf8<typename Problem::Input>::type> {
  using Sum = typename SumOf8<typename Problem::Input>::type;
  using Base =
      WgmmaGemm<PairsOf8<Problem>, PairsOf8Config<Config>, Product, StoreSums<GemmTmaArgs>, Sum>;
  using typename Base::Rank;
  using typename Base::Ring;
  using typename Base::Schedule;
  using typename Base::Shared;
  using typename Base::Tile;
  using Out = typename Problem::Output;
  using Scale = Scales<Problem>;
  using Base::kBlocksM, Base::kClusterK, Base::kGroup, Base::kMathGroups, Base::kN, Base::kPingpong,
      Base::kRows, Base::kStages, Base::kStageBytes, Base::kSums, Base::kTileM, Base::kTileN,
      Base::kTilesK;
  static constexpr int kTurns = kTilesK / kClusterK;  // stages of a tile
  static constexpr bool kPromote = Config::promote != 0;
  static constexpr bool kAssists = Scale::kBlocks;

  static_assert(kTilesK % kClusterK == 0, "blocks have as many stages of a tile each");
  static_assert(!Scale::kBlocks || kClusterK == 1 || kTurns % 4 == 0,
                "scales of four come at once");
  static_assert(Config::tile_k == 128, "a row of a stage's tile is 128 bytes");
  static_assert(!kPromote || kBlocksM == 1, "three sets of sums are those of 64 rows");
  static_assert(!Scale::kBlocks || kPromote, "every 128 of k have their own scales");
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
    for (int turn = 0; turn < kTurns; ++turn) {
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

  /// Sums of 64 rows and 128 of k.
  using Part = Sum[kSums];

  /// Keeps what uses these sums in its place: the compiler knows nothing of the waits for them.
  static __device__ __forceinline__ void pin(Part& part) {
#pragma unroll
    for (int j = 0; j < kSums; ++j) asm volatile("" : "+f"(part[j])::"memory");
  }

  /// Adds sums of 128 of k; `scale` is that of the thread's two rows, where scales are in blocks.
  static __device__ __forceinline__ void add(const Part& part, const float (&scale)[2], Part& sum) {
#pragma unroll
    for (int j = 0; j < kSums; ++j) {
      if constexpr (Scale::kBlocks)
        sum[j] = fmaf(part[j], scale[j % 4 / 2], sum[j]);
      else
        sum[j] += part[j];
    }
  }

  /// Where the scales of a stage's rows lie in shared memory: scales of x times that of w.
  static __device__ __forceinline__ u32 scales_at(const Shared& at, int stage) {
    return Base::end_of(at) + static_cast<u32>(stage * kTileM * 4);
  }

  /// One warp: fetches scales of blocks beside the tiles that they are of, four blocks of k at once
  /// where rows of scales are aligned to that. The warps that multiply have no registers to spare
  /// for loads under way, and no time to wait for them.
  static __device__ __forceinline__ void assist(const GemmW8A8TmaArgs& args, const Shared& at,
                                                const Schedule& schedule, int cluster,
                                                int num_clusters, const Rank& rank) {
    constexpr int kLaneRows = kTileM / kWarp;
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    const GemmW8A8Args scales = scales_of(args);
    Ring ring;
    pdl_wait();  // scales of x are the predecessor's
    for (int work = cluster; work < schedule.count; work += num_clusters) {
      const Tile tile = schedule.at(work, rank);
#pragma unroll 1
      for (int first = 0; first < kTurns; first += 4) {
        const int block = rank.k * kTurns + first;
        const auto w = Scale::of_w_blocks(scales, tile.column0, block);
        Vec<float, 4> x[kLaneRows];
#pragma unroll
        for (int i = 0; i < kLaneRows; ++i)
          x[i] = Scale::of_x_blocks(scales, tile.row0 + lane * kLaneRows + i, block);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          if (first + c == kTurns) break;
          Vec<float, kLaneRows> products;
#pragma unroll
          for (int i = 0; i < kLaneRows; ++i) products.element[i] = w.element[c] * x[i].element[c];
          barrier_wait(at.is_empty(ring.stage), ring.parity ^ 1);
          store_shared(scales_at(at, ring.stage) + static_cast<u32>(lane * kLaneRows * 4),
                       products);
          __syncwarp();
          if (lane == 0) barrier_arrive(at.is_full(ring.stage));
          ring.advance();
        }
      }
    }
  }

  /// Sums of one tile with promotion: those of one stage are added up while the next is multiplied.
  struct Promotion {
    const Shared& at;
    Ring& ring;
    int row;         // of the group in the tile
    u32 scale_row;   // bytes to the scale of this thread's first row
    float scale[2];  // of the stage that is multiplied, of rows r and r + 8
    Part parts[2];
    int last;  // that stage

    /// `count` stages of the tile from `first` on, a multiple of 2. The stage before is multiplied
    /// into parts[1], and when this returns its own last one is under way. Between the products of
    /// two stages is as little as can be: those of the other warpgroup cover no more than some 100
    /// clocks.
    template <int count>
    __device__ __forceinline__ void run(int first, Part& sum) {
#pragma unroll
      for (int s = 0; s < count; ++s) {
        Part &part = parts[s % 2], &before = parts[(s + 1) % 2];
        barrier_wait(at.is_full(ring.stage), ring.parity);
        wgmma_wait<0>();
        pin(before);
        pin(part);
        wgmma_fence();
        Product::start(part, operand_x(at, ring.stage, row), wgmma_operand(at.w(ring.stage)));
        wgmma_commit();
        if constexpr (Scale::kBlocks) __syncwarp();  // all lanes have read the scales of `last`
        if (first + s > 0) Base::release(at, last);
        add(before, scale, sum);
        if constexpr (Scale::kBlocks)
#pragma unroll
          for (int r = 0; r < 2; ++r)
            scale[r] =
                load_shared(scales_at(at, ring.stage) + scale_row + static_cast<u32>(r * 32));
        last = ring.stage;
        ring.advance();
      }
    }
  };

  /// `warp` of the group.
  static __device__ __forceinline__ void multiply_promoted(const Shared& at, Ring& ring, int row,
                                                           int warp, Part& sum) {
    const auto lane_row = static_cast<int>(threadIdx.x % kWarp / 4);
    Promotion promotion{at, ring, row, static_cast<u32>((row + warp * 16 + lane_row) * 4)};
#pragma unroll
    for (int j = 0; j < kSums; ++j) sum[j] = 0;
    constexpr int kWhole = kTurns / 2 * 2, kRest = kTurns - kWhole;
#pragma unroll 1
    for (int first = 0; first < kWhole; first += 2) promotion.template run<2>(first, sum);
    if constexpr (kRest > 0) promotion.template run<kRest>(kWhole, sum);
    wgmma_wait<0>();
    Part& before = promotion.parts[(kTurns + 1) % 2];
    pin(before);
    if constexpr (Scale::kBlocks) __syncwarp();
    Base::release(at, promotion.last);
    add(before, promotion.scale, sum);
  }

  /// Scales the sums of 64 rows and stores them; `row0` is the warp's first row.
  template <int count>
  static __device__ __forceinline__ void store(const GemmW8A8TmaArgs& args, i64 row0, int column0,
                                               const Sum (&sum)[count]) {
    constexpr int kWidth = count * 2;
    const GemmW8A8Args scales = scales_of(args);
    const int lane = static_cast<int>(threadIdx.x % kWarp), t = lane % 4;
    float x_scale[2] = {1, 1};
    Vec<float, 2> tensor_scale{};
    if constexpr (Problem::w_scale == ScaleOf::tensor) tensor_scale = Scale::of_w_pair(scales, 0);
    if constexpr (!Scale::kBlocks)
#pragma unroll
      for (int r = 0; r < 2; ++r) x_scale[r] = Scale::of_x(scales, row0 + lane / 4 + 8 * r);
#pragma unroll
    for (int j = 0; j < kWidth / 8; j += 4) {
      Vec<float, 2> w_scale[4] = {};
      if constexpr (!Scale::kBlocks)
#pragma unroll
        for (int q = 0; q < 4; ++q)
          if (j + q < kWidth / 8)
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
            v[q] = j + q < kWidth / 8 ? pack2<Out>(value(q, r, 0), value(q, r, 1)) : 0u;
          quad_transpose(v, t);
          const int column = column0 + (j + t) * 8;
          if (exists && (kWidth % 32 == 0 || j + t < kWidth / 8) && (Base::kWhole || column < kN))
            *reinterpret_cast<Bytes<16>*>(y + column) = {{v[0], v[1], v[2], v[3]}};
        } else {
#pragma unroll
          for (int q = 0; q < 4; q += 2) {
            if (j + q >= kWidth / 8) continue;
            float v[4] = {value(q, r, 0), value(q, r, 1), value(q + 1, r, 0), value(q + 1, r, 1)};
            quad_pairs(v, t);
            const int column = column0 + (j + q + t / 2) * 8 + t % 2 * 4;
            if (exists && (Base::kWhole || column < kN))
              store_vec<Out, 4>(y + column, {v[0], v[1], v[2], v[3]});
          }
        }
      }
    }
  }

  static __device__ __forceinline__ void consume(const GemmW8A8TmaArgs& args, const Shared& at,
                                                 const Schedule& schedule, int cluster,
                                                 int num_clusters, const Rank& rank, u32*) {
    const int group = warpgroup_index();
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
        ring.advance(kTurns);
        continue;
      }
      const i64 row0 = tile.row0 + row + warp * 16;
      if constexpr (kPingpong) named_sync(2 + static_cast<u32>(group), kMathGroups * kGroup);
      if constexpr (kPromote)
        multiply_promoted(at, ring, row, warp, sum[0]);
      else
        multiply(at, ring, row, sum);
      if constexpr (kPingpong) named_arrive(3 - static_cast<u32>(group), kMathGroups * kGroup);
      Base::store_own(at, rank, tile, row0, sum, [&](i64 first, int column, const auto& sums) {
        store(args, first, column, sums);
      });
    }
  }

  static __device__ __forceinline__ void run(const GemmW8A8TmaArgs& args, unsigned char* smem) {
    Base::template run_as<WgmmaW8A8>(args, smem);
  }
};

}  // namespace quern
