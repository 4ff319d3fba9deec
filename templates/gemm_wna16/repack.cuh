// Quantised weights of checkpoints to kernel order (gemm_wna16_args.h), once, when a model is
// loaded.
//
//   awq     codes [k, n / 8] i32 whose nibbles, lowest first, are rows 0, 2, 4, 6, 1, 3, 5, 7 of w;
//           zeros [k / group, n / 8] in the same order; scales [k / group, n]
//   gptq    codes [k / 8, n] i32, nibble i being column 8 r + i; zeros [k / group, n / 8] in order,
//   one
//           less than they are; scales [k / group, n]
//   gptq_v2 the same with zeros as they are
//   packed  codes [n, k / 8] i32, nibble i being column 8 c + i; scales [n, k / group]; no zeros
//   int8    codes [n, k] i8 around 0; scales [n, k / group]; no zeros
//
// With an order, which GPTQ's act-order calls for, columns come sorted by group; the caller
// permutes x alike.
//
// Interleaved, the input holds two matrices of n / 2 rows, each as above, one after another, and
// the result 8 rows of each in turn, which is what products with SwiGLU read (gemm/fusion.cuh): its
// row r is row r / 16 * 8 + r % 8 of matrix r / 8 % 2. Words of AWQ hold 8 rows, so those of one.
//
// A block turns 64 columns of 256 rows: it reads whole lines, leaves the checkpoint's words in shared
// memory, and each warp picks the codes of whole units out of them. (A byte a code there would take
// three times as many accesses, which is more than memory takes.)
#pragma once
#include "common/memory.cuh"
#include "common/types.cuh"
#include "gemm_wna16/gemm_wna16_args.h"
#include "gemm_wna16/repack_args.h"

namespace quern {

enum class RepackSource { awq, gptq, gptq_v2, packed, int8 };

/// What lane g of a unit has of 16 columns of words that hold 8 rows each: nibble `nibble`, that of
/// row g, of [half][column][8 rows], half being 8 columns further, in the order of a unit's word.
__device__ __forceinline__ u32 nibbles_of_row(const Bytes<8> (&pair)[2][2], int nibble) {
  const u32 byte = static_cast<u32>(nibble / 2) * 0x11 + 0x40;  // of either word
  u32 of_rows[2];                                               // g and g + 8
#pragma unroll
  for (int p = 0; p < 2; ++p) {
    const u32 low = __byte_perm(pair[0][0].word[p], pair[1][0].word[p], byte);
    const u32 high = __byte_perm(pair[0][1].word[p], pair[1][1].word[p], byte);
    of_rows[p] = __byte_perm(low, high, 0x5410) >> (nibble % 2 * 4) & 0x0f0f0f0f;
  }
  return of_rows[0] | of_rows[1] << 4;
}

/// Where the input has the rows of the result.
template <class Problem>
struct RepackRows {
  static constexpr bool kInterleaved = Problem::interleaved;
  static constexpr int kRows = kInterleaved ? Problem::n / 2 : Problem::n;  // of a matrix

  static __device__ __forceinline__ int matrix(int r) { return kInterleaved ? r / 8 % 2 : 0; }
  /// Within its matrix.
  static __device__ __forceinline__ int row(int r) { return kInterleaved ? r / 16 * 8 + r % 8 : r; }
  /// Counted through both, as matters where a matrix is row after row.
  static __device__ __forceinline__ int through(int r) { return matrix(r) * kRows + row(r); }
  /// The element of line `l`, of a matrix's `lines`, with row r: lines have all rows side by side,
  /// `per_element` to an element.
  static __device__ __forceinline__ i64 side_by_side(int r, int l, int lines, int per_element) {
    return (static_cast<i64>(matrix(r)) * lines + l) * (kRows / per_element) + row(r) / per_element;
  }
};

template <class Problem>
struct RepackCodes {
  using Rows = RepackRows<Problem>;
  static constexpr int kN = Problem::n, kK = Problem::k, kBits = Problem::bits;
  static constexpr RepackSource kSource = Problem::source;
  static constexpr bool kGptq = kSource == RepackSource::gptq || kSource == RepackSource::gptq_v2;
  static constexpr int kUnitColumns = wna16_unit_columns(kBits);

