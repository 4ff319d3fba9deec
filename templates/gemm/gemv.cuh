// y[m, n] = sum over k of x[m, k] * w[n, k] for a few rows of x (m <= 16): the shape of decoding,
// where each weight is read once and memory is the roof.
//
//   x [m, k], w [n, k], y [m, n]: row-major; bf16 or f16 in, the same or fp32 out; fp32 sums.
//   m is an argument, n and k are compile-time constants; any n, k >= 1.
//
// Blocks stay resident (blocks_per_sm on every SM) and walk over groups of
// warps_n * rows_per_warp rows of w. Each lane keeps a ring of its own weights in flight, in
// registers or through cp.async in slots of shared memory that only it reads, so the stream needs
// no barrier and does not pause between groups. The ring is filled before griddepcontrol.wait:
// weights do not depend on the previous kernel. x is then staged in shared memory once.
//
// Tunables (Config)
//   tile_m         rows of x that are computed; rows from m on are zero and not stored
//   warps_n        row groups of a block
//   warps_k        warps that share a row group, each taking every warps_k-th chunk of k; their
//                  sums are added in order of warp, so results do not depend on timing
//   rows_per_warp  rows of w at once in a warp: one read of x serves them all
//   unroll         chunks of k at once in a warp
//   stages         depth of the ring, in steps of rows_per_warp * unroll accesses
//   async_copy     the ring lies in shared memory, else in registers
//   blocks_per_sm  resident blocks; also bounds the registers
//
// A lane whose weights lie past the end reads the last ones instead: the x it meets is zero, or its
// row is not stored. That keeps predicates out of the stream.
#pragma once
#include "common/grid.cuh"
#include "common/memory.cuh"
#include "common/reduce.cuh"
#include "common/types.cuh"
#include "gemm/gemm_args.h"

namespace quern {

template <class Problem, class Config>
struct Gemv {
  using T = typename Problem::Input;
  using Out = typename Problem::Output;
  static constexpr int kN = Problem::n, kK = Problem::k;
  static constexpr int kM = Config::tile_m, kRows = Config::rows_per_warp;
  static constexpr int kUnroll = Config::unroll, kStages = Config::stages;
  static constexpr int kWarpsN = Config::warps_n, kWarpsK = Config::warps_k;
  static constexpr int kWarps = kWarpsN * kWarpsK, kThreads = kWarps * kWarp;
  static constexpr int kVec = gemm_vector_elements(kK), kVecBytes = kVec * 2;
  static constexpr int kChunk = kWarp * kVec;  // elements of k that a warp reads in one access
  static constexpr int kChunks = gemv_chunks(kK);
  static constexpr int kSteps = ceil_div(kChunks, kWarpsK* kUnroll);  // per row group
  static constexpr int kPaddedK = kChunks * kChunk;
  static constexpr int kGroupRows = kWarpsN * kRows;
  static constexpr int kGroups = ceil_div(kN, kGroupRows);
  static constexpr int kSums = kM * kRows;
  static constexpr int kBytesX = gemv_x_bytes(kK, kM);
  static constexpr int kBytesRing =
      Config::async_copy ? gemv_ring_bytes(kK, kWarps, kRows, kUnroll, kStages) : 0;

  static_assert(kM == 1 || kM == 2 || kM == 4 || kM == 8 || kM == 16, "tile_m is 1, 2, 4, 8 or 16");
  static_assert((kRows & (kRows - 1)) == 0, "rows_per_warp is a power of two");
  static_assert(!Config::async_copy || kVec >= 2, "cp.async moves at least 4 bytes: k is even");
  static_assert(!Config::async_copy || kStages >= 2,
                "a ring in shared memory has 2 or more stages");

  using Weights = Bytes<kVecBytes>;

  /// Where in the stream of (row group, step of k) this warp is.
  struct Cursor {
    int row0;  // first row of the warp's group
    int step;
    __device__ void advance() {
      if (++step == kSteps) {
        step = 0;
        row0 += static_cast<int>(gridDim.x) * kGroupRows;
      }
    }
  };

  static __device__ __forceinline__ int chunk_of(int step, int u, int warp_k) {
    return (step * kUnroll + u) * kWarpsK + warp_k;
  }

