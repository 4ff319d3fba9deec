// y[m, n] = scales * sum over k of x[m, k] * w[n, k] for a few rows of x (m <= 16), where each
// weight is read once and memory is the roof.
//
//   x [m, k], w [n, k]: s8 or e4m3, row-major; y [m, n]: bf16, f16 or fp32. Scales: scales.cuh.
//   m is an argument, n and k are compile-time constants; any n, k a multiple of 16.
//
// Operands are swapped: rows of w are the 16 rows of mma.m16n8k32, tokens its 8 columns, so that
// tensor cores do the unpacking of codes as well as the products and a token costs next to nothing.
// As a sum over k may be taken in any order, lane t of the four that share a row reads 16 adjacent
// bytes (k = 16 t ..) of w and of x and hands them to two products as if they were the k = 4 t..
// and k = 16 + 4 t.. that the fragment asks for: fragments come straight from memory, without
// ldmatrix.
//
// Blocks stay resident (blocks_per_sm on every SM) and walk over groups of 16 * warps_n rows of w.
// Each lane keeps a ring of its own weights in flight in registers, which does not pause between
// groups. The ring is filled before griddepcontrol.wait: weights do not depend on the previous
// kernel. x is then staged in shared memory once.
//
// Tunables (Config)
//   tile_m         rows of x that are computed, 8 or 16; those from m on are not stored
//   warps_n        row groups of a block
//   warps_k        warps that share a row group, each taking every warps_k-th piece of k; their
//   sums
//                  are added in order of warp, so results do not depend on timing
//   unroll         chunks of 64 of k at once in a warp
//   stages         depth of the ring, in steps of 2 * unroll accesses
//   blocks_per_sm  resident blocks; also bounds the registers
//
// A lane whose weights lie past the end reads the last ones instead: the x it meets is zero, or its
// row is not stored. That keeps predicates out of the stream.
//
// Sources: PTX ISA 9.0, "mma.m16n8k32".
#pragma once
#include "common/grid.cuh"
#include "common/memory.cuh"
#include "common/mma8.cuh"
#include "common/types.cuh"
#include "gemm_w8a8/scales.cuh"

namespace quern {

template <class Problem, class Config>
struct FewRowsW8A8 {
  using T = typename Problem::Input;
  using Out = typename Problem::Output;
  using Sum = typename SumOf8<T>::type;
  using Scale = Scales<Problem>;
  static constexpr int kN = Problem::n, kK = Problem::k;
  static constexpr int kM = Config::tile_m, kTiles = kM / 8;  // products that share a fragment of w
  static constexpr int kUnroll = Config::unroll, kStages = Config::stages;
  static constexpr int kWarpsN = Config::warps_n, kWarpsK = Config::warps_k;
  static constexpr int kThreads = kWarpsN * kWarpsK * kWarp;
  static constexpr int kChunks = few_rows_chunks(kK), kPitch = few_rows_x_pitch(kK);
  static constexpr int kSteps = ceil_div(kChunks, kWarpsK* kUnroll);  // per row group
  static constexpr int kGroupRows = kWarpsN * 16, kGroups = ceil_div(kN, kGroupRows);
  static constexpr int kBytesX = kM * kPitch;
  static constexpr int kBytesScales = Scale::kBlocks ? kM * Scale::kBlocksK * 4 : 0;
  /// Blocks of scales in a step.
  static constexpr int kStepBlocks = kUnroll * kFewRowsChunk / kScaleBlock;

  static_assert(kM == 8 || kM == 16, "tile_m is 8 or 16");
  static_assert(kK % 16 == 0, "rows of w are read in pieces of 16 bytes");
  static_assert(!Scale::kBlocks || kUnroll % 2 == 0, "a step has whole blocks of scales");
  static_assert(kTiles <= kWarpsK || kWarpsK == 1, "a warp for each tile that is summed up");

  /// What a lane has in flight: of each chunk 16 bytes of row g and of row g + 8, and the scales.
  struct Step {
    Bytes<16> w[kUnroll][2];
    float scale[kStepBlocks > 0 ? kStepBlocks : 1];
  };
  using Sums = Sum[kTiles][4];
  /// This lane's piece of the rows of x in its tiles, the last one where there are no more: what
  /// comes of it is not stored.
  struct Rows {
    const unsigned char* row[kTiles];
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
    return (step * kWarpsK + warp_k) * kUnroll + u;
  }

