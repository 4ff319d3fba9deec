// A few rows of x in registers, as B fragments of mma.m16n8k16: what a warp multiplies the same
// slices of k with for as long as it runs.
//
//   x [m, k], row-major; a slice is 128 columns of tile_m rows, of which rows from m on repeat the
//   last.
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
#include "gemm_wna16/gemm_wna16_args.h"

namespace quern {

/// `Columns`: of a slice's index, its first column.
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

  /// One warp, whose shared memory `scratch` is, kBatchBytes of it; nobody else may use that before
  /// a barrier.
  template <class Columns>
  static __device__ __forceinline__ void load(const T* x, int k, int m, const Columns& column_of,
                                              unsigned char* scratch, int lane, Fragments& to) {
    const auto line_of = [&](int i) { return (i * kWarp + lane) / (kM * kPieces); };  // of a batch
    const auto row_of = [&](int i) { return (i * kWarp + lane) / kPieces % kM; };
    Bytes<16> piece[kBatches][kLoads];
#pragma unroll
    for (int b = 0; b < kBatches; ++b)
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        int line = b * kBatchLines + line_of(i);
        if (kLines % kBatchLines != 0) line = min(line, kLines - 1);
        const int row = min(row_of(i), m - 1);
        const int column =
            column_of(line / kLinesOfSlice) + (line % kLinesOfSlice * kPieces + lane % kPieces) * 8;
        piece[b][i] = *reinterpret_cast<const Bytes<16>*>(x + row * k + column);
      }
    const int last = min(lane % 8, kM - 1), matrix = lane / 8;  // whose row the lane names
#pragma unroll
    for (int b = 0; b < kBatches; ++b) {
      __syncwarp();
#pragma unroll
      for (int i = 0; i < kLoads; ++i)
        *reinterpret_cast<Bytes<16>*>(scratch + place(line_of(i), row_of(i), lane % kPieces)) =
            piece[b][i];
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
    __syncwarp();
  }
};

}  // namespace quern
