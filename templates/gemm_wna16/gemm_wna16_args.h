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
