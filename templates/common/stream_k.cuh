// Stream-K: the tiles of an output divided among resident blocks evenly, although their number is
// no multiple of that of the blocks, by dividing the k of some tiles.
//
// Walkers (blocks, or clusters of them) would need R + 1 rounds for R rounds and a rest. Instead
// the first round and the rest are laid out as one sequence of steps of k, tile after tile, and
// every walker takes an equal piece of it, one to two tiles long; the other rounds are whole tiles.
// A walker that ends within a tile stores it. The one that goes on there, whose piece begins with
// that part, has left its sums in the workspace long before they are asked for, and they are added
// in order of k: results depend on the number of walkers, not on timing.
//
// Waiting is for the next walker alone, which waits for nobody before it has left its sums, so two
// blocks that run at once are enough for all to end.
//
// Sources: Osama, Merrill, Cecka, Garland and Owens 2023, arXiv:2301.03598, section 5.2
// ("data-parallel + two-tile stream-K").
#pragma once
#include "common/mbarrier.cuh"
#include "common/memory.cuh"
#include "common/types.cuh"
#include "common/workspace_args.h"

namespace quern {

/// How `walkers` divide `tiles` of `steps` each.
template <int steps>
struct StreamK {
  int tiles, walkers, streamed;  // the first `streamed` tiles are divided
  __device__ StreamK(int num_tiles, int num_walkers) : tiles(num_tiles), walkers(num_walkers) {
    const int rounds = tiles / walkers, rest = tiles % walkers;
    streamed = rest == 0 ? 0 : rounds == 0 ? tiles : walkers + rest;
  }
  /// The first step of a walker's piece, counted through the tiles.
  __device__ __forceinline__ int first(int walker) const {
    return static_cast<int>(static_cast<i64>(streamed) * steps * walker / walkers);
  }
};

/// Steps [begin, end) of a tile's k. Kernel has types Tile, Rank (of a block in its cluster) and
/// Schedule, whose `count` tiles at(work, rank) describes, kSteps of a whole tile, and
/// first_step(split) of those of a split.
template <class Kernel>
struct TilePart {
  typename Kernel::Tile tile;
  int begin, end;
};

/// The tiles of one walker in turn, or their splits.
template <class Kernel>
struct WholeTiles {
  const typename Kernel::Schedule& schedule;
  const typename Kernel::Rank& rank;
  int work, walkers;
  __device__ WholeTiles(const typename Kernel::Schedule& s, const typename Kernel::Rank& r,
                        int walker, int num_walkers)
      : schedule(s), rank(r), work(walker), walkers(num_walkers) {}
  __device__ __forceinline__ bool next(TilePart<Kernel>& part) {
    if (work >= schedule.count) return false;
    part.tile = schedule.at(work, rank);
    part.begin = Kernel::first_step(part.tile.split);
    part.end = Kernel::first_step(part.tile.split + 1);
    work += walkers;
    return true;
  }
};

/// The parts of one walker in turn, where tiles are divided: those of its piece, then whole tiles.
template <class Kernel>
struct StreamedTiles {
  const typename Kernel::Schedule& schedule;
  const typename Kernel::Rank& rank;
  StreamK<Kernel::kSteps> plan;
  int at, end, whole;  // steps of the piece, and the next whole tile
  int tile = 0;        // of the part at hand
  __device__ StreamedTiles(const typename Kernel::Schedule& s, const typename Kernel::Rank& r,
                           int walker, int num_walkers)
      : schedule(s),
        rank(r),
        plan(s.count, num_walkers),
        at(plan.first(walker)),
        end(plan.first(walker + 1)),
        whole(plan.streamed + walker) {}
  __device__ __forceinline__ bool next(TilePart<Kernel>& part) {
    constexpr int kSteps = Kernel::kSteps;
    if (at < end) {
      tile = at / kSteps;
      part.begin = at % kSteps;
      part.end = min(kSteps, part.begin + end - at);
      at += part.end - part.begin;
    } else {
      if (whole >= plan.tiles) return false;
      tile = whole;
      part.begin = 0, part.end = kSteps;
      whole += plan.walkers;
    }
    part.tile = schedule.at(tile, rank);
    return true;
  }
};

/// Sums of a part of a tile on their way through the workspace, by `threads` that meet at the named
/// barrier `barrier`; `thread` counts them. A block has one slot and leaves sums once.
template <int fragments, int sums, int threads>
struct StreamKSums {
  using Sums = float[fragments][sums];
  static constexpr int kThreads = threads, kSlot = fragments * sums * threads;
  static_assert(sums % 4 == 0, "four sums are stored at once");

  static __device__ __forceinline__ float* slot_of(void* workspace, int slot, int thread) {
    return reinterpret_cast<float*>(static_cast<unsigned char*>(workspace) + kCounterBytes) +
           static_cast<i64>(slot) * kSlot + thread * 4;
  }

  static __device__ __forceinline__ void leave(void* workspace, int slot, int thread, u32 barrier,
                                               const Sums& sum) {
    float* to = slot_of(workspace, slot, thread);
#pragma unroll
    for (int i = 0; i < fragments; ++i)
#pragma unroll
      for (int j = 0; j < sums; j += 4)
        store_vec<float, 4>(to + (i * sums + j) * threads,
                            {sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]});
    __threadfence();
    named_sync(barrier, threads);
    if (thread == 0) atomicExch(static_cast<u32*>(workspace) + slot, 1u);
  }

  /// Waits for the sums of a slot, adds them, and leaves the slot empty.
  static __device__ __forceinline__ void add(void* workspace, int slot, int thread, u32 barrier,
                                             Sums& sum) {
    if (thread == 0) {
      u32* flag = static_cast<u32*>(workspace) + slot;
      while (atomicExch(flag, 0u) == 0) __nanosleep(32);
      __threadfence();
    }
    named_sync(barrier, threads);
    const float* from = slot_of(workspace, slot, thread);
#pragma unroll
    for (int i = 0; i < fragments; ++i)
#pragma unroll
      for (int j = 0; j < sums; j += 4) {
        const auto v = load_from_l2<Vec<float, 4>>(from + (i * sums + j) * threads);
#pragma unroll
        for (int c = 0; c < 4; ++c) sum[i][j + c] += v.element[c];
      }
  }

  /// Adds, to the sums of the first part of `tile`, those of the others, which the walkers behind
  /// `walker` have; a slot's number is slot(walker).
  template <int steps, class Slot>
  static __device__ __forceinline__ void gather(void* workspace, const StreamK<steps>& plan,
                                                int walker, int tile, int thread, u32 barrier,
                                                Sums& sum, const Slot& slot) {
#pragma unroll 1
    for (int other = walker + 1; plan.first(other) < (tile + 1) * steps; ++other)
      if (plan.first(other) < plan.first(other + 1))  // it has a part
        add(workspace, slot(other), thread, barrier, sum);
  }
};

}  // namespace quern