  // The block's codes in shared memory, as words of the checkpoint. awq: [column][8 rows]; else
  // [columns of a word][row].
  static constexpr bool kWordsOfRows = kSource == RepackSource::awq;
  static constexpr int kPerWord = 32 / kBits;
  static constexpr int kLines = kWordsOfRows ? kRepackColumns : kRepackColumns / kPerWord;
  static constexpr int kLineWords = kWordsOfRows ? kRepackRows / 8 : kRepackRows;
  /// Lanes that read or write at once differ by two columns of awq, or by a line and some rows.
  static constexpr int kStride = kLineWords + (kWordsOfRows ? 2 : 4);
  static constexpr int kOwn = kLines * kLineWords / kRepackThreads;  // words of a thread

  /// The word at `place` of line `line`; its rows exist.
  static __device__ __forceinline__ u32 read(const RepackArgs& args, int n0, int k0, int line,
                                             int place) {
    const u32* in = static_cast<const u32*>(args.in);
    const auto source_column = [&](int c) { return args.order ? args.order[k0 + c] : k0 + c; };
    if constexpr (kWordsOfRows) {
      return in[Rows::side_by_side(n0 + place * 8, source_column(line), kK, 8)];
    } else if constexpr (kGptq) {
      const int row = n0 + place;
      if (!args.order) return in[Rows::side_by_side(row, k0 / 8 + line, kK / 8, 1)];
      u32 word = 0;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const int from = source_column(line * 8 + j);
        word |= (in[Rows::side_by_side(row, from / 8, kK / 8, 1)] >> (from % 8 * 4) & 15)
                << (4 * j);
      }
      return word;
    } else {
      const u32 word =
          in[(static_cast<i64>(Rows::through(n0 + place)) * kK + k0) / kPerWord + line];
      return kBits == 8 ? word ^ 0x80808080u : word;  // + 128
    }
  }

  static __device__ __forceinline__ void stage(const RepackArgs& args, u32* words, int n0, int k0) {
    const int rows = min(kRepackRows, kN - n0);
    const auto line_of = [&](int i) {
      const int at = i * kRepackThreads + static_cast<int>(threadIdx.x);
      // Neighbours in the checkpoint are neighbours among the threads.
      return kWordsOfRows || kGptq ? at / kLineWords : at % kLines;
    };
    const auto place_of = [&](int i) {
      const int at = i * kRepackThreads + static_cast<int>(threadIdx.x);
      return kWordsOfRows || kGptq ? at % kLineWords : at / kLines;
    };
    u32 word[kOwn];  // all on their way at once
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const bool exists = place_of(i) * (kWordsOfRows ? 8 : 1) < rows;
      word[i] = exists ? read(args, n0, k0, line_of(i), place_of(i)) : 0u;
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i) words[line_of(i) * kStride + place_of(i)] = word[i];
  }

  /// What a lane has of a unit: rows g and g + 8 of a row tile, at columns 2 t, 2 t + 1, and those 8
  /// further, of every 16.
  static __device__ __forceinline__ Bytes<16> unit(const u32* words, int row, int column, int g,
                                                   int t) {
    Bytes<16> out{};
#pragma unroll
    for (int step = 0; step < kUnitColumns / 16; ++step) {
      if constexpr (kWordsOfRows) {
        Bytes<8> pair[2][2];
#pragma unroll
        for (int i = 0; i < 4; ++i)
          pair[i / 2][i % 2] = *reinterpret_cast<const Bytes<8>*>(
              words + (column + step * 16 + i / 2 * 8 + 2 * t + i % 2) * kStride + row / 8);
        out.word[step] = nibbles_of_row(pair, g / 2 + g % 2 * 4);
        continue;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int half = i / 2, p = i % 2, first = column + step * 16 + half * 8;
        const int line = kBits == 4 ? first / 8 : first / 4 + t / 2;
        const u32 word = words[line * kStride + row + g + 8 * p];
        if constexpr (kBits == 4) {
          const u32 two = word >> (8 * t);
          out.word[step] |= (two & 15) << (4 * (2 * half + p)) |
                            (two >> 4 & 15) << (4 * (2 * half + p + 4));
        } else {
          const u32 two = word >> (16 * (t % 2));
          out.word[2 * step + half] |= (two & 255) << (8 * p) | (two >> 8 & 255) << (8 * (p + 2));
        }
      }
    }
    return out;
  }

  /// Writes whole units, a warp one at a time.
  static __device__ __forceinline__ void turn(const RepackArgs& args, const u32* words, int n0,
                                              int k0) {
    constexpr int kUnits = kRepackColumns / kUnitColumns;  // of a row tile
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    for (int i = static_cast<int>(threadIdx.x / kWarp); i < kRepackRows / 16 * kUnits;
         i += kRepackThreads / kWarp) {
      const int row = i / kUnits * 16, column = i % kUnits * kUnitColumns;
      if (n0 + row >= kN) break;
      const i64 to =
          static_cast<i64>((n0 + row) / 16) * (kK / kUnitColumns) + (k0 + column) / kUnitColumns;
      *reinterpret_cast<Bytes<16>*>(static_cast<u8*>(args.out) + to * kWna16UnitBytes + lane * 16) =
          unit(words, row, column, lane / 4, lane % 4);
    }
  }

  static __device__ __forceinline__ void run(const RepackArgs& args) {
    __shared__ __align__(8) u32 words[kLines * kStride];
    constexpr int kBlocksK = kK / kRepackColumns;
    const int k0 = static_cast<int>(blockIdx.x) % kBlocksK * kRepackColumns;
    const int n0 = static_cast<int>(blockIdx.x) / kBlocksK * kRepackRows;
    stage(args, words, n0, k0);
    __syncthreads();
    turn(args, words, n0, k0);
  }
};

