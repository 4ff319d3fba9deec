// Chunks: `units` neighbouring units of 16 rows of w with their scales and zero points, on their
// way from kernel order through shared memory to A fragments. A warp loads and reads its own
// chunks.
#pragma once
#include "common/mbarrier.cuh"
#include "common/memory.cuh"
#include "common/tma.cuh"
#include "common/types.cuh"
#include "gemm_wna16/dequantise.cuh"
#include "gemm_wna16/gemm_wna16_args.h"

namespace quern {

template <class Problem, int units>
struct Wna16Chunk {
  using T = typename Problem::Input;
  static constexpr int kK = Problem::k, kBits = Problem::bits, kGroup = Problem::group_size;
  static constexpr bool kZeros = Problem::zero_points;
  static constexpr int kUnitColumns = wna16_unit_columns(kBits);
  static constexpr int kSteps = kUnitColumns / 16;  // k16 steps of a unit
  static constexpr int kColumns = units * kUnitColumns;
  static constexpr int kSpan = wna16_span(kBits, kGroup, units);  // columns that share a scale
  static constexpr int kSpans = kColumns / kSpan;
  static constexpr int kBytes = wna16_chunk_bytes(kBits, kGroup, kZeros, units);
  static constexpr int kScalesAt = units * kWna16UnitBytes, kZerosAt = kScalesAt + kSpans * 32;
  static constexpr int kUnitsK = kK / kUnitColumns, kGroups = kK / kGroup;
  static constexpr int kChunks = ceil_div(kUnitsK, units);

  static_assert(Problem::n % 16 == 0 && kK % 64 == 0, "n is a multiple of 16 and k of 64");
  static_assert(kColumns % kGroup == 0 || kGroup % kColumns == 0 || kGroup == kK,
                "groups and chunks divide one another");

  /// Requests one chunk of a row tile; what lies beyond k is filled with zeros.
  static __device__ __forceinline__ void load(const GemmWna16Args& args, u32 to, int row_tile,
                                              int chunk, int lane) {
    const int unit = chunk * units;
    const u8* codes = static_cast<const u8*>(args.codes) +
                      (static_cast<i64>(row_tile) * kUnitsK + unit) * kWna16UnitBytes + lane * 16;
#pragma unroll
    for (int u = 0; u < units; ++u)
      copy_async<16>(to + static_cast<u32>(u * kWna16UnitBytes + lane * 16),
                     codes + u * kWna16UnitBytes, kUnitsK % units == 0 || unit + u < kUnitsK);
    const int group = chunk * kColumns / kGroup;
    const i64 first = static_cast<i64>(row_tile) * kGroups + group;
    const auto inside = [&](int span) { return kUnitsK % units == 0 || group + span < kGroups; };
#pragma unroll
    for (int i = 0; i < ceil_div(kSpans * 2, kWarp); ++i) {
      const int piece = i * kWarp + lane;
      if (piece < kSpans * 2)
        copy_async<16>(to + static_cast<u32>(kScalesAt + piece * 16),
                       static_cast<const u8*>(args.scales) + first * 32 + piece * 16,
                       inside(piece / 2));
      if (kZeros && piece < kSpans)
        copy_async<16>(to + static_cast<u32>(kZerosAt + piece * 16),
                       static_cast<const u8*>(args.zeros) + (first + piece) * 16, inside(piece));
    }
  }

  /// Units and spans of a chunk that exist.
  static __device__ __forceinline__ int units_of(int chunk) {
    return kUnitsK % units == 0 ? units : min(units, kUnitsK - chunk * units);
  }
  static __device__ __forceinline__ int spans_of(int chunk) {
    return ceil_div(units_of(chunk) * kUnitColumns, kSpan);
  }
  /// Bytes of a chunk that bulk copies bring.
  static __device__ __forceinline__ u32 bytes_of(int chunk) {
    return static_cast<u32>(units_of(chunk) * kWna16UnitBytes +
                            spans_of(chunk) * (kZeros ? 48 : 32));
  }
  /// Requests one chunk by bulk copies that end on a barrier; what lies beyond k stays as it is.
  /// One thread. Where `copies` is more than 1 they go to the same place of every block of the
  /// cluster in `blocks`, a bit each.
  template <int copies = 1, class Args>
  static __device__ __forceinline__ void load_bulk(const Args& args, u32 to, int row_tile,
                                                   int chunk, u32 barrier, u16 blocks = 1) {
    const auto load = [&](u32 at, const void* from, u32 bytes) {
      if constexpr (copies == 1)
        bulk_load(at, from, bytes, barrier);
      else
        bulk_load_multicast(at, from, bytes, barrier, blocks);
    };
    const i64 unit = static_cast<i64>(row_tile) * kUnitsK + chunk * units;
    load(to, static_cast<const u8*>(args.codes) + unit * kWna16UnitBytes,
         static_cast<u32>(units_of(chunk) * kWna16UnitBytes));
    const i64 group = static_cast<i64>(row_tile) * kGroups + chunk * kColumns / kGroup;
    const u32 spans = static_cast<u32>(spans_of(chunk));
    load(to + kScalesAt, static_cast<const u8*>(args.scales) + group * 32, spans * 32);
    if constexpr (kZeros)
      load(to + kZerosAt, static_cast<const u8*>(args.zeros) + group * 16, spans * 16);
  }

  /// The lane's 16 bytes of one unit.
  static __device__ __forceinline__ Bytes<16> codes(const unsigned char* chunk, int unit,
                                                    int lane) {
    return *reinterpret_cast<const Bytes<16>*>(chunk + unit * kWna16UnitBytes + lane * 16);
  }
  /// The scales of the lane's rows g (low) and g + 8 (high) for a column of the chunk.
  static __device__ __forceinline__ u32 scales(const unsigned char* chunk, int column, int lane) {
    return *reinterpret_cast<const u32*>(chunk + kScalesAt + column / kSpan * 32 + lane / 4 * 4);
  }
  /// The zero points of the lane's rows g (low byte) and g + 8.
  static __device__ __forceinline__ u32 zeros(const unsigned char* chunk, int column, int lane) {
    return *reinterpret_cast<const u16*>(chunk + kZerosAt + column / kSpan * 16 + lane / 4 * 2);
  }
};

}  // namespace quern
