// What host and device code of the gemm family must agree on: the kernels' parameter and the sizes
// of their shared memory.
#pragma once
namespace quern {

/// y = x · wᵀ, all row-major and contiguous; 16-byte aligned addresses.
struct GemmArgs {
  const void* x;    // [m, k]
  const void* w;    // [n, k]
  void* y;          // [m, n]
  void* workspace;  // counters, then fp32 partial sums; null where split_k is 1
  long long m;
};

/// The same where x and w are copied by the tensor memory accelerator, as the driver describes them
/// to it (Family::tensor_maps).
struct GemmTmaArgs {
  alignas(64) unsigned char x_map[128];
  alignas(64) unsigned char w_map[128];
  void* y;
  void* workspace;
  long long m;
};

/// Elements of 16 bits that one access moves: rows of k elements are aligned to no more than this.
constexpr int gemm_vector_elements(int k) {
  return k % 8 == 0 ? 8 : k % 4 == 0 ? 4 : k % 2 == 0 ? 2 : 1;
}

/// gemv: k is cut into chunks of one access by each lane of a warp.
constexpr int gemv_chunks(int k) {
  const int chunk = 32 * gemm_vector_elements(k);
  return (k + chunk - 1) / chunk;
}

/// gemv: x padded with zeros to whole chunks; the ring of weights, if it lies in shared memory; two
/// buffers of partial sums where several warps share a row.
constexpr int gemv_x_bytes(int k, int tile_m) {
  return tile_m * gemv_chunks(k) * 32 * gemm_vector_elements(k) * 2;
}
constexpr int gemv_ring_bytes(int k, int warps, int rows_per_warp, int unroll, int stages) {
  return warps * rows_per_warp * unroll * stages * 32 * gemm_vector_elements(k) * 2;
}
constexpr int gemv_smem_bytes(int k, int tile_m, int warps_n, int warps_k, int rows_per_warp,
                              int unroll, int stages, bool async_copy) {
  const int warps = warps_n * warps_k;
  return gemv_x_bytes(k, tile_m) +
         (async_copy ? gemv_ring_bytes(k, warps, rows_per_warp, unroll, stages) : 0) +
         (warps_k > 1 ? 2 * warps * tile_m * rows_per_warp * 4 : 0);
}

/// gemv that normalises x: each warp's sums of squares.
constexpr int gemv_squares_bytes(int tile_m, int warps) { return tile_m * warps * 4; }

/// reference: rows and columns of y that a block owns, a thread each.
constexpr int kReferenceTile = 16;

/// mma: `stages` tiles of x and w, and one word (padded) for the blocks that share an output tile.
constexpr int mma_smem_bytes(int tile_m, int tile_n, int tile_k, int stages) {
  return stages * (tile_m + tile_n) * tile_k * 2 + 16;
}

/// wgmma: a ring of tiles, aligned to 1024 bytes, its barriers, a word for the blocks that share an
/// output tile, and where those are a cluster the barriers and the room for the sums that they
/// send.
constexpr int wgmma_smem_bytes(int tile_m, int tile_n, int tile_k, int stages, int cluster_k = 1) {
  const int sums = (cluster_k - 1) * (tile_m * tile_n / cluster_k) * 4;
  return 1024 + stages * (tile_m + tile_n) * tile_k * 2 + stages * 16 + 16 +
         (cluster_k > 1 ? 16 + sums : 0);
}

}  // namespace quern