/// Scales (16-bit elements) or zero points: a thread an element of the result.
template <class Problem>
struct RepackGroups {
  using Rows = RepackRows<Problem>;
  static constexpr int kN = Problem::n, kGroups = Problem::k / Problem::group_size;
  static constexpr RepackSource kSource = Problem::source;
  static constexpr bool kByRow = kSource == RepackSource::packed || kSource == RepackSource::int8;

  static __device__ __forceinline__ bool place(int& row, int& group, i64& to) {
    // Neighbours in the checkpoint are neighbours among the threads; eight by eight, of interleaved
    // rows that lie side by side.
    const i64 i = static_cast<i64>(blockIdx.x) * kRepackThreads + threadIdx.x;
    if (i >= static_cast<i64>(kN) * kGroups) return false;
    row = static_cast<int>(kByRow ? i / kGroups : i % kN);
    group = static_cast<int>(kByRow ? i % kGroups : i / kN);
    to = (static_cast<i64>(row / 16) * kGroups + group) * 16 + row % 8 * 2 + row % 16 / 8;
    return true;
  }
  static __device__ __forceinline__ void scales(const RepackArgs& args) {
    int row, group;
    i64 to;
    if (!place(row, group, to)) return;
    const i64 from = kByRow ? static_cast<i64>(Rows::through(row)) * kGroups + group
                            : Rows::side_by_side(row, group, kGroups, 1);
    static_cast<u16*>(args.out)[to] = static_cast<const u16*>(args.in)[from];
  }
  static __device__ __forceinline__ void zeros(const RepackArgs& args) {
    int row, group;
    i64 to;
    if (!place(row, group, to)) return;
    const u32 word = static_cast<const u32*>(args.in)[Rows::side_by_side(row, group, kGroups, 8)];
    const int r = row % 8;
    const int nibble = kSource == RepackSource::awq ? r / 2 + r % 2 * 4 : r;
    static_cast<u8*>(args.out)[to] =
        static_cast<u8>((word >> (4 * nibble) & 15) + (kSource == RepackSource::gptq ? 1 : 0));
  }
};

}  // namespace quern
