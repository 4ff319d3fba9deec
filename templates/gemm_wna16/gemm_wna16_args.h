// What host and device code of the gemm_wna16 family must agree on: the kernels' parameter, the
// kernel order of weights, and the sizes of shared memory.
//
// Kernel order is one for all kernels of the family, because a model keeps its weights once. It
// takes w as the A operand of mma.m16n8k16 (rows of w are the mma's M), which is also what a warp
// holds of wgmma's A in registers. With g = lane / 4 and t = lane % 4, register j of a k16 step has
//
//   row g + 8 * (j % 2), columns 2t + 8 * (j / 2) and the one after it
//
//   codes   [n / 16][k / unit columns][32 lanes][16 bytes]; a unit is 16 rows by 64 columns of
//           4 bits or by 32 columns of 8 bits, so always 512 bytes
//           4 bits: word s of a lane is k16 step s; nibbles j and j + 4 are register j
//           8 bits: words 2s and 2s + 1 are step s; bytes j % 2 and j % 2 + 2 of word 2s + j / 2
//           are register j
//   scales  [n / 16][groups][8][2]: rows g and g + 8 are neighbours
//   zeros   the same order, one byte each
//
// A code is unsigned; symmetric weights have the zero point 2^(bits - 1), so int8 is stored + 128.
#pragma once

namespace quern {

/// y = x · wᵀ with w[n, k] = (code - zero) * scale; x and y row-major; 16-byte aligned addresses.
struct GemmWna16Args {
  const void* x;       // [m, k]
  const void* codes;   // kernel order
  const void* scales;  // kernel order, type of x
  const void* zeros;   // kernel order; null for symmetric weights
  void* y;             // [m, n]
  void* workspace;     // counters, then fp32 partial sums; null where split_k is 1
  long long m;
};

/// The same where x and y are copied by the tensor memory accelerator, as the driver describes
/// them to it (Family::tensor_maps).
struct GemmWna16TmaArgs {
  alignas(64) unsigned char x_map[128];
  alignas(64) unsigned char y_map[128];  // with tma_store
  const void* codes;
  const void* scales;
  const void* zeros;
  void* y;
  void* workspace;
  long long m;
};

constexpr int kWna16UnitRows = 16;
constexpr int kWna16NormalisedRows = 4;  // of x, at most
constexpr int kWna16UnitBytes = 512;
constexpr int wna16_unit_columns(int bits) { return bits == 4 ? 64 : 32; }
constexpr int wna16_ceil_div(int a, int b) { return (a + b - 1) / b; }

/// Columns of `units` neighbouring units that share a scale.
constexpr int wna16_span(int bits, int group_size, int units) {
  const int columns = units * wna16_unit_columns(bits);
  return group_size < columns ? group_size : columns;
}
/// Bytes of such a chunk of 16 rows: codes, then scales, then zero points of its spans.
constexpr int wna16_chunk_bytes(int bits, int group_size, bool zero_points, int units) {
  const int spans = units * wna16_unit_columns(bits) / wna16_span(bits, group_size, units);
  return units * kWna16UnitBytes + spans * (32 + (zero_points ? 16 : 0));
}

/// stream: chunks of a block's share of k, at most.
constexpr int wna16_share_chunks(int k, int bits, int units, int split_k) {
  return wna16_ceil_div(wna16_ceil_div(k, units * wna16_unit_columns(bits)), split_k);
}
/// stream: bytes of a staged row of x. The 16 after its share of k keep ldmatrix free of conflicts.
constexpr int wna16_x_stride(int k, int bits, int units, int split_k) {
  return wna16_share_chunks(k, bits, units, split_k) * units * wna16_unit_columns(bits) * 2 + 16;
}
/// stream: columns whose sums are scaled together, at most 256.
constexpr int wna16_stream_span(int bits, int group_size, int units) {
  const int span = wna16_span(bits, group_size, units);
  return span < 256 ? span : 256;
}
/// stream: such spans in a block's share of k.
constexpr int wna16_share_spans(int k, int bits, int group_size, int units, int split_k) {
  return wna16_share_chunks(k, bits, units, split_k) * units * wna16_unit_columns(bits) /
         wna16_stream_span(bits, group_size, units);
}
/// stream: x, the ring of weights, two buffers of the warps' sums, a flag, two barriers for each
/// slot of the ring, the sums of x over each span.
constexpr int wna16_stream_smem_bytes(int k, int bits, int group_size, bool zero_points, int tile_m,
                                      int warps_n, int warps_k, int units, int stages,
                                      int split_k) {
  return tile_m * wna16_x_stride(k, bits, units, split_k) +
         warps_n * warps_k * stages * wna16_chunk_bytes(bits, group_size, zero_points, units) +
         2 * warps_n * warps_k * tile_m * kWna16UnitRows * 4 + 16 +
         warps_n * warps_k * stages * 16 +
         tile_m * wna16_share_spans(k, bits, group_size, units, split_k) * 4;
}

/// slices: what a config makes of a problem, in sizes that both sides need.
struct Wna16Slices {
  int n, k, bits, group_size;
  bool zero_points;
  int tile_m, warps_n, warps_k, units, stages, blocks_per_sm, cluster;

