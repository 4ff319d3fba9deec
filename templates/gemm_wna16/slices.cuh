// y[m, n] = x[m, k] · w[n, k]ᵀ with weights of 4 or 8 bits, for a few rows of x (m <= 16), from
// sm_90 on: the shape of decoding, where each weight is read once and memory is the roof.
//
//   x [m, k], y [m, n]: row-major; bf16 or f16 in, the same or fp32 out; fp32 sums.
//   codes, scales, zeros: kernel order (gemm_wna16_args.h), groups of 32, 64 or 128 columns, k a
//   multiple of 128. m is an argument.
//
// A block walks over row tiles of 16. Each of its warps has slices of k of its own, 128 columns at
// a time, for which it holds x as B fragments in registers for as long as it runs; where k is too
// long for that, x is staged in shared memory. So nothing but codes moves, and the weights of a row
// tile that a block needs are one contiguous piece of memory: one bulk copy a stage, and one for
// the scales. Those copies begin before griddepcontrol.wait, because weights do not depend on the
// previous kernel. w is the A operand of mma.m16n8k16, tokens are its N.
//
// The warps leave their sums of a row tile in shared memory, where further warps add them in a
// fixed order while the next row tile is multiplied. Blocks of a cluster share k as well: each
// sends its sums to the one that stores the row tile (they take turns), which adds them in order of
// rank. So results do not depend on timing, and nothing goes through global memory.
//
// Where a fusion normalises x (few rows), each warp adds up the squares of its slices; the blocks
// of a cluster tell each other theirs, and sums are scaled as they are stored.
//
// Tunables (Config)
//   tile_m         rows of x that are computed (1, 2, 4, 8, 16); rows from m on are not stored
//   warps_n        row tiles that a block works on at once, a row group
//   warps_k        warps that share a row tile, each with slices of its own
//   units          units of 512 bytes of a warp in a stage, 128 columns or a multiple
//   stages         depth of the ring
//   cluster_k      blocks that share k
//   blocks_per_sm  blocks whose registers fit an SM: with 2 the next kernel's can come in beside
//                  this one's, and fill their rings
//
// 128256 x 4096 in bf16, 4 bits, groups of 128, one H200: 64 us for one row, 72 for sixteen, where
// a kernel that only reads takes 61. Loads straight to registers instead of the ring took 1.05
// to 1.3 times as long, and x in shared memory (16 rows) all of its bandwidth.
//
// Sources: PTX ISA 9.0, "st.async", "barrier.cluster", "setmaxnreg".
#pragma once
#include "common/grid.cuh"
#include "common/mbarrier.cuh"
#include "common/memory.cuh"
#include "common/mma.cuh"
#include "common/reduce.cuh"
#include "common/ring.cuh"
#include "common/tma.cuh"
#include "common/types.cuh"
#include "gemm_wna16/dequantise.cuh"
#include "gemm_wna16/finish.cuh"
#include "gemm_wna16/gemm_wna16_args.h"
#include "gemm_wna16/held_x.cuh"

namespace quern {

template <class Problem, class Config, class Fusion = StoreSums<GemmWna16Args>>
struct SlicesWna16 {
  using Args = typename Fusion::Args;
  using T = typename Problem::Input;
  using Out = typename Problem::Output;
  static constexpr Wna16Slices kShape{
      Problem::n,           Problem::k,     Problem::bits,         Problem::group_size,
      Problem::zero_points, Config::tile_m, Config::warps_n,       Config::warps_k,
      Config::units,        Config::stages, Config::blocks_per_sm, Config::cluster_k};
  static constexpr int kN = Problem::n, kK = Problem::k, kBits = Problem::bits;
  static constexpr int kGroup = Problem::group_size, kSpan = Wna16Slices::kSpan;
  static constexpr bool kZeros = Problem::zero_points;
  static constexpr int kM = Config::tile_m, kTokenTiles = kM > 8 ? 2 : 1;
  static constexpr int kWarpsN = Config::warps_n, kWarpsK = Config::warps_k;
  static constexpr int kWarps = kWarpsN * kWarpsK, kStages = Config::stages;
  static constexpr int kCluster = Config::cluster_k, kReducers = kShape.reducers();
  static constexpr int kRowTiles = kShape.row_tiles(), kRowGroups = kShape.row_groups();

