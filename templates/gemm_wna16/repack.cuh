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
// A block turns 64 columns of 256 rows: it reads whole lines, leaves a byte a code in shared
// memory, and each warp writes whole units.
#pragma once
#include "common/memory.cuh"
#include "common/types.cuh"
#include "gemm_wna16/gemm_wna16_args.h"
#include "gemm_wna16/repack_args.h"

namespace quern {

enum class RepackSource { awq, gptq, gptq_v2, packed, int8 };

/// The row, of eight, that nibble i of an AWQ word belongs to.
__device__ __forceinline__ int awq_row(int i) { return i < 4 ? 2 * i : 2 * i - 7; }

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
  static constexpr int kStride = kRepackRows + 8;  // of a column's codes in shared memory
  static constexpr int kUnitColumns = wna16_unit_columns(kBits);

  /// Leaves the codes of rows n0.. and columns k0.. as bytes [column][row].
  static __device__ __forceinline__ void read(const RepackArgs& args, u8* codes, int n0, int k0) {
    const int thread = static_cast<int>(threadIdx.x);
    const int rows = min(kRepackRows, kN - n0);
    const u32* in = static_cast<const u32*>(args.in);
    const auto source_column = [&](int c) { return args.order ? args.order[k0 + c] : k0 + c; };
    if constexpr (kSource == RepackSource::awq) {
      for (int i = thread; i < kRepackColumns * kRepackRows / 8; i += kRepackThreads) {
        const int c = i / (kRepackRows / 8), r = i % (kRepackRows / 8) * 8;
        if (r >= rows) continue;
        const u32 word = in[Rows::side_by_side(n0 + r, source_column(c), kK, 8)];
#pragma unroll
        for (int j = 0; j < 8; ++j)
          codes[c * kStride + r + awq_row(j)] = static_cast<u8>(word >> (4 * j) & 15);
      }
    } else if constexpr (kSource == RepackSource::gptq || kSource == RepackSource::gptq_v2) {
      if (args.order) {
        for (int i = thread; i < kRepackColumns * kRepackRows; i += kRepackThreads) {
          const int c = i / kRepackRows, r = i % kRepackRows;
          if (r >= rows) continue;
          const int from = source_column(c);
          const u32 word = in[Rows::side_by_side(n0 + r, from / 8, kK / 8, 1)];
          codes[c * kStride + r] = static_cast<u8>(word >> (from % 8 * 4) & 15);
        }
      } else {
        for (int i = thread; i < kRepackColumns / 8 * kRepackRows; i += kRepackThreads) {
          const int c = i / kRepackRows * 8, r = i % kRepackRows;
          if (r >= rows) continue;
          const u32 word = in[Rows::side_by_side(n0 + r, (k0 + c) / 8, kK / 8, 1)];
#pragma unroll
          for (int j = 0; j < 8; ++j)
            codes[(c + j) * kStride + r] = static_cast<u8>(word >> (4 * j) & 15);
        }
      }
    } else {
      constexpr int kPerWord = 32 / kBits, kWords = kRepackColumns / kPerWord;  // of a row
      for (int i = thread; i < kWords * kRepackRows; i += kRepackThreads) {
        const int r = i / kWords, c = i % kWords * kPerWord;
        if (r >= rows) continue;
        u32 word = in[(static_cast<i64>(Rows::through(n0 + r)) * kK + k0 + c) / kPerWord];
        if constexpr (kBits == 8) word ^= 0x80808080u;  // + 128
#pragma unroll
        for (int j = 0; j < kPerWord; ++j)
          codes[(c + j) * kStride + r] = static_cast<u8>(word >> (kBits * j) & ((1u << kBits) - 1));
      }
    }
  }

  static __device__ __forceinline__ void run(const RepackArgs& args) {
    __shared__ u8 codes[kRepackColumns * kStride];
    constexpr int kBlocksK = kK / kRepackColumns;
    const int k0 = static_cast<int>(blockIdx.x) % kBlocksK * kRepackColumns;
    const int n0 = static_cast<int>(blockIdx.x) / kBlocksK * kRepackRows;
    read(args, codes, n0, k0);
    __syncthreads();
    constexpr int kUnits = kRepackColumns / kUnitColumns;  // of a row tile
    const int lane = static_cast<int>(threadIdx.x % kWarp), g = lane / 4, t = lane % 4;
    for (int i = static_cast<int>(threadIdx.x / kWarp); i < kRepackRows / 16 * kUnits;
         i += kRepackThreads / kWarp) {
      const int row = i / kUnits * 16, column = i % kUnits * kUnitColumns;
      if (n0 + row >= kN) break;
      Bytes<16> out{};
#pragma unroll
      for (int step = 0; step < kUnitColumns / 16; ++step)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const u32 code = codes[(column + step * 16 + 2 * t + 8 * (j / 2) + h) * kStride + row +
                                   g + 8 * (j % 2)];
            if constexpr (kBits == 4)
              out.word[step] |= code << (4 * (j + 4 * h));
            else
              out.word[2 * step + j / 2] |= code << (8 * (j % 2 + 2 * h));
          }
      const i64 unit =
          static_cast<i64>((n0 + row) / 16) * (kK / kUnitColumns) + (k0 + column) / kUnitColumns;
      *reinterpret_cast<Bytes<16>*>(static_cast<u8*>(args.out) + unit * kWna16UnitBytes +
                                    lane * 16) = out;
    }
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