  /// Address of this lane's piece of one row and chunk.
  static __device__ __forceinline__ const T* address(const T* w, const Cursor& at, int r, int u,
                                                     int warp_k, int lane) {
    int row = at.row0 + r;
    if constexpr (kN % kGroupRows != 0) row = min(row, kN - 1);
    int k = chunk_of(at.step, u, warp_k) * kChunk + lane * kVec;
    if constexpr (kK % (kChunk * kWarpsK * kUnroll) != 0) k = min(k, kK - kVec);
    return w + static_cast<i64>(row) * kK + k;
  }

  static __device__ __forceinline__ void unpack(const Weights& from, float (&to)[kVec]) {
    if constexpr (kVec == 1) {
      to[0] = to_f32(T{from.word[0]});
    } else {
#pragma unroll
      for (int i = 0; i < kVec / 2; ++i) unpack2<T>(from.word[i], to[2 * i], to[2 * i + 1]);
    }
  }

  /// Adds the products of one step to the warp's sums.
  static __device__ __forceinline__ void multiply(const Weights (&w)[kRows][kUnroll],
                                                  const unsigned char* x, int step, int warp_k,
                                                  int lane, float (&sum)[kSums]) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int chunk = chunk_of(step, u, warp_k);
      if (kChunks % (kWarpsK * kUnroll) != 0 && chunk >= kChunks) continue;
      float wf[kRows][kVec];
#pragma unroll
      for (int r = 0; r < kRows; ++r) unpack(w[r][u], wf[r]);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        float xf[kVec];
        unpack(*reinterpret_cast<const Weights*>(x +
                                                 (m * kPaddedK + chunk * kChunk + lane * kVec) * 2),
               xf);
#pragma unroll
        for (int r = 0; r < kRows; ++r)
#pragma unroll
          for (int v = 0; v < kVec; ++v)
            sum[m * kRows + r] = fmaf(wf[r][v], xf[v], sum[m * kRows + r]);
      }
    }
  }

  static __device__ __forceinline__ void store(const GemmArgs& args, int row0, int index,
                                               float value) {
    const int m = index / kRows, row = row0 + index % kRows;
    if (m < args.m && row < kN)
      static_cast<Out*>(args.y)[static_cast<i64>(m) * kN + row] = from_f32<Out>(value);
  }

  /// Adds the sums of all lanes, and of the warps that share the rows, and stores the results.
  /// `parity` alternates from group to group, so that one barrier a group is enough.
  static __device__ __forceinline__ void finish(const GemmArgs& args, float* partial, int row0,
                                                int parity, int warp_n, int warp_k, int lane,
                                                float (&sum)[kSums]) {
    constexpr int kPerLane = kSums > kWarp ? kSums / kWarp : 1;
    constexpr int kLanes = kSums > kWarp ? 1 : kWarp / kSums;  // lanes that hold the same sum
    warp_sum_many<kSums>(sum, lane);
    if constexpr (kWarpsK == 1) {
      if (lane % kLanes == 0)
#pragma unroll
        for (int j = 0; j < kPerLane; ++j) store(args, row0, lane / kLanes * kPerLane + j, sum[j]);
    } else {
      float* mine = partial + (parity * kWarpsN + warp_n) * kWarpsK * kSums;
      if (lane % kLanes == 0)
#pragma unroll
        for (int j = 0; j < kPerLane; ++j)
          mine[warp_k * kSums + lane / kLanes * kPerLane + j] = sum[j];
      __syncthreads();
      if (warp_k == 0)
#pragma unroll
        for (int j = 0; j < ceil_div(kSums, kWarp); ++j) {
          const int i = j * kWarp + lane;
          if (i >= kSums) break;
          float total = mine[i];
#pragma unroll
          for (int other = 1; other < kWarpsK; ++other) total += mine[other * kSums + i];
          store(args, row0, i, total);
        }
    }
#pragma unroll
    for (int i = 0; i < kSums; ++i) sum[i] = 0.0f;
  }

  /// Copies x to shared memory, with zeros where it ends.
  static __device__ __forceinline__ void stage_x(const GemmArgs& args, unsigned char* to) {
    const T* x = static_cast<const T*>(args.x);
    for (int i = static_cast<int>(threadIdx.x) * kVec; i < kM * kPaddedK; i += kThreads * kVec) {
      const int m = i / kPaddedK, k = i % kPaddedK;
      Weights value{};
      if (m < args.m && k < kK)
        value = *reinterpret_cast<const Weights*>(x + static_cast<i64>(m) * kK + k);
      *reinterpret_cast<Weights*>(to + i * 2) = value;
    }
  }

  static __device__ __forceinline__ void run(const GemmArgs& args, unsigned char* smem) {
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    const int warp = static_cast<int>(threadIdx.x / kWarp);
    const int warp_n = warp / kWarpsK, warp_k = warp % kWarpsK;
    const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
    const int num_groups = block < kGroups ? (kGroups - block - 1) / blocks + 1 : 0;
    const int num_steps = num_groups * kSteps;
    const T* w = static_cast<const T*>(args.w);

    unsigned char* x = smem;
    unsigned char* ring = smem + kBytesX;
    float* partial = reinterpret_cast<float*>(ring + kBytesRing);

    pdl_launch_dependents();
    Cursor read{block * kGroupRows + warp_n * kRows, 0};
    Cursor load = read;
    float sum[kSums] = {};
    int parity = 0;
    const auto step_done = [&] {
      if (read.step == kSteps - 1) {
        finish(args, partial, read.row0, parity, warp_n, warp_k, lane, sum);
        parity ^= 1;
      }
      read.advance();
    };

    if constexpr (Config::async_copy) {
      constexpr int kStep = kRows * kUnroll * kWarp * kVecBytes;  // bytes of a warp's stage
      unsigned char* mine = ring + warp * kStages * kStep + lane * kVecBytes;
      const u32 mine_address = shared_address(mine);
      const auto issue = [&](int step, int slot) {
        if (step < num_steps) {
#pragma unroll
          for (int r = 0; r < kRows; ++r)
#pragma unroll
            for (int u = 0; u < kUnroll; ++u)
              copy_async<kVecBytes>(
                  mine_address +
                      static_cast<u32>(slot * kStep + (r * kUnroll + u) * kWarp * kVecBytes),
                  address(w, load, r, u, warp_k, lane));
          load.advance();
        }
        copy_async_commit();  // an empty group too: waiting counts groups
      };
#pragma unroll
      for (int s = 0; s < kStages - 1; ++s) issue(s, s);
      pdl_wait();
      stage_x(args, x);
      __syncthreads();
      int slot = 0;
      for (int step = 0; step < num_steps; ++step) {
        issue(step + kStages - 1, slot == 0 ? kStages - 1 : slot - 1);  // the slot read last
        copy_async_wait<kStages - 1>();
        Weights weights[kRows][kUnroll];
#pragma unroll
        for (int r = 0; r < kRows; ++r)
#pragma unroll
          for (int u = 0; u < kUnroll; ++u)
            weights[r][u] = *reinterpret_cast<const Weights*>(
                mine + slot * kStep + (r * kUnroll + u) * kWarp * kVecBytes);
        multiply(weights, x, read.step, warp_k, lane, sum);
        step_done();
        slot = slot == kStages - 1 ? 0 : slot + 1;
      }
    } else {
      Weights weights[kStages][kRows][kUnroll];
      const auto issue = [&](int step, Weights(&to)[kRows][kUnroll]) {
        if (step >= num_steps) return;
#pragma unroll
        for (int r = 0; r < kRows; ++r)
#pragma unroll
          for (int u = 0; u < kUnroll; ++u)
            to[r][u] = load_read_once<kVecBytes>(address(w, load, r, u, warp_k, lane));
        load.advance();
      };
#pragma unroll
      for (int s = 0; s < kStages; ++s) issue(s, weights[s]);
      pdl_wait();
      stage_x(args, x);
      __syncthreads();
      for (int first = 0; first < num_steps; first += kStages) {
#pragma unroll
        for (int s = 0; s < kStages; ++s) {
          if (first + s >= num_steps) break;
          multiply(weights[s], x, read.step, warp_k, lane, sum);
          issue(first + s + kStages, weights[s]);
          step_done();
        }
      }
    }
  }
};

}  // namespace quern