  static constexpr int kUnits = kSpan / wna16_unit_columns(kBits);  // of a span
  static constexpr int kStepsOfUnit = wna16_unit_columns(kBits) / 16;
  static constexpr int kGroups = kShape.groups(), kStepsOfGroup = kGroup / 16;
  static constexpr int kCodeBytes = kUnits * kWna16UnitBytes;  // of a span
  static constexpr int kScaleBytes = kGroups * 32, kZeroBytes = kZeros ? kGroups * 16 : 0;
  static constexpr int kSpansK = kShape.spans_k(), kSpansWarp = kShape.spans_warp();
  static constexpr int kStageSpans = kShape.stage_spans(), kStageBytes = kShape.stage_bytes();
  static constexpr int kScalesAt = kStageSpans * kCodeBytes;
  static constexpr int kZerosAt = kScalesAt + kStageSpans * kScaleBytes;
  static constexpr int kRowBytes = kStageBytes / kWarpsN;  // of a stage: those of one row tile
  static constexpr int kSteps = kShape.steps(), kSlices = kShape.slices();
  static constexpr bool kWhole = kSpansK == kSteps * kStageSpans * kCluster;
  static constexpr bool kHeld = kShape.holds_x(), kHeldSums = kShape.holds_x_sums();
  static constexpr int kStrideX = kShape.x_stride();
  static constexpr int kSums = kShape.sums(), kVectors = kSums / 4;  // of a row tile
  static constexpr int kBuffers = Wna16Slices::kBuffers, kPartial = kShape.partial_floats();
  /// Codes of 4 bits are multiplied with the offset that makes them floating-point numbers, which
  /// the sum of x over the group takes off afterwards: a third fewer instructions.
  static constexpr bool kRaised = kBits == 4;

  static_assert(kM == 1 || kM == 2 || kM == 4 || kM == 8 || kM == 16, "tile_m is 1, 2, 4, 8 or 16");
  static_assert(kK % kSpan == 0 && kSpan % kGroup == 0, "k is whole spans, a span whole groups");
  static_assert(kSpansWarp >= 1, "a warp takes one span of k or more in a stage");
  static_assert(kStages >= 2, "a ring has 2 or more stages");
  static constexpr bool kNormalises = Fusion::kNormalises;
  static_assert(!kNormalises || (kHeld && kM <= 4), "four rows that are held are normalised");

  /// Where everything lies in shared memory; barriers as shared addresses.
  struct Shared {
    unsigned char* ring;  // [stage][row tile]: codes, scales and zero points of its spans
    float* partial;       // [warp][buffer][kSums], in kPartial each: before that, its batch of x
    unsigned char* x;     // [tile_m][kStrideX], unless it is held
    float* x_sums;        // [span of the block's share][group][tile_m]
    float* slots;         // [own row group][rank][row tile][kSums]
    float* squares;       // [warp of k][tile_m], of a row that is normalised
    float* all_squares;   // [rank][tile_m]
    u32 full, empty, partial_full, partial_empty, received, squares_full;

    // What depends on the grid comes last, so that the other places are constants.
    __device__ __forceinline__ Shared(unsigned char* smem, int num_slots) : ring(smem) {
      partial = reinterpret_cast<float*>(ring + kStages * kStageBytes);
      x = reinterpret_cast<unsigned char*>(partial + kWarps * kPartial);
      x_sums = reinterpret_cast<float*>(x + kShape.x_bytes());
      full = shared_address(x_sums + round_up(kShape.num_x_sums(), 4));
      empty = full + kStages * 8;
      partial_full = empty + kStages * 8;
      partial_empty = partial_full + kBuffers * 8;
      received = partial_empty + kBuffers * 8;
      slots = x_sums + round_up(kShape.num_x_sums(), 4) + (kStages + kBuffers) * 4 +
              round_up(num_slots, 2) * 2;
      squares = slots + num_slots * kCluster * kWarpsN * kSums;
      all_squares = squares + kWarpsK * kM;
      squares_full = shared_address(squares + round_up((kWarpsK + kCluster) * kM, 4));
    }
  };

