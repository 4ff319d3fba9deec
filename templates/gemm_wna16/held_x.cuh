// A few rows of x in registers, as B fragments of mma.m16n8k16: what a warp multiplies the same
// slices of k with for as long as it runs.
//
//   x [m, k], row-major; a slice is 128 columns of tile_m rows, of which rows from m on repeat the
//   last. Or a stream [m, k] that is normalised: x * gamma, rounded, and what its squares add up
//   to.
//
// Many blocks read the same rows at once, so what counts is how many requests that makes of the L2
// cache: a warp reads whole lines of 128 bytes, all of its slices before it looks at any, and deals
// them out through shared memory of its own, a batch at a time. (16 bytes of each of 8 rows by four
// lanes, which shuffles could deal out, are half lines: 4096 x 4096 took 4.96 us at 8 rows instead
// of 3.96, and 5.94 instead of 5.37 at 16, on an H200.)
#pragma once
#include "common/grid.cuh"
#include "common/memory.cuh"
#include "common/mma.cuh"
#include "common/types.cuh"
#include "gemm_wna16/finish.cuh"
#include "gemm_wna16/gemm_wna16_args.h"

namespace quern {

/// `Columns`: of a slice's index, its first column. All are called by one warp, whose shared memory
/// `scratch` is, kBatchBytes of it; nobody else may use that before a barrier.
template <class T, int kM, int kSlices>
struct HeldX {
  static constexpr int kTokenTiles = kM > 8 ? 2 : 1;
  static constexpr int kLineBytes = 128, kPieces = kLineBytes / 16, kSteps = kLineBytes / 32;
  static constexpr int kLinesOfSlice = Wna16Slices::kSpan * 2 / kLineBytes;
  static constexpr int kLines = kSlices * kLinesOfSlice;  // of a row
  /// At least one access of all lanes.
  static constexpr int kBatchLines = kM * kPieces >= kWarp ? 1 : kWarp / (kM * kPieces);
  static constexpr int kBatchBytes = kBatchLines * kM * kLineBytes;
  static constexpr int kBatches = ceil_div(kLines, kBatchLines);
  static constexpr int kLoads = kBatchBytes / 16 / kWarp;  // of a lane

  /// [slice][token tile][k16 step][2]
  using Fragments = u32[kSlices][kTokenTiles][kLinesOfSlice * kSteps][2];

  /// Where a piece lies in a batch: neighbouring rows have theirs in other banks.
  static __device__ __forceinline__ int place(int line, int row, int piece) {
    return (line * kM + row) * kLineBytes + (piece ^ (row % kPieces)) * 16;
  }

  /// Of a batch: the line and row of the lane's i-th piece, which is piece lane % kPieces of them.
  static __device__ __forceinline__ int line_of(int i, int lane) {
    return (i * kWarp + lane) / (kM * kPieces);
  }
  static __device__ __forceinline__ int row_of(int i, int lane) {
    return (i * kWarp + lane) / kPieces % kM;
  }
  /// Where a batch is not full, its last line comes again.
  static __device__ __forceinline__ int line_of(int b, int i, int lane) {
    const int line = b * kBatchLines + line_of(i, lane);
    return kLines % kBatchLines == 0 ? line : min(line, kLines - 1);
  }
  template <class Columns>
  static __device__ __forceinline__ int column(const Columns& column_of, int b, int i, int lane) {
    const int line = line_of(b, i, lane);
    return column_of(line / kLinesOfSlice) + (line % kLinesOfSlice * kPieces + lane % kPieces) * 8;
  }

  template <class Columns>
  static __device__ __forceinline__ void load(const T* x, int k, int m, const Columns& column_of,
                                              unsigned char* scratch, int lane, Fragments& to) {
    Bytes<16> piece[kBatches][kLoads];
#pragma unroll
    for (int b = 0; b < kBatches; ++b)
#pragma unroll
      for (int i = 0; i < kLoads; ++i)
        piece[b][i] = *reinterpret_cast<const Bytes<16>*>(x + min(row_of(i, lane), m - 1) * k +
                                                          column(column_of, b, i, lane));
#pragma unroll
    for (int b = 0; b < kBatches; ++b) deal_out(piece[b], b, scratch, lane, to);
    __syncwarp();
  }

  /// The lane's pieces of gamma, for load_normalised(): they wait for no other kernel.
  using Gamma = Bytes<16>[kBatches];
  template <class Columns>
  static __device__ __forceinline__ void load_gamma(const T* gamma, const Columns& column_of,
                                                    int lane, Gamma& to) {
#pragma unroll
    for (int b = 0; b < kBatches; ++b)
      to[b] = *reinterpret_cast<const Bytes<16>*>(gamma + column(column_of, b, 0, lane));
  }

  /// Up to four rows of stream * gamma. Returns the sum of squares of row lane / 8 % tile_m over
  /// the slices for which `exists` holds.
  template <class Stream, class Columns, class Exists>
  static __device__ __forceinline__ float load_normalised(const Stream* x, const Gamma& gamma,
                                                          int k, int m, const Columns& column_of,
                                                          const Exists& exists,
                                                          unsigned char* scratch, int lane,
                                                          Fragments& to) {
    static_assert(kLoads == 1, "a lane has pieces of one row");
    Vec<Stream, 8> piece[kBatches];
#pragma unroll
    for (int b = 0; b < kBatches; ++b)
      piece[b] =
          load_vec<Stream, 8>(x + min(row_of(0, lane), m - 1) * k + column(column_of, b, 0, lane));
    float squares = 0.0f;
#pragma unroll
    for (int b = 0; b < kBatches; ++b) {
      const int line = b * kBatchLines + line_of(0, lane);
      const bool counts = line < kLines && exists(line / kLinesOfSlice);
      Bytes<16> scaled[1];
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const float low = to_f32(piece[b].element[2 * w]),
                    high = to_f32(piece[b].element[2 * w + 1]);
        float of_low, of_high;
        unpack2<T>(gamma[b].word[w], of_low, of_high);
        scaled[0].word[w] =
            pack2<T>(low * of_low * kNormalisedBy<T>, high * of_high * kNormalisedBy<T>);
        squares += counts ? low * low + high * high : 0.0f;
      }
      deal_out(scaled, b, scratch, lane, to);
    }
    __syncwarp();
#pragma unroll
    for (int apart = 1; apart < kWarp; apart *= 2)  // lanes of the same row
      if (apart < kPieces || apart >= kPieces * kM)
        squares += __shfl_xor_sync(0xffffffffu, squares, apart);
    return squares;
  }

 private:
  static __device__ __forceinline__ void deal_out(const Bytes<16> (&piece)[kLoads], int b,
                                                  unsigned char* scratch, int lane, Fragments& to) {
    const int last = min(lane % 8, kM - 1), matrix = lane / 8;  // whose row the lane names
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kLoads; ++i)
      *reinterpret_cast<Bytes<16>*>(
          scratch + place(line_of(i, lane), row_of(i, lane), lane % kPieces)) = piece[i];
    __syncwarp();
#pragma unroll
    for (int q = 0; q < kBatchLines; ++q) {
      const int line = b * kBatchLines + q;
      if (line >= kLines) continue;
#pragma unroll
      for (int j = 0; j < kTokenTiles; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          u32 r[4];
          ldmatrix_x4(r, shared_address(scratch + place(q, j * 8 + last, half * 4 + matrix)));
#pragma unroll
          for (int n = 0; n < 4; ++n)
            to[line / kLinesOfSlice][j][line % kLinesOfSlice * kSteps + half * 2 + n / 2][n % 2] =
                r[n];
        }
    }
  }
};

}  // namespace quern
