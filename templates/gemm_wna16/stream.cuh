// y[m, n] = x[m, k] · w[n, k]ᵀ with weights of 4 or 8 bits, for a few rows of x (m <= 16): the
// shape of decoding, where each weight is read once and memory is the roof.
//
//   x [m, k], y [m, n]: row-major; bf16 or f16 in, the same or fp32 out; fp32 sums.
//   codes, scales, zeros: kernel order (gemm_wna16_args.h). m is an argument.
//
// Blocks stay resident and walk over groups of 16 * warps_n rows of w. w is the A operand of
// mma.m16n8k16, tokens are its N, so that one row of x costs no more than eight. Each warp streams
// chunks of its own rows, contiguous in memory, through its own ring in shared memory: the block
// only meets at the end of a row group. From sm_90 on a further warp keeps the rings full by bulk
// copies, elsewhere each warp its own by cp.async. The ring is filled before griddepcontrol.wait:
// weights do not depend on the previous kernel. x is then staged in shared memory once. Scales
// multiply the fp32 sums of their group.
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
#include "common/mbarrier.cuh"
#include "common/memory.cuh"
#include "common/mma.cuh"
#include "common/reduce.cuh"
#include "common/tma.cuh"
#include "common/types.cuh"
#include "common/workspace_args.h"
#include "gemm_wna16/chunk.cuh"
#include "gemm_wna16/dequantise.cuh"
#include "gemm_wna16/finish.cuh"
#include "gemm_wna16/gemm_wna16_args.h"

namespace quern {

template <class Problem, class Config, class Fusion = StoreSums<GemmWna16Args>>
struct StreamWna16 {
  using Args = typename Fusion::Args;
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
  static constexpr int kSpan = wna16_stream_span(kBits, Problem::group_size, kUnits);
  static constexpr int kSpans = Chunk::kColumns / kSpan;  // of a chunk
  /// Codes of 4 bits are multiplied with the offset that makes them floating-point numbers, which
  /// the sum of x over the span takes off afterwards: a third fewer instructions.
  static constexpr bool kRaised = kBits == 4;
#if __CUDA_ARCH__ >= 900
  static constexpr bool kBulk = true;
#else
  static constexpr bool kBulk = false;
#endif

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
  /// the chunk's first column, `x_sums` the chunk's first of [span][tile_m].
  static __device__ __forceinline__ void multiply(const unsigned char* chunk, u32 x,
                                                  const float* x_sums, int lane, Sums& sum) {
    // Two sums take turns, because products that add to the same one wait for each other.
    float part[2][kTokenTiles][4] = {};
    ZeroPoints<T, kBits> zeros;
    zeros.set_symmetric();
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      const Bytes<16> codes = Chunk::codes(chunk, u, lane);
#pragma unroll
      for (int step = 0; step < Chunk::kSteps; step += 2) {
        const int column = u * Chunk::kUnitColumns + step * 16;
        if (kZeros && !kRaised && column % kSpan == 0) zeros.set(Chunk::zeros(chunk, column, lane));
        u32 b[kTokenTiles][4];
#pragma unroll
        for (int j = 0; j < kTokenTiles; ++j)
          ldmatrix_x4(b[j], x + static_cast<u32>(j * 8 * kStrideX + column * 2));
#pragma unroll
        for (int s = 0; s < 2; ++s) {
          u32 a[4];
          if constexpr (kRaised)
            RaisedCodes<T>::make(codes.word, step + s, a);
          else
            dequantise<T, kBits, !kZeros>(codes.word, step + s, zeros, a);
#pragma unroll
          for (int j = 0; j < kTokenTiles; ++j) {
            const u32 pair[2] = {b[j][2 * s], b[j][2 * s + 1]};
            mma_m16n8k16<T>(part[s][j], a, pair);
          }
        }
        if ((column + 32) % kSpan == 0)
          add_span(chunk, column, x_sums + column / kSpan * kM, lane, part, sum);
      }
    }
  }