  /// Which row groups are this block's: those of its cluster, every `clusters`-th from `first`.
  struct Share {
    int rank, first, clusters;
    __device__ __forceinline__ Share()
        : rank(kCluster == 1 ? 0 : static_cast<int>(cluster_rank())),
          first(static_cast<int>(blockIdx.x) / kCluster),
          clusters(static_cast<int>(gridDim.x) / kCluster) {}
    /// The first span of the block's part of k.
    __device__ __forceinline__ int first_span() const { return rank * kSteps * kStageSpans; }
  };

  /// Keeps the ring full. One thread.
  static __device__ __forceinline__ void produce(const Args& args, const Shared& sh,
                                                 const Share& share) {
    const u32 ring = shared_address(sh.ring);
    RingPlace<kStages> at;
    for (int group = share.first; group < kRowGroups; group += share.clusters)
#pragma unroll 1
      for (int step = 0; step < kSteps; ++step, at.advance()) {
        barrier_wait(at.of(sh.empty), at.parity ^ 1);
        const u32 full = at.of(sh.full);
        const int first = share.first_span() + step * kStageSpans;
        const int spans = kWhole ? kStageSpans : min(kStageSpans, kSpansK - first);
        if (!kWhole && spans <= 0) {
          barrier_arrive(full);
          continue;
        }
        const u32 count = static_cast<u32>(spans);
        barrier_arrive_expect(full, kWarpsN * count * (kCodeBytes + kScaleBytes + kZeroBytes));
#pragma unroll
        for (int r = 0; r < kWarpsN; ++r) {
          const u32 to = ring + static_cast<u32>(at.stage * kStageBytes + r * kRowBytes);
          const i64 from =
              static_cast<i64>(min(group * kWarpsN + r, kRowTiles - 1)) * kSpansK + first;
          bulk_load(to, static_cast<const u8*>(args.codes) + from * kCodeBytes, count * kCodeBytes,
                    full);
          bulk_load(to + kScalesAt, static_cast<const u8*>(args.scales) + from * kScaleBytes,
                    count * kScaleBytes, full);
          if constexpr (kZeros)
            bulk_load(to + kZerosAt, static_cast<const u8*>(args.zeros) + from * kZeroBytes,
                      count * kZeroBytes, full);
        }
      }
  }

  using Held = HeldX<T, kM, kHeld ? kSlices : 1>;
  static_assert(!kHeld || Held::kBatchBytes <= kPartial * 4, "x is dealt out where sums will be");
  /// x of one span as B fragments: [token tile][k16 step][2].
  using SpanX = u32[kTokenTiles][kSpan / 16][2];
  /// Sums of a span of x over its groups, for the lane's two tokens of a tile.
  using SpanSums = float[kGroups][kTokenTiles][2];
  using Sums = float[kTokenTiles][4];