  static constexpr int kSpan = 128;            // columns that a warp takes at once
  static constexpr int kBuffers = 2;           // of the warps' sums
  static constexpr int kHelpers = 4;           // warps that give registers away
  static constexpr int kReducers = 2;          // of them, at most, that add
  static constexpr int kHelperRegisters = 32;  // of their threads, where the others take more

  constexpr int warps() const { return warps_n * warps_k; }
  constexpr int row_tiles() const { return n / kWna16UnitRows; }
  constexpr int row_groups() const { return wna16_ceil_div(row_tiles(), warps_n); }
  constexpr int groups() const { return kSpan / group_size; }  // of a span
  constexpr int span_bytes() const {
    return kSpan / wna16_unit_columns(bits) * kWna16UnitBytes +
           groups() * (32 + (zero_points ? 16 : 0));
  }
  constexpr int spans_k() const { return k / kSpan; }
  constexpr int spans_warp() const { return units * wna16_unit_columns(bits) / kSpan; }
  /// Of one row tile.
  constexpr int stage_spans() const { return warps_k * spans_warp(); }
  constexpr int stage_bytes() const { return warps_n * stage_spans() * span_bytes(); }
  /// Stages of a row tile in a block, and spans of it in a warp.
  constexpr int steps() const { return wna16_ceil_div(spans_k(), stage_spans() * cluster); }
  constexpr int slices() const { return steps() * spans_warp(); }

  /// Registers of a lane that hold its warp's part of x, which then is not staged.
  constexpr int held_registers() const { return slices() * (tile_m > 8 ? 32 : 16); }
  /// Those that a lane needs besides.
  constexpr int other_registers() const { return tile_m > 8 ? 40 : 36; }
  constexpr bool holds_x() const {
    return held_registers() <= 64 &&
           (tile_m > 8 || held_registers() + other_registers() <= math_registers());
  }
  constexpr int x_columns() const { return slices() * warps_k * kSpan; }
  constexpr int x_stride() const { return x_columns() * 2 + 16; }
  constexpr int x_bytes() const { return holds_x() ? 0 : tile_m * x_stride(); }
  constexpr int num_x_sums() const { return tile_m * slices() * warps_k * groups(); }

  /// Those that copy and add.
  constexpr int helpers() const { return moves_registers() ? kHelpers : 1 + reducers(); }
  constexpr int threads() const { return (warps() + helpers()) * 32; }
  /// Registers that a thread starts with, and those of a warp that multiplies. They are dealt out
  /// to four warps at a time, by eights.
  constexpr int start_registers() const { return registers_of(warps() + helpers()); }
  constexpr int registers_of(int warps_of_block) const {
    const int most = 65536 / (wna16_ceil_div(warps_of_block, 4) * 128 * blocks_per_sm) / 8 * 8;
    return most < 248 ? most : 248;
  }
  /// Where 64 of them hold x, the helpers give some of theirs away.
  constexpr bool moves_registers() const {
    return warps() % 4 == 0 && tile_m > 8 && registers_of(warps() + kHelpers) < 128;
  }
  constexpr int math_registers() const {
    if (!moves_registers()) return start_registers();
    const int of_all = start_registers() * (warps() / 4 + 1);
    const int most = (of_all - kHelperRegisters) / (warps() / 4) / 8 * 8;
    return most < 232 ? most : 232;
  }

  /// The sums of x over groups, too, where there is room for them.
  constexpr bool holds_x_sums() const {
    const int sums = slices() * groups() * (tile_m > 8 ? 4 : 2);
    return holds_x() && held_registers() + sums + other_registers() <= math_registers();
  }