  /// Scales the sums of a span and adds them.
  static __device__ __forceinline__ void add_span(const unsigned char* chunk, int column,
                                                  const float* x_sums, int lane,
                                                  float (&part)[2][kTokenTiles][4], Sums& sum) {
    float scale[2], offset[2] = {};
    unpack2<T>(Chunk::scales(chunk, column, lane), scale[0], scale[1]);
    if constexpr (kRaised) {
      u32 zeros = 0x0808u;
      if constexpr (kZeros) zeros = Chunk::zeros(chunk, column, lane);
#pragma unroll
      for (int r = 0; r < 2; ++r)
        offset[r] = -(RaisedCodes<T>::offset(r) + static_cast<float>(zeros >> (8 * r) & 0xffu));
    }
#pragma unroll
    for (int j = 0; j < kTokenTiles; ++j)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        float value = part[0][j][c] + part[1][j][c];
        if constexpr (kRaised) {
          const int token = j * 8 + lane % 4 * 2 + c % 2;
          const float x_sum = x_sums[kM >= 8 ? token : min(token, kM - 1)];
          value = fmaf(offset[c / 2], x_sum, value * RaisedCodes<T>::factor(c / 2));
        }
        sum[j][c] = fmaf(value, scale[c / 2], sum[j][c]);
        part[0][j][c] = part[1][j][c] = 0.0f;
      }
  }

  /// Sums of a row group that something is computed of, in the order [warp_n][token][16 rows]: all,
  /// or the first of every two parts.
  static constexpr int kResults = kSums / Fusion::kParts;
  static __device__ __forceinline__ int sum_of(int result) {
    return Fusion::kParts == 1 ? result : result / 8 * 16 + result % 8;
  }

  /// Stores results of a row group, every `stride`-th from `first` on; total(i) is the i-th sum.
  template <class Total>
  static __device__ __forceinline__ void store(const Args& args, int group, int first, int stride,
                                               const Total& total) {
    for (int result = first; result < kResults; result += stride) {
      const int i = sum_of(result);
      const float value = total(i), other = Fusion::kParts == 1 ? 0.0f : total(i + 8);
      const int token = i / 16 % kM, row = (group * kWarpsN + i / (16 * kM)) * 16 + i % 16;
      if (token < args.m && (kRowTiles % kWarpsN == 0 || row < kN))
        finish_sum<Fusion, kN, Out>(args, token, row, value, other);
    }
  }

  static __device__ __forceinline__ float* parts(const Args& args) {
    return reinterpret_cast<float*>(static_cast<unsigned char*>(args.workspace) + kCounterBytes);
  }

  /// Adds the sums of the warps that share a row tile, and stores the results, or leaves them in
  /// the workspace where other blocks have more. `partial` alternates between two buffers, so that
  /// one barrier a row group is enough.
  static __device__ __forceinline__ void finish(const Args& args, float* partial, int group,
                                                int split, int warp_n, int warp_k, int lane,
                                                Sums& sum) {
    float* mine = partial + (warp_k * kWarpsN + warp_n) * kM * 16;
#pragma unroll
    for (int j = 0; j < kTokenTiles; ++j)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int token = j * 8 + lane % 4 * 2 + c % 2;
        if (kM >= 8 || token < kM) mine[token * 16 + lane / 4 + c / 2 * 8] = sum[j][c];
        sum[j][c] = 0.0f;
      }
    named_sync(1, kThreads);
    const auto total = [&](int i) {
      float sum = partial[i];
#pragma unroll
      for (int other = 1; other < kWarpsK; ++other) sum += partial[other * kSums + i];
      return sum;
    };
    const int thread = static_cast<int>(threadIdx.x);
    if constexpr (kSplitK == 1)
      store(args, group, thread, kThreads, total);
    else
      for (int i = thread; i < kSums; i += kThreads)
        parts(args)[(static_cast<i64>(group) * kSplitK + split) * kSums + i] = total(i);
  }

  /// Copies the block's share of x to shared memory, with zeros where it ends, and adds it up over
  /// spans.
  static __device__ __forceinline__ void stage_x(const Args& args, unsigned char* to, float* x_sums,
                                                 int column0) {
    constexpr int kPieces = kShare * Chunk::kColumns / 8;  // of 16 bytes, in a row
    const T* x = static_cast<const T*>(args.x);
    const int thread = static_cast<int>(threadIdx.x);
#pragma unroll 4
    for (int first = 0; first < kM * kPieces; first += kThreads) {
      const int i = first + thread, row = i / kPieces, column = i % kPieces * 8;
      Bytes<16> value{};
      if (i < kM * kPieces && row < args.m && column0 + column < kK)
        value =
            *reinterpret_cast<const Bytes<16>*>(x + static_cast<i64>(row) * kK + column0 + column);
      float total = 0.0f;
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        float low, high;
        unpack2<T>(value.word[w], low, high);
        total += low + high;
      }
      total = warp_reduce<Sum, kSpan / 8>(total);
      if (i >= kM * kPieces) continue;
      *reinterpret_cast<Bytes<16>*>(to + row * kStrideX + column * 2) = value;
      if (column % kSpan == 0) x_sums[column / kSpan * kM + row] = total;
    }
  }

  /// Which row groups and chunks are this block's. Blocks that differ in their split alone are a
  /// set and walk over the same row groups.
  struct Share {
    int set, sets, split, begin, end, num_steps;
    __device__ Share()
        : set(static_cast<int>(blockIdx.x) / kSplitK),
          sets(static_cast<int>(gridDim.x) / kSplitK),
          split(static_cast<int>(blockIdx.x) % kSplitK),
          begin(split * kShare),
          end(min(begin + kShare, kChunks)),
          num_steps(set < kRowGroups ? ((kRowGroups - set - 1) / sets + 1) * kSteps : 0) {}
  };

  /// Barriers of a warp's ring: full and empty slots (sm_90 and later).
  static __device__ __forceinline__ u32 is_full(u32 barriers, int warp, int slot) {
    return barriers + static_cast<u32>((warp * kStages + slot) * 16);
  }
  static __device__ __forceinline__ u32 is_empty(u32 barriers, int warp, int slot) {
    return is_full(barriers, warp, slot) + 8;
  }

  /// Keeps the rings full; lane i serves warp i. One warp (sm_90 and later).
  static __device__ __forceinline__ void produce(const Args& args, const Share& share, u32 ring,
                                                 u32 barriers) {
    const int warp = static_cast<int>(threadIdx.x % kWarp);
    if (warp >= kWarps) return;
    Cursor load{share.set, 0};
    int slot = 0;
    u32 parity = 1;
    // No lane waits for another's ring.
    for (int step = 0; step < share.num_steps;) {
      const u32 full = is_full(barriers, warp, slot);
      if (!barrier_done(full + 8, parity)) continue;
      const int chunk = share.begin + load.step * kWarpsK + warp / kWarpsN;
      if (chunk < share.end) {
        barrier_arrive_expect(full, Chunk::bytes_of(chunk));
        Chunk::load_bulk(args, ring + static_cast<u32>((warp * kStages + slot) * kChunkBytes),
                         min(load.group * kWarpsN + warp % kWarpsN, kRowTiles - 1), chunk, full);
      } else {
        barrier_arrive(full);
      }
      load.advance(share.sets);
      ++step;
      if (++slot == kStages) {
        slot = 0;
        parity ^= 1;
      }
    }
  }

  /// Multiplies what comes through the warp's ring.
  static __device__ __forceinline__ void consume(const Args& args, const Share& share,
                                                 unsigned char* x, unsigned char* ring,
                                                 float* partial, float* x_sums, u32 barriers) {
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    const int warp = static_cast<int>(threadIdx.x / kWarp);
    const int warp_n = warp % kWarpsN, warp_k = warp / kWarpsN;
    unsigned char* mine = ring + warp * kStages * kChunkBytes;
    Cursor read{share.set, 0}, load{share.set, 0};
    const auto issue = [&](int step, int slot) {
      if constexpr (!kBulk) {
        if (step < share.num_steps) {
          const int chunk = share.begin + load.step * kWarpsK + warp_k;
          if (chunk < share.end)
            Chunk::load(args, shared_address(mine + slot * kChunkBytes),
                        min(load.group * kWarpsN + warp_n, kRowTiles - 1), chunk, lane);
          load.advance(share.sets);
        }
        copy_async_commit();  // an empty group too: waiting counts groups
      }
    };
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) issue(s, s);
    pdl_wait();
    stage_x(args, x, x_sums, share.begin * Chunk::kColumns);
    named_sync(1, kThreads);

    // ldmatrix takes the address of row lane % 8 at columns lane / 8 * 8; rows that are not there
    // are as good as any other, because nobody reads their sums.
    const u32 x_lane = shared_address(x) +
                       static_cast<u32>(lane % 8 < kM ? lane % 8 : kM - 1) * kStrideX +
                       static_cast<u32>(lane / 8 * 16);
    Sums sum = {};
    int slot = 0, buffer = 0;
    u32 parity = 0;
    for (int step = 0; step < share.num_steps; ++step) {
      if constexpr (kBulk) {
        barrier_wait(is_full(barriers, warp, slot), parity);
      } else {
        copy_async_wait<kStages - 2>();
        __syncwarp();  // the scales are other lanes' copies; and all are done with the slot before
        issue(step + kStages - 1, slot == 0 ? kStages - 1 : slot - 1);
      }
      const int chunk = read.step * kWarpsK + warp_k;
      if (share.begin + chunk < share.end)
        multiply(mine + slot * kChunkBytes, x_lane + static_cast<u32>(chunk * Chunk::kColumns * 2),
                 x_sums + chunk * kSpans * kM, lane, sum);
      if constexpr (kBulk) {
        __syncwarp();
        if (lane == 0) barrier_arrive(is_empty(barriers, warp, slot));
      }
      if (read.step == kSteps - 1) {
        finish(args, partial + buffer * kWarpsK * kSums, read.group, share.split, warp_n, warp_k,
               lane, sum);
        buffer ^= 1;
      }
      read.advance(share.sets);
      if (++slot == kStages) {
        slot = 0;
        parity ^= 1;
      }
    }
  }

  static __device__ __forceinline__ void run(const Args& args, unsigned char* smem) {
    const Share share;
    unsigned char* ring = smem + kM * kStrideX;
    float* partial = reinterpret_cast<float*>(ring + kWarps * kStages * kChunkBytes);
    u32* flag = reinterpret_cast<u32*>(partial + 2 * kWarpsK * kSums);
    const u32 barriers = shared_address(flag + 4);
    float* x_sums = reinterpret_cast<float*>(flag + 4 + kWarps * kStages * 4);

    pdl_launch_dependents();
    if constexpr (kBulk) {
      if constexpr (Chunk::kUnitsK % kUnits != 0) {
        // Beyond k there are no copies, and what is multiplied by zeros has to be finite.
        for (int i = static_cast<int>(threadIdx.x) * 16; i < kWarps * kStages * kChunkBytes;
             i += (kThreads + kWarp) * 16)
          *reinterpret_cast<Bytes<16>*>(ring + i) = Bytes<16>{};
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      }
      for (int i = static_cast<int>(threadIdx.x); i < 2 * kWarps * kStages; i += kThreads + kWarp)
        barrier_init(barriers + static_cast<u32>(i * 8), 1);
      barrier_init_fence();
      __syncthreads();
      if (threadIdx.x >= kThreads)
        produce(args, share, shared_address(ring), barriers);
      else
        consume(args, share, smem, ring, partial, x_sums, barriers);
    } else {
      consume(args, share, smem, ring, partial, x_sums, barriers);
    }

    if constexpr (kSplitK > 1) {
      if (!last_block(static_cast<u32*>(args.workspace) + share.set, kSplitK, flag)) return;
      const int stride = static_cast<int>(blockDim.x);
      for (int group = share.set; group < kRowGroups; group += share.sets)
        store(args, group, static_cast<int>(threadIdx.x), stride, [&](int i) {
          const float* from = parts(args) + static_cast<i64>(group) * kSplitK * kSums + i;
          float values[kSplitK];
#pragma unroll
          for (int s = 0; s < kSplitK; ++s) values[s] = load_from_l2<float>(from + s * kSums);
          float total = values[0];
#pragma unroll
          for (int s = 1; s < kSplitK; ++s) total += values[s];
          return total;
        });
    }
  }
};

}  // namespace quern