  /// Adds a span of x up over groups on the tensor cores. Warps that have the span of other row
  /// tiles leave the same sums.
  static __device__ __forceinline__ void add_up(float* x_sums, int lane, const SpanX& b) {
    if constexpr (kRaised) {
      const u32 ones[4] = {kOnes<T>, kOnes<T>, kOnes<T>, kOnes<T>};
#pragma unroll
      for (int j = 0; j < kTokenTiles; ++j)
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
          float sum[4] = {};
#pragma unroll
          for (int s = 0; s < kStepsOfGroup; ++s)
            mma_m16n8k16<T>(sum, ones, b[j][g * kStepsOfGroup + s]);
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            const int token = j * 8 + 2 * (lane % 4) + c;
            if (lane < 4 && token < kM) x_sums[g * kM + token] = sum[c];
          }
        }
    }
  }

  /// Copies a warp's slices of x to shared memory, with zeros where k ends, and adds them up over
  /// groups. Nobody else reads them, but warps of other row tiles, which leave the same.
  template <class SpanOf>
  static __device__ __forceinline__ void stage_x(const Args& args, const Shared& sh, int first_span,
                                                 int lane, const SpanOf& span_of) {
    constexpr int kPieces = kSpan / 8, kAll = kM * kSlices * kPieces;  // of 16 bytes
    const T* x = static_cast<const T*>(args.x);
#pragma unroll 4
    for (int first = 0; first < kAll; first += kWarp) {
      const int i = first + lane, row = i / (kSlices * kPieces);
      const int column = span_of(i / kPieces % kSlices) * kSpan + i % kPieces * 8;
      const int from = first_span * kSpan + column;
      Bytes<16> value{};
      if (i < kAll && row < args.m && (kWhole || from < kK))
        value = *reinterpret_cast<const Bytes<16>*>(x + static_cast<i64>(row) * kK + from);
      float total = 0.0f;
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        float low, high;
        unpack2<T>(value.word[w], low, high);
        total += low + high;
      }
      total = warp_reduce<Sum, kGroup / 8>(total);
      if (i >= kAll) continue;
      *reinterpret_cast<Bytes<16>*>(sh.x + row * kStrideX + column * 2) = value;
      if (column % kGroup == 0) sh.x_sums[column / kGroup * kM + row] = total;
    }
    __syncwarp();
  }

  /// Reads the sums of a span.
  static __device__ __forceinline__ void read_sums(const float* x_sums, int lane, SpanSums& to) {
    if constexpr (kRaised) {
#pragma unroll
      for (int g = 0; g < kGroups; ++g)
#pragma unroll
        for (int j = 0; j < kTokenTiles; ++j)
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            const int token = j * 8 + lane % 4 * 2 + c;
            to[g][j][c] = x_sums[g * kM + (kM >= 8 ? token : min(token, kM - 1))];
          }
    }
  }

  /// Adds the products of one span, the stage's `index`-th.
  static __device__ __forceinline__ void multiply(const unsigned char* stage, int index,
                                                  const SpanX& x, const SpanSums& x_sums, int lane,
                                                  Sums& sum) {
    Bytes<16> codes[kUnits];
#pragma unroll
    for (int u = 0; u < kUnits; ++u)
      codes[u] = *reinterpret_cast<const Bytes<16>*>(stage + index * kCodeBytes +
                                                     u * kWna16UnitBytes + lane * 16);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int group = index * kGroups + g;
      u32 zero = kBits == 4 ? 0x0808u : 0x8080u;
      if constexpr (kZeros)
        zero = *reinterpret_cast<const u16*>(stage + kZerosAt + group * 16 + lane / 4 * 2);
      ZeroPoints<T, kBits> zeros;
      if constexpr (!kRaised) zeros.set(zero);
      float part[kTokenTiles][4] = {};
#pragma unroll
      for (int s = g * kStepsOfGroup; s < (g + 1) * kStepsOfGroup; ++s) {
        u32 a[4];
        if constexpr (kRaised)
          RaisedCodes<T>::make(codes[s / kStepsOfUnit].word, s % kStepsOfUnit, a);
        else
          dequantise<T, kBits, !kZeros>(codes[s / kStepsOfUnit].word, s % kStepsOfUnit, zeros, a);
#pragma unroll
        for (int j = 0; j < kTokenTiles; ++j) mma_m16n8k16<T>(part[j], a, x[j][s]);
      }
      float scale[2], offset[2] = {};
      unpack2<T>(*reinterpret_cast<const u32*>(stage + kScalesAt + group * 32 + lane / 4 * 4),
                 scale[0], scale[1]);
      if constexpr (kRaised) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          // scale * factor * (part + offset / factor * x_sum), one instruction less a sum
          const float code_offset =
              RaisedCodes<T>::offset(r) + static_cast<float>(zero >> (8 * r) & 0xffu);
          offset[r] = code_offset * (-1.0f / RaisedCodes<T>::factor(r));
          scale[r] *= RaisedCodes<T>::factor(r);
        }
      }
#pragma unroll
      for (int j = 0; j < kTokenTiles; ++j)