  /// Large clusters were faster with one (4096 x 14336, 16 tokens, clusters of 8: 13.5 and 15.3
  /// us).
  constexpr int reducers() const { return tile_m > 8 && cluster <= 2 ? kReducers : 1; }
  constexpr int sums() const { return tile_m * kWna16UnitRows; }  // of a row tile
  /// What a warp leaves its sums in, and deals x out through before (HeldX).
  constexpr int partial_floats() const {
    constexpr int kLeast = 128;
    return kBuffers * sums() > kLeast ? kBuffers * sums() : kLeast;
  }
  /// Row groups that a block gathers from its cluster.
  constexpr int slots(int clusters) const {
    return cluster == 1 ? 0 : wna16_ceil_div(wna16_ceil_div(row_groups(), clusters), cluster);
  }
  /// The ring, the warps' sums, x, its sums, barriers, the sums of the cluster.
  constexpr int smem_bytes(int clusters) const {
    return stages * stage_bytes() + warps() * partial_floats() * 4 + x_bytes() +
           (num_x_sums() + 3) / 4 * 16 + (2 * stages + 2 * kBuffers) * 8 +
           (slots(clusters) + 1) / 2 * 16 + slots(clusters) * cluster * warps_n * sums() * 4;
  }
};

/// slices: squares of a row that is normalised, of the warps and of the cluster's blocks, and a
/// barrier.
constexpr int wna16_slices_norm_bytes(int tile_m, int warps_k, int cluster) {
  return wna16_ceil_div((warps_k + cluster) * tile_m, 4) * 16 + 16;
}

/// mma: bytes of one stage: x, then the chunks of all 16-row tiles.
constexpr int wna16_mma_stage_bytes(int bits, int group_size, bool zero_points, int tile_m,
                                    int tile_n, int units) {
  return tile_m * units * wna16_unit_columns(bits) * 2 +
         tile_n / kWna16UnitRows * wna16_chunk_bytes(bits, group_size, zero_points, units);
}
/// mma: bytes of a row of y on its way out. The 16 after it spread the rows over the banks.
constexpr int wna16_y_stride(int tile_n, int out_bytes) { return tile_n * out_bytes + 16; }
/// mma: the ring, whose room then serves the outputs, and a flag.
constexpr int wna16_mma_smem_bytes(int bits, int group_size, bool zero_points, int tile_m,
                                   int tile_n, int units, int stages, int out_bytes) {
  const int ring =
      stages * wna16_mma_stage_bytes(bits, group_size, zero_points, tile_m, tile_n, units);
  const int y = tile_m * wna16_y_stride(tile_n, out_bytes);
  return (ring > y ? ring : y) + 16;
}

/// wgmma: bytes of one stage, like those of mma, in whole repeats of the swizzle.
constexpr int wna16_wgmma_stage_bytes(int bits, int group_size, bool zero_points, int tile_m,
                                      int tile_n, int units) {
  return wna16_ceil_div(wna16_mma_stage_bytes(bits, group_size, zero_points, tile_m, tile_n, units),
                        1024) *
         1024;
}
/// wgmma: sums that the other blocks of a tile send to each that shares its k.
constexpr int wna16_wgmma_sums_bytes(int tile_m, int tile_n, int cluster_k) {
  return (cluster_k - 1) * (tile_m / cluster_k) * tile_n * 4;
}
/// wgmma: tokens whose outputs a warpgroup lays out in shared memory at a time, 64 columns of 16
/// bits or 32 tokens by 64 columns of 32 where the tile has so many; a divisor of the tile.
constexpr int wna16_wgmma_store_tokens(int tile_m, int out_bytes) {
  int tokens = 128 / out_bytes;
  while (tile_m % tokens != 0) tokens -= 16;
  return tokens;
}
/// wgmma: two such buffers of each warpgroup.
constexpr int wna16_wgmma_store_bytes(int tile_m, int warps_n, bool tma_store, int out_bytes) {
  return !tma_store
             ? 0
             : warps_n / 4 * 2 * wna16_wgmma_store_tokens(tile_m, out_bytes) * 64 * out_bytes;
}
/// wgmma: the ring, aligned to 1024 bytes, those sums and buffers, all barriers, and a flag.
constexpr int wna16_wgmma_smem_bytes(int bits, int group_size, bool zero_points, int tile_m,
                                     int tile_n, int warps_n, int warps_k, int units, int stages,
                                     int cluster_k, bool tma_store, int out_bytes) {
  return 1024 + wna16_wgmma_store_bytes(tile_m, warps_n, tma_store, out_bytes) +
         stages *
             (wna16_wgmma_stage_bytes(bits, group_size, zero_points, tile_m, tile_n, units) + 16) +
         wna16_wgmma_sums_bytes(tile_m, tile_n, cluster_k) + (warps_k - 1) * tile_m * tile_n * 4 +
         16 + 16;
}

/// reference: rows and columns of y that a block owns, a thread each.
constexpr int kWna16ReferenceTile = 16;

}  // namespace quern
