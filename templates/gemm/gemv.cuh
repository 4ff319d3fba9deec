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
#include "gemm/fusion.cuh"
#include "gemm/gemm_args.h"

namespace quern {

template <class Problem, class Config, class Fusion = StoreSums<GemmArgs>>
struct Gemv {
  using Args = typename Fusion::Args;
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
  static constexpr int kSums = kM * kRows, kParts = Fusion::kParts;
  static constexpr int kBytesX = gemv_x_bytes(kK, kM);
  static constexpr int kBytesRing =
      Config::async_copy ? gemv_ring_bytes(kK, kWarps, kRows, kUnroll, kStages) : 0;

  static_assert(kM == 1 || kM == 2 || kM == 4 || kM == 8 || kM == 16, "tile_m is 1, 2, 4, 8 or 16");
  static_assert((kRows & (kRows - 1)) == 0, "rows_per_warp is a power of two");
  static_assert(kRows % kParts == 0, "a warp has all parts of an element");
  static_assert(!Config::async_copy || kVec >= 2, "cp.async moves at least 4 bytes: k is even");
  static_assert(!Config::async_copy || kStages >= 2,
                "a ring in shared memory has 2 or more stages");

  using Weights = Bytes<kVecBytes>;

  static constexpr int kPerLane = kSums > kWarp ? kSums / kWarp : 1;
  static constexpr int kLanes = kSums > kWarp ? 1 : kWarp / kSums;  // lanes that hold the same sum
  /// Sums that a lane finishes.
  static constexpr int kHeld = kWarpsK == 1 ? kPerLane : ceil_div(kSums, kWarp);
  struct Scales {
    float of[kHeld];
  };

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
    // Parts of an element follow each other among the warp's rows.
    int row = kParts == 1 ? at.row0 + r : interleaved_row<2>(at.row0) + interleaved_row<2>(r);
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

  static __device__ __forceinline__ Weights pack(const float (&from)[kVec]) {
    Weights to;
    if constexpr (kVec == 1) {
      to.word[0] = from_f32<T>(from[0]).bits;
    } else {
#pragma unroll
      for (int i = 0; i < kVec / 2; ++i) to.word[i] = pack2<T>(from[2 * i], from[2 * i + 1]);
    }
    return to;
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

  static __device__ __forceinline__ void store(const Args& args, int row0, int index, float value) {
    const int m = index / kRows, row = row0 + index % kRows;
    if (m < args.m && row < kN)
      static_cast<Out*>(args.y)[static_cast<i64>(m) * kN + row] = from_f32<Out>(value);
  }

  /// The same of the element whose parts are the sums from `index` on.
  static __device__ __forceinline__ void store(const Args& args, int row0, int index,
                                               const float (&parts)[kParts]) {
    const int m = index / kRows, row = row0 + index % kRows;
    if (m < args.m && row < kN) Fusion::template apply<1>(args, m, row / kParts, parts);
  }

  /// Adds the sums of all lanes, and of the warps that share the rows, and stores the results.
  /// `parity` alternates from group to group, so that one barrier a group is enough.
  static __device__ __forceinline__ void finish(const Args& args, float* partial, int row0,
                                                int parity, int warp_n, int warp_k, int lane,
                                                const Scales& scale, float (&sum)[kSums]) {
    warp_sum_many<kSums>(sum, lane);
    if constexpr (kWarpsK == 1) {
      if constexpr (Fusion::kNormalises)
#pragma unroll
        for (int j = 0; j < kPerLane; ++j) sum[j] *= scale.of[j];
      if constexpr (!Fusion::kFused) {
        if (lane % kLanes == 0)
#pragma unroll
          for (int j = 0; j < kPerLane; ++j)
            store(args, row0, lane / kLanes * kPerLane + j, sum[j]);
      } else if constexpr (kPerLane >= kParts) {
        if (lane % kLanes == 0)
#pragma unroll
          for (int j = 0; j < kPerLane; j += kParts) {
            float parts[kParts];
#pragma unroll
            for (int part = 0; part < kParts; ++part) parts[part] = sum[j + part];
            store(args, row0, lane / kLanes * kPerLane + j, parts);
          }
      } else {
        const float parts[2] = {sum[0], __shfl_down_sync(0xffffffffu, sum[0], kLanes)};
        if (lane % (2 * kLanes) == 0) store(args, row0, lane / kLanes, parts);
      }
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
          if (kParts == 1 && i >= kSums) break;
          const int at = kParts == 1 ? i : min(i, kSums - 1);
          float total = mine[at];
#pragma unroll
          for (int other = 1; other < kWarpsK; ++other) total += mine[other * kSums + at];
          if constexpr (Fusion::kNormalises) total *= scale.of[j];
          if constexpr (!Fusion::kFused) {
            store(args, row0, i, total);
          } else if constexpr (kParts == 1) {
            const float parts[1] = {total};
            store(args, row0, i, parts);
          } else {
            const float parts[2] = {total, __shfl_down_sync(0xffffffffu, total, 1)};
            if (i < kSums && i % 2 == 0) store(args, row0, i, parts);
          }
        }
    }
#pragma unroll
    for (int i = 0; i < kSums; ++i) sum[i] = 0.0f;
  }

