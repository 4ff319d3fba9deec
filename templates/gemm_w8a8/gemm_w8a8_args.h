// What host and device code of the gemm_w8a8 family must agree on: the kernels' parameter and the
// sizes of their shared memory.
#pragma once

namespace quern {

/// y = scales * (x · wᵀ), all row-major and contiguous; 16-byte aligned addresses.
struct GemmW8A8Args {
  const void* x;          // [m, k], 8 bits
  const void* w;          // [n, k], 8 bits
  const float* x_scales;  // [1], [m] or [m, ceil(k / 128)]
  const float* w_scales;  // [1], [n] or [ceil(n / 128), ceil(k / 128)]
  void* y;                // [m, n]
  void* workspace;        // counters, then 32-bit partial sums; null where split_k is 1
  long long m;
};

/// The same where x and w are copied by the tensor memory accelerator (Family::tensor_maps).
/// Whoever includes this file includes gemm_args.h before, which host and device find by different
/// paths.
struct GemmW8A8TmaArgs : GemmTmaArgs {
  const float* x_scales;
  const float* w_scales;
};

/// Side of a block of w, and length of a group of x, that share a scale.
constexpr int kScaleBlock = 128;
constexpr int scale_blocks(int extent) { return (extent + kScaleBlock - 1) / kScaleBlock; }

/// Largest k whose products of e4m3 a tensor core of Hopper may sum up alone. It cuts its sum off
/// with every 32 of k, after some 13 bits: on an H200 the error of sums of normal codes was 1.3e-3
/// of their rms at k = 4096 and 2.9e-3 at 14336 (bent towards zero by 1.9e-4 and 4.8e-4), where the
/// codes themselves are 3.7e-2 off; promoted sums were 1.3e-4 off.
constexpr int kMaxUnpromotedK = 16384;

/// Bytes that one access moves: rows of k bytes are aligned to no more than this.
constexpr int w8a8_vector_bytes(int k) {
  return k % 16 == 0 ? 16 : k % 8 == 0 ? 8 : k % 4 == 0 ? 4 : 1;
}

/// few_rows: a lane's accesses of 16 bytes give the four lanes of a row 64 elements of k.
constexpr int kFewRowsChunk = 64;
constexpr int few_rows_chunks(int k) { return (k + kFewRowsChunk - 1) / kFewRowsChunk; }
/// few_rows: bytes of a row of x in shared memory, an odd multiple of 64: a quarter of a warp reads
/// 64 bytes of two neighbouring rows, which then lie in different banks.
constexpr int few_rows_x_pitch(int k) { return (few_rows_chunks(k) | 1) * kFewRowsChunk; }
/// few_rows: x; scales of its groups; two buffers of partial sums where several warps share a row.
constexpr int few_rows_smem_bytes(int k, int tile_m, int warps_n, int warps_k, bool group_scales) {
  return tile_m * few_rows_x_pitch(k) + (group_scales ? tile_m * scale_blocks(k) * 4 : 0) +
         (warps_k > 1 ? 2 * warps_n * warps_k * 16 * tile_m * 4 : 0);
}

/// mma: `stages` tiles of x and w, and one word (padded) for the blocks that share an output tile.
constexpr int w8a8_mma_smem_bytes(int tile_m, int tile_n, int tile_k, int stages) {
  return stages * (tile_m + tile_n) * tile_k + 16;
}

/// wgmma: scales of blocks for the rows of each stage's tile of x, behind all else
/// (wgmma_smem_bytes).
constexpr int w8a8_wgmma_scale_bytes(int tile_m, int stages) { return stages * tile_m * 4; }

/// reference: rows and columns of y that a block owns, a thread each.
constexpr int kW8A8ReferenceTile = 16;

}  // namespace quern
