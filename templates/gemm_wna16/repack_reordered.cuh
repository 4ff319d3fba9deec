// Codes of GPTQ whose columns are reordered (act-order) to kernel order.
//
// A word of the checkpoint holds 8 columns of a row, which an order sends anywhere: whoever picks
// columns out of global memory reads each word eight times. So a block reads all columns of 16 rows
// once, whole words, and leaves in shared memory the 16 codes of each column side by side, from
// where its warps put units together.
//
// Four lanes read 16 rows of a line: 4 rows of 8 columns each. They exchange the columns that the
// other of a pair keeps, turn what they have, and write 8 rows of 4 columns. Later a lane takes 4
// columns that are neighbours in a unit, for all its rows: 4 accesses for 64 codes.
#pragma once
#include "gemm_wna16/repack.cuh"

namespace quern {

/// Turns nibbles: of 4 words with 4 columns of rows j and j + 4 (low and high half of word j), 4
/// words with 8 rows of a column each.
__device__ __forceinline__ void turn_halves(const u32 (&half)[4], u32 (&column)[4]) {
#pragma unroll
  for (int c = 0; c < 4; c += 2) {
    const u32 bytes = c == 0 ? 0x6240 : 0x7351;  // 2 columns of rows j, j + 2, j + 4, j + 6
    const u32 even = __byte_perm(half[0], half[2], bytes);
    const u32 odd = __byte_perm(half[1], half[3], bytes);
    column[c] = (even & 0x0f0f0f0f) | (odd & 0x0f0f0f0f) << 4;
    column[c + 1] = (even >> 4 & 0x0f0f0f0f) | (odd & 0xf0f0f0f0);
  }
}

template <class Problem, int kThreads>
struct RepackReordered {
  using Rows = RepackRows<Problem>;
  static constexpr int kN = Problem::n, kK = Problem::k, kLines = kK / 8;
  static constexpr int kUnits = kK / wna16_unit_columns(4);

  /// Where the codes of a column's rows 0 to 7 and 8 to 15 are, in words. Lanes that write at once
  /// have the same column of 8 lines: the lines' columns are rotated.
  static __device__ __forceinline__ int place(int column) {
    return (column * 2) ^ ((column / 16 % 4) * 2);
  }

  static __device__ __forceinline__ void stage(const RepackArgs& args, u32* words, int n0) {
    constexpr int kAtOnce = 4, kRounds = (kLines * 4 + kThreads - 1) / kThreads;
    const int thread = static_cast<int>(threadIdx.x), part = thread % 4;
    const bool upper = part % 2 != 0;  // rows 4 to 7 of 8, and then columns 4 to 7
    const auto* in = static_cast<const u32*>(args.in);
    for (int first = 0; first < kRounds; first += kAtOnce) {
      Bytes<16> row[kAtOnce];  // all on their way at once
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int line = ((first + i) * kThreads + thread) / 4;
        row[i] = {};
        if (line < kLines)
          row[i] = load_streaming(in + Rows::side_by_side(n0 + part * 4, line, kLines, 1));
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int line = ((first + i) * kThreads + thread) / 4;
        u32 half[4];  // 4 columns of rows j and j + 4
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const u32 own = row[i].word[j], other = __shfl_xor_sync(0xffffffffu, own, 1);
          half[j] = upper ? __byte_perm(other, own, 0x7632) : __byte_perm(own, other, 0x5410);
        }
        u32 column[4];
        turn_halves(half, column);
        if (line >= kLines) continue;
#pragma unroll
        for (int c = 0; c < 4; ++c)
          words[place(line * 8 + part % 2 * 4 + c) + part / 2] = column[c];
      }
    }
  }

  /// Writes the row tile. 16 lanes share a unit: lane t of each of its 4 steps has the words of
  /// lanes 4 g + t.
  static __device__ __forceinline__ void turn(const RepackArgs& args, const u32* words, int n0) {
    const int t = static_cast<int>(threadIdx.x % 4), step = static_cast<int>(threadIdx.x / 4 % 4);
    u8* tile = static_cast<u8*>(args.out) + static_cast<i64>(n0 / 16) * kUnits * kWna16UnitBytes;
#pragma unroll 2
    for (int unit = static_cast<int>(threadIdx.x / 16); unit < kUnits; unit += kThreads / 16) {
      Bytes<8> pair[2][2];  // [8 columns further][column]: 16 rows each
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const auto from = *reinterpret_cast<const Bytes<8>*>(args.order + unit * 64 + step * 16 +
                                                             half * 8 + 2 * t);
#pragma unroll
        for (int h = 0; h < 2; ++h)
          pair[half][h] =
              *reinterpret_cast<const Bytes<8>*>(words + place(static_cast<int>(from.word[h])));
      }
      // Nibbles of a word: rows g and g + 8, first of columns 2 t and 2 t + 8, then of the next.
      u32 low[4], high[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const u32 first = pair[j / 2][0].word[j % 2], second = pair[j / 2][1].word[j % 2];
        low[j] = __byte_perm(first, second, 0x5410);
        high[j] = __byte_perm(first, second, 0x7632);
      }
      u32 of_rows[2][4];
      turn_halves(low, of_rows[0]);
      turn_halves(high, of_rows[1]);
      u8* to = tile + static_cast<i64>(unit) * kWna16UnitBytes + t * 16 + step * 4;
#pragma unroll
      for (int g = 0; g < 8; ++g) *reinterpret_cast<u32*>(to + g * 64) = of_rows[g / 4][g % 4];
    }
  }

  static __device__ __forceinline__ void run(const RepackArgs& args) {
    extern __shared__ __align__(16) u32 words_of_columns[];
    const int n0 = static_cast<int>(blockIdx.x) * kWna16UnitRows;
    stage(args, words_of_columns, n0);
    __syncthreads();
    turn(args, words_of_columns, n0);
  }
};

}  // namespace quern