  /// This lane's factors of the rows of x that its sums belong to, from the squares that stage_x
  /// left.
  static __device__ __forceinline__ void find_scales(const float* squares, int lane,
                                                     Scales& scale) {
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const int i = kWarpsK == 1 ? lane / kLanes * kPerLane + j : min(j * kWarp + lane, kSums - 1);
      float total = 0.0f;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) total += squares[i / kRows * kWarps + warp];
      scale.of[j] = rsqrtf(total * (1.0f / kK) + Fusion::kEps);
    }
  }

  /// kVec elements of a stream.
  template <class Stream>
  struct alignas(sizeof(Stream) * kVec < 16 ? sizeof(Stream) * kVec : 16) StreamVector {
    Stream element[kVec];
  };
  template <class Stream>
  static __device__ __forceinline__ void to_floats(const StreamVector<Stream>& from,
                                                   float (&to)[kVec]) {
#pragma unroll
    for (int i = 0; i < kVec; ++i) to[i] = to_f32(from.element[i]);
  }

  /// Copies x * gamma to shared memory, with zeros where it ends, and leaves each warp's share of
  /// the sums of squares of x.
  static __device__ __forceinline__ void stage_normalised(const Args& args, unsigned char* to,
                                                          float* squares) {
    using Stream = typename StreamOf<Fusion, T>::Type;
    const Stream* x = static_cast<const Stream*>(args.x);
    const T* gamma = static_cast<const T*>(args.gamma);
    float sum[kM] = {};
    // A single row leaves registers for two steps' loads to be on their way at once.
    constexpr int kAhead = kM == 1 ? 2 : 1;
#pragma unroll kAhead
    for (int k = static_cast<int>(threadIdx.x) * kVec; k < kPaddedK; k += kThreads * kVec) {
      const bool inside = k < kK;
      float g[kVec];
      unpack(inside ? *reinterpret_cast<const Weights*>(gamma + k) : Weights{}, g);
      // All rows are on their way before the first is used.
      StreamVector<Stream> rows[kM];
#pragma unroll
      for (int m = 0; m < kM; ++m)
        rows[m] =
            inside && m < args.m
                ? *reinterpret_cast<const StreamVector<Stream>*>(x + static_cast<i64>(m) * kK + k)
                : StreamVector<Stream>{};
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        float v[kVec];
        to_floats(rows[m], v);
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
          sum[m] = fmaf(v[i], v[i], sum[m]);
          v[i] *= g[i];
        }
        *reinterpret_cast<Weights*>(to + (m * kPaddedK + k) * 2) = pack(v);
      }
    }
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int apart = kWarp / 2; apart > 0; apart /= 2)
        sum[m] += __shfl_xor_sync(0xffffffffu, sum[m], apart);
      if (threadIdx.x % kWarp == 0) squares[m * kWarps + threadIdx.x / kWarp] = sum[m];
    }
  }

  /// Copies x to shared memory, with zeros where it ends. Eight pieces of a thread are on their way
  /// at once: x comes from L2, and everything waits for it.
  static __device__ __forceinline__ void stage_x(const Args& args, unsigned char* to) {
    constexpr int kAll = kM * kPaddedK / kVec, kRounds = ceil_div(kAll, kThreads);
    constexpr int kAhead = kRounds < 8 ? kRounds : 8;
    const T* x = static_cast<const T*>(args.x);
    for (int first = static_cast<int>(threadIdx.x); first < kAll; first += kAhead * kThreads) {
      Weights value[kAhead];
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        const int i = (first + a * kThreads) * kVec, m = i / kPaddedK, k = i % kPaddedK;
        value[a] = Weights{};
        if (m < args.m && k < kK)
          value[a] = *reinterpret_cast<const Weights*>(x + static_cast<i64>(m) * kK + k);
      }
#pragma unroll
      for (int a = 0; a < kAhead; ++a)
        if (first + a * kThreads < kAll)
          *reinterpret_cast<Weights*>(to + (first + a * kThreads) * kVecBytes) = value[a];
    }
  }

  static __device__ __forceinline__ void stage(const Args& args, unsigned char* x, float* squares,
                                               int lane, Scales& scale) {
    if constexpr (Fusion::kNormalises) {
      stage_normalised(args, x, squares);
      __syncthreads();
      find_scales(squares, lane, scale);
    } else {
      stage_x(args, x);
      __syncthreads();
    }
  }

  static __device__ __forceinline__ void run(const Args& args, unsigned char* smem) {
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
    float* squares = partial + (kWarpsK > 1 ? 2 * kWarps * kSums : 0);

    pdl_launch_dependents();
    if constexpr (Fusion::kNormalises)  // gamma does not depend on the previous kernel
      for (int k = static_cast<int>(threadIdx.x) * 64; k < kK; k += kThreads * 64)
        prefetch_l2(static_cast<const T*>(args.gamma) + k);
    if constexpr (Fusion::kFused)
      for (int group = static_cast<int>(threadIdx.x); group < num_groups; group += kThreads) {
        const int row = (block + group * blocks) * kGroupRows;
        Fusion::prefetch(args, row / kParts, min(kGroupRows, kN - row) / kParts, 0);
      }
    Cursor read{block * kGroupRows + warp_n * kRows, 0};
    Cursor load = read;
    float sum[kSums] = {};
    Scales scale;
    int parity = 0;
    const auto step_done = [&] {
      if (read.step == kSteps - 1) {
        finish(args, partial, read.row0, parity, warp_n, warp_k, lane, scale, sum);
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
      stage(args, x, squares, lane, scale);
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
      stage(args, x, squares, lane, scale);
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