#pragma unroll
        for (int c = 0; c < 4; c += kM == 1 ? 2 : 1) {
          float value = part[j][c];
          if constexpr (kRaised) value = fmaf(offset[c / 2], x_sums[g][j][c % 2], value);
          sum[j][c] = fmaf(value, scale[c / 2], sum[j][c]);
        }
    }
  }

  /// Lanes of four that hold sums of tokens that count. A vector is what one of them leaves of a
  /// token tile; where there is one token, two rows' share one.
  static constexpr int kQuadLanes = kM >= 8 ? 4 : kM == 4 ? 2 : 1;

  /// Leaves a warp's sums of a row tile for those who add them, as [token tile][g][lane of four].
  static __device__ __forceinline__ void leave(const Shared& sh, RingPlace<kBuffers>& buffer,
                                               int warp, int lane, const Sums& sum) {
    barrier_wait(buffer.of(sh.partial_empty), buffer.parity ^ 1);
    float* mine = sh.partial + warp * kPartial + buffer.stage * kSums;
    const int g = lane / 4, t = lane % 4;
    if constexpr (kM == 1) {
      if (t == 0) store_vec<float, 2>(mine + g * 2, {sum[0][0], sum[0][2]});
    } else {
#pragma unroll
      for (int j = 0; j < kTokenTiles; ++j)
        if (kQuadLanes == 4 || t < kQuadLanes)
          store_vec<float, 4>(mine + ((j * 8 + g) * kQuadLanes + t) * 4,
                              {sum[j][0], sum[j][1], sum[j][2], sum[j][3]});
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(buffer.of(sh.partial_full));
    buffer.advance();
  }

  static __device__ __forceinline__ void math(const Args& args, const Shared& sh,
                                              const Share& share) {
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    const int warp = static_cast<int>(threadIdx.x / kWarp);
    const int warp_k = warp % kWarpsK;
    // Of the block's part of k, the place of the warp's slice.
    const auto span_of = [&](int slice) {
      return slice / kSpansWarp * kStageSpans + warp_k * kSpansWarp + slice % kSpansWarp;
    };
    const auto sums_of = [&](int span) { return sh.x_sums + span * kGroups * kM; };
    typename Held::Fragments held;
    SpanSums held_sums[kHeldSums ? kSlices : 1];
    u32 x_lane = 0;
    if constexpr (kHeld) {
      const auto exists = [&](int slice) {
        return kWhole || share.first_span() + span_of(slice) < kSpansK;
      };
      const auto column_of = [&](int slice) {
        const int span = share.first_span() + span_of(slice);
        return (kWhole ? span : min(span, kSpansK - 1)) * kSpan;  // nobody multiplies with others
      };
      auto* scratch = reinterpret_cast<unsigned char*>(sh.partial + warp * kPartial);
      const int m = static_cast<int>(args.m);
      if constexpr (kNormalises) {
        typename Held::Gamma gamma;
        Held::load_gamma(static_cast<const T*>(args.gamma), column_of, lane, gamma);
        pdl_wait();
        const float squares =
            Held::load_normalised(static_cast<const typename Fusion::Stream*>(args.x), gamma, kK, m,
                                  column_of, exists, scratch, lane, held);
        if (warp < kWarpsK && lane % 8 == 0 && lane / 8 < kM)
          sh.squares[warp * kM + lane / 8] = squares;
      } else {
        pdl_wait();
        Held::load(static_cast<const T*>(args.x), kK, m, column_of, scratch, lane, held);
      }
#pragma unroll
      for (int i = 0; i < kSlices; ++i) add_up(sums_of(span_of(i)), lane, held[i]);
      __syncwarp();
      if constexpr (kHeldSums) {
#pragma unroll
        for (int i = 0; i < kSlices; ++i) read_sums(sums_of(span_of(i)), lane, held_sums[i]);
      }
    } else {
      pdl_wait();
      stage_x(args, sh, share.first_span(), lane, span_of);
      // ldmatrix takes the address of row lane % 8 at columns lane / 8 * 8; rows that are not there
      // are as good as any other, because nobody reads their sums.
      x_lane = shared_address(sh.x) +
               static_cast<u32>(lane % 8 < kM ? lane % 8 : kM - 1) * kStrideX +
               static_cast<u32>(lane / 8 * 16);
    }
    RingPlace<kStages> at;
    RingPlace<kBuffers> buffer;
    for (int group = share.first; group < kRowGroups; group += share.clusters) {
      Sums sum = {};
      const auto take = [&](int step) {
        barrier_wait(at.of(sh.full), at.parity);
        const unsigned char* stage = sh.ring + at.stage * kStageBytes + warp / kWarpsK * kRowBytes;
#pragma unroll
        for (int s = 0; s < kSpansWarp; ++s) {
          const int slice = step * kSpansWarp + s, span = span_of(slice);
          if (!kWhole && share.first_span() + span >= kSpansK) continue;
          const int index = warp_k * kSpansWarp + s;
          if constexpr (!kHeldSums) read_sums(sums_of(span), lane, held_sums[0]);
          if constexpr (kHeld) {
            multiply(stage, index, held[slice], held_sums[kHeldSums ? slice : 0], lane, sum);
          } else {
#pragma unroll
            for (int j = 0; j < kTokenTiles; ++j)
#pragma unroll
              for (int i = 0; i < kSpan / 16; i += 2) {
                u32 b[4];
                ldmatrix_x4(
                    b, x_lane + static_cast<u32>(j * 8 * kStrideX + (span * kSpan + i * 16) * 2));
#pragma unroll
                for (int r = 0; r < 4; ++r) held[0][j][i + r / 2][r % 2] = b[r];
              }
            multiply(stage, index, held[0], held_sums[0], lane, sum);
          }
        }
        __syncwarp();
        if (lane == 0) barrier_arrive(at.of(sh.empty));
        at.advance();
      };
      if constexpr (kHeld) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) take(step);
      } else {
#pragma unroll 1
        for (int step = 0; step < kSteps; ++step) take(step);
      }
      leave(sh, buffer, warp, lane, sum);
    }
  }

  /// Factors of the sums of a vector's two tokens; of one, where there is one.
  using Scales = float[2];
  static __device__ __forceinline__ int token_of(int v, int c) {
    const int f = v % kVectors;
    return kM > 1 ? f / kQuadLanes / 8 * 8 + 2 * (f % kQuadLanes) + c : 0;
  }

  /// Stores vector `v` of a row group.
  static __device__ __forceinline__ void store(const Args& args, int group, int v,
                                               float (&value)[4], const Scales& scale) {
    constexpr int kOther = kM > 1 ? 2 : 1;  // from a value to that of the row 8 further
    if constexpr (kNormalises)
#pragma unroll
      for (int c = 0; c < 4; ++c) value[c] *= scale[kM > 1 ? c % 2 : 0];
    const int f = v % kVectors, tile = group * kWarpsN + v / kVectors;
    if (kRowTiles % kWarpsN != 0 && tile >= kRowTiles) return;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int token = token_of(v, c % 2);
      int row = 2 * f + c / 2 + c % 2 * 8;
      if constexpr (kM > 1) row = f / kQuadLanes % 8 + c / 2 * 8;
      const bool is_first = kM > 1 ? c < 2 : c % 2 == 0;  // of the row tile's first 8 rows
      if (token < args.m && (Fusion::kParts == 1 || is_first))
        finish_sum<Fusion, kN, Out>(args, token, tile * 16 + row, value[c],
                                    is_first ? value[c + kOther] : 0.0f);
    }
  }

  /// One of kReducers warps, which share the vectors of a row tile.
  struct Reducer {
    static constexpr int kOwn = kWarpsN * kVectors / kReducers;
    static constexpr int kLanes = kOwn < kWarp ? kOwn : kWarp, kPerLane = kOwn / kLanes;
    /// Where a warp has fewer vectors than lanes, groups of lanes take a part of the warps each.
    static constexpr int groups() {
      int groups = 1;
      while (2 * groups * kLanes <= kWarp && 2 * groups <= kWarpsK) groups *= 2;
      return groups;
    }
    static constexpr int kLaneGroups = groups(), kWarpsOfGroup = ceil_div(kWarpsK, kLaneGroups);
    /// Where registers were given away there is room for four vectors at once.
    static constexpr int kUnroll = !kShape.moves_registers() ? 16 : kPerLane < 4 ? 4 / kPerLane : 1;
    using Totals = float[kPerLane][4];

    const Args& args;
    const Shared& sh;
    const Share& share;
    int lane, first;  // vector of the lane, of those of a row group

    __device__ __forceinline__ Reducer(const Args& a, const Shared& s, const Share& mine, int index)
        : args(a),
          sh(s),
          share(mine),
          lane(static_cast<int>(threadIdx.x % kWarp)),
          first(index * kOwn + lane % kLanes) {}

    /// Adds the warps' sums in order.
    __device__ __forceinline__ void add(const float* from, Totals& total) const {
      const int group = lane / kLanes;
      if (kLaneGroups * kLanes == kWarp || group < kLaneGroups)
#pragma unroll kUnroll
        for (int w = 0; w < kWarpsOfGroup; ++w) {
          const int warp = group * kWarpsOfGroup + w;
          if (kWarpsK % kLaneGroups != 0 && warp >= kWarpsK) continue;
#pragma unroll
          for (int p = 0; p < kPerLane; ++p) {
            const int v = first + p * kWarp, row = v / kVectors;
            const auto part =
                load_vec<float, 4>(from + (row * kWarpsK + warp) * kPartial + v % kVectors * 4);
#pragma unroll
            for (int c = 0; c < 4; ++c) total[p][c] += part.element[c];
          }
        }
    }
    __device__ __forceinline__ void add_lane_groups(Totals& total) const {
#pragma unroll
      for (int offset = kLanes; offset < kLanes * kLaneGroups; offset *= 2)
#pragma unroll
        for (int c = 0; c < 4; ++c)
          total[0][c] += __shfl_xor_sync(0xffffffffu, total[0][c], offset);
    }

    /// Sends the block's sums of a row group to the block that stores it.
    __device__ __forceinline__ void send(int owner, int slot, const Totals& total) const {
      if (lane >= kLanes) return;
#pragma unroll
      for (int p = 0; p < kPerLane; ++p) {
        float* to =
            sh.slots + (slot * kCluster + share.rank) * kWarpsN * kSums + (first + p * kWarp) * 4;
        if (owner == share.rank)
          store_vec<float, 4>(to, {total[p][0], total[p][1], total[p][2], total[p][3]});
        else
          store_at(address_at(shared_address(to), static_cast<u32>(owner)), total[p],
                   address_at(sh.received + static_cast<u32>(slot * 8), static_cast<u32>(owner)));
      }
    }
    /// Adds up the squares that the block's warps have left and tells the cluster.
    __device__ __forceinline__ void tell_squares() const {
      if (lane < kM) {
        float total = 0.0f;
#pragma unroll
        for (int w = 0; w < kWarpsK; ++w) total += sh.squares[w * kM + lane];
        float* to = sh.all_squares + share.rank * kM + lane;
        *to = total;
#pragma unroll
        for (int r = 0; r < kCluster; ++r)
          if (r != share.rank)
            store_at(address_at(shared_address(to), static_cast<u32>(r)), total,
                     address_at(sh.squares_full, static_cast<u32>(r)));
      }
      __syncwarp();
    }
    /// rsqrt(mean(x^2) + eps) of the lane's tokens.
    __device__ __forceinline__ void find_scales(Scales& scale) const {
      if constexpr (kNormalises) {
        static_assert(kReducers == 1 && kPerLane == 1, "a lane has one vector");
        if constexpr (kCluster > 1) barrier_wait(sh.squares_full, 0);
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float total = 0.0f;
#pragma unroll
          for (int r = 0; r < kCluster; ++r)
            total += sh.all_squares[r * kM + min(token_of(first, c), kM - 1)];
          scale[c] = rsqrtf(total * (1.0f / kK) + Fusion::kEps) / kNormalisedBy<T>;
        }
      }
    }
    /// Adds the cluster's sums of an own row group in order of rank, and stores the results.
    __device__ __forceinline__ void collect(int slot, const Scales& scale) const {
      barrier_wait(sh.received + static_cast<u32>(slot * 8), 0);
      if (lane >= kLanes) return;
      const int group = share.first + (slot * kCluster + share.rank) * share.clusters;
#pragma unroll
      for (int p = 0; p < kPerLane; ++p) {
        const float* from = sh.slots + slot * kCluster * kWarpsN * kSums + (first + p * kWarp) * 4;
        float total[4] = {};
#pragma unroll
        for (int r = 0; r < kCluster; ++r) {
          const auto part = load_vec<float, 4>(from + r * kWarpsN * kSums);
#pragma unroll
          for (int c = 0; c < 4; ++c) total[c] += part.element[c];
        }
        store(args, group, first + p * kWarp, total, scale);
      }
    }

    __device__ __forceinline__ void run() const {
      pdl_wait();
      if constexpr (kCluster > 1) cluster_wait();
      RingPlace<kBuffers> buffer;
      Scales scale;
      int i = 0;  // row groups of the cluster
      for (int group = share.first; group < kRowGroups; group += share.clusters, ++i) {
        barrier_wait(buffer.of(sh.partial_full), buffer.parity);
        if (kNormalises && i == 0) tell_squares();
        Totals total = {};
        add(sh.partial + buffer.stage * kSums, total);
        __syncwarp();
        if (lane == 0) barrier_arrive(buffer.of(sh.partial_empty));
        buffer.advance();
        add_lane_groups(total);
        if (i == (kCluster == 1 ? 0 : 1)) find_scales(scale);
        if constexpr (kCluster == 1) {
          if (lane < kLanes)
#pragma unroll
            for (int p = 0; p < kPerLane; ++p)
              store(args, group, first + p * kWarp, total[p], scale);
        } else {
          const int owner = i % kCluster, slot = i / kCluster;
          send(owner, slot, total);
          // The own row group before this one: its sums will have come by now.
          if (owner == share.rank && slot > 0) collect(slot - 1, scale);
        }
      }
      if constexpr (kCluster > 1) {
        if (i == 1) find_scales(scale);  // others write here: nobody leaves before they have
        if (i > share.rank) collect((i - 1 - share.rank) / kCluster, scale);
      }
    }
  };

  static __device__ __forceinline__ void init_barriers(const Shared& sh, int num_slots) {
#pragma unroll
    for (int s = 0; s < kStages; ++s) {
      barrier_init(sh.full + static_cast<u32>(s * 8), 1);
      barrier_init(sh.empty + static_cast<u32>(s * 8), kWarps);
    }
#pragma unroll
    for (int s = 0; s < kBuffers; ++s) {
      barrier_init(sh.partial_full + static_cast<u32>(s * 8), kWarps);
      barrier_init(sh.partial_empty + static_cast<u32>(s * 8), kReducers);
    }
    for (int s = 0; s < num_slots; ++s) barrier_init(sh.received + static_cast<u32>(s * 8), 1);
    if constexpr (kNormalises) barrier_init(sh.squares_full, 1);
    barrier_init_fence();
    if constexpr (kNormalises) barrier_arrive_expect(sh.squares_full, (kCluster - 1) * kM * 4);
    for (int s = 0; s < num_slots; ++s)
      barrier_arrive_expect(sh.received + static_cast<u32>(s * 8),
                            (kCluster - 1) * kWarpsN * kSums * 4);
  }

  static __device__ __forceinline__ void run(const Args& args, unsigned char* smem) {
    const Share share;
    // As Wna16Slices::slots() has it.
    const int num_slots =
        kCluster == 1 ? 0 : ceil_div(ceil_div(kRowGroups, share.clusters), kCluster);
    const Shared sh(smem, num_slots);
    const int warp = static_cast<int>(threadIdx.x / kWarp);
    pdl_launch_dependents();
    if (threadIdx.x == kWarps * kWarp) init_barriers(sh, num_slots);
    __syncthreads();
    if constexpr (kCluster > 1) cluster_arrive();
    if (warp < kWarps) {
      if constexpr (kShape.moves_registers()) take_registers<kShape.math_registers()>();
      math(args, sh, share);
    } else {
      if constexpr (kShape.moves_registers()) give_registers<Wna16Slices::kHelperRegisters>();
      if (threadIdx.x == kWarps * kWarp)
        produce(args, sh, share);
      else if (warp > kWarps && warp <= kWarps + kReducers)
        Reducer(args, sh, share, warp - kWarps - 1).run();
    }
    if constexpr (kCluster > 1) {
      // Reducers have waited: they alone touch another block's memory.
      __syncwarp();
      if (warp <= kWarps || warp > kWarps + kReducers) cluster_wait();
    }
  }
};

}  // namespace quern