  static __device__ __forceinline__ void load(const GemmW8A8Args& args, const Cursor& at,
                                              int warp_k, int lane, Step& to) {
    const T* w = static_cast<const T*>(args.w);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      int k = chunk_of(at.step, u, warp_k) * kFewRowsChunk + lane % 4 * 16;
      if constexpr (kK % (kFewRowsChunk * kWarpsK * kUnroll) != 0) k = min(k, kK - 16);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int row = at.row0 + lane / 4 + half * 8;
        if constexpr (kN % kGroupRows != 0) row = min(row, kN - 1);
        to.w[u][half] = load_read_once<16>(w + static_cast<i64>(row) * kK + k);
      }
    }
    if constexpr (Scale::kBlocks)
#pragma unroll
      for (int b = 0; b < kStepBlocks; ++b)
        to.scale[b] = Scale::of_w_block(args, at.row0, chunk_of(at.step, 2 * b, warp_k) / 2);
  }

  /// Adds the products of one chunk.
  static __device__ __forceinline__ void multiply(const Bytes<16> (&w)[2], const Rows& x, int chunk,
                                                  Sums& sum) {
    const u32 first[4] = {w[0].word[0], w[1].word[0], w[0].word[1], w[1].word[1]};
    const u32 second[4] = {w[0].word[2], w[1].word[2], w[0].word[3], w[1].word[3]};
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const auto v = *reinterpret_cast<const Bytes<16>*>(x.row[tile] + chunk * kFewRowsChunk);
      mma_m16n8k32<T>(sum[tile], first, {v.word[0], v.word[1]});
      mma_m16n8k32<T>(sum[tile], second, {v.word[2], v.word[3]});
    }
  }

  /// Adds the products of one step to the warp's sums.
  static __device__ __forceinline__ void consume(const Step& from, const Rows& x,
                                                 const float* x_scales, int step, int warp_k,
                                                 int lane, Sums& sum) {
    if constexpr (!Scale::kBlocks) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int chunk = chunk_of(step, u, warp_k);
        if (kChunks % (kWarpsK * kUnroll) != 0 && chunk >= kChunks) continue;
        multiply(from.w[u], x, chunk, sum);
      }
    } else {
#pragma unroll
      for (int b = 0; b < kStepBlocks; ++b) {
        const int chunk = chunk_of(step, 2 * b, warp_k);
        if (kChunks % (kWarpsK * kUnroll) != 0 && chunk >= kChunks) continue;
        Sums part = {};
        multiply(from.w[2 * b], x, chunk, part);
        if (kChunks % 2 == 0 || chunk + 1 < kChunks)
          multiply(from.w[2 * b + 1], x, chunk + 1, part);
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          const auto s = load_vec<float, 2>(x_scales + chunk / 2 * kM + tile * 8 + lane % 4 * 2);
#pragma unroll
          for (int c = 0; c < 4; ++c)
            sum[tile][c] = fmaf(part[tile][c], s.element[c % 2] * from.scale[b], sum[tile][c]);
        }
      }
    }
  }

  /// Scales the sums of tokens tile * 8 .. and stores them. `scale` holds those of this lane's two
  /// rows of w and, after them, those of its two tokens.
  static __device__ __forceinline__ void store(const GemmW8A8Args& args, int row0, int tile,
                                               int lane, const float (&w_scale)[2],
                                               const float (&x_scale)[2], const Sum (&sum)[4]) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int row = row0 + lane / 4 + c / 2 * 8, m = tile * 8 + lane % 4 * 2 + c % 2;
      float value = static_cast<float>(sum[c]);
      if constexpr (!Scale::kBlocks) value *= x_scale[c % 2] * w_scale[c / 2];
      if (m < args.m && row < kN)
        static_cast<Out*>(args.y)[static_cast<i64>(m) * kN + row] = from_f32<Out>(value);
    }
  }

  /// Copies the rows of x that exist to shared memory, with zeros where they end, and the scales of
  /// its groups.
  static __device__ __forceinline__ void stage_x(const GemmW8A8Args& args, int m, unsigned char* to,
                                                 float* scales) {
    constexpr int kPieces = kChunks * 4;  // of 16 bytes, in a row
    const T* x = static_cast<const T*>(args.x);
    const u32 shared = shared_address(to);
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < m * kPieces; i += kThreads) {
      const int row = i / kPieces, k = i % kPieces * 16;
      copy_async<16>(shared + static_cast<u32>(row * kPitch + k),
                     x + static_cast<i64>(row) * kK + k, k < kK);
    }
    copy_async_commit();
    if constexpr (Scale::kBlocks)
      for (int i = static_cast<int>(threadIdx.x); i < kM * Scale::kBlocksK; i += kThreads)
        scales[i % Scale::kBlocksK * kM + i / Scale::kBlocksK] =
            Scale::of_x_block(args, i / Scale::kBlocksK, i % Scale::kBlocksK);
  }

  static __device__ __forceinline__ void run(const GemmW8A8Args& args, unsigned char* smem) {
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    const int warp = static_cast<int>(threadIdx.x / kWarp);
    const int warp_n = warp / kWarpsK, warp_k = warp % kWarpsK;
    const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
    const int num_groups = block < kGroups ? (kGroups - block - 1) / blocks + 1 : 0;
    const int num_steps = num_groups * kSteps;
    const int m = static_cast<int>(args.m);
    unsigned char* x = smem;
    float* x_group_scales = reinterpret_cast<float*>(smem + kBytesX);
    using Four = Vec<Sum, 4>;
    Four* partial = reinterpret_cast<Four*>(smem + kBytesX + kBytesScales);

    pdl_launch_dependents();
    Cursor read{block * kGroupRows + warp_n * 16, 0};
    Cursor ahead = read;
    Step ring[kStages];
#pragma unroll
    for (int s = 0; s < kStages; ++s) {
      if (s >= num_steps) break;
      load(args, ahead, warp_k, lane, ring[s]);
      ahead.advance();
    }
    // The warp that stores tile `tile` of a group: the only one, or the tile-th of those along k.
    const int tile_of_warp = kWarpsK == 1 ? 0 : warp_k;
    const bool stores = kWarpsK == 1 || warp_k < kTiles;
    constexpr int kOwnTiles = kWarpsK == 1 ? kTiles : 1;  // that this warp stores
    float w_scale[2] = {}, x_scale[kOwnTiles][2] = {};
    const auto load_w_scales = [&](int row0) {
      if constexpr (!Scale::kBlocks)
        if (stores) {
          w_scale[0] = Scale::of_w(args, row0 + lane / 4);
          w_scale[1] = Scale::of_w(args, row0 + lane / 4 + 8);
        }
    };
    load_w_scales(read.row0);
    pdl_wait();
    stage_x(args, m, x, x_group_scales);
    if constexpr (!Scale::kBlocks)
#pragma unroll
      for (int tile = 0; tile < kOwnTiles; ++tile)
#pragma unroll
        for (int c = 0; c < 2; ++c)
          x_scale[tile][c] = Scale::of_x(args, (tile_of_warp + tile) * 8 + lane % 4 * 2 + c);
    copy_async_wait<0>();
    __syncthreads();

    Sums sum = {};
    Rows rows;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
      rows.row[tile] = x + max(0, min(tile * 8 + lane / 4, m - 1)) * kPitch + lane % 4 * 16;
    int parity = 0;
    const auto finish = [&] {
      if constexpr (kWarpsK == 1) {
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile)
          store(args, read.row0, tile, lane, w_scale, x_scale[tile], sum[tile]);
      } else {
        Four* mine = partial + (parity * kWarpsN + warp_n) * kWarpsK * kTiles * kWarp;
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile)
          mine[(warp_k * kTiles + tile) * kWarp + lane] = {sum[tile][0], sum[tile][1], sum[tile][2],
                                                           sum[tile][3]};
        __syncthreads();  // one a group is enough, as buffers alternate
        parity ^= 1;
        if (stores) {
          Sum total[4] = {};
#pragma unroll
          for (int other = 0; other < kWarpsK; ++other) {
            const Four part = mine[(other * kTiles + tile_of_warp) * kWarp + lane];
#pragma unroll
            for (int c = 0; c < 4; ++c)
              total[c] = other == 0 ? part.element[c] : total[c] + part.element[c];
          }
          store(args, read.row0, tile_of_warp, lane, w_scale, x_scale[0], total);
        }
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
        for (int c = 0; c < 4; ++c) sum[tile][c] = 0;
    };

    for (int first = 0; first < num_steps; first += kStages) {
#pragma unroll
      for (int s = 0; s < kStages; ++s) {
        const int step = first + s;
        if (step >= num_steps) break;
        consume(ring[s], rows, x_group_scales, read.step, warp_k, lane, sum);
        if (step + kStages < num_steps) {
          load(args, ahead, warp_k, lane, ring[s]);
          ahead.advance();
        }
        const bool last = read.step == kSteps - 1;
        if (last) finish();
        read.advance();
        if (last) load_w_scales(read.row0);
      }
    }
  }
};

}  // namespace quern
