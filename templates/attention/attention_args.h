// Parameter structs of the attention kernels, and their shared-memory sizes (included by host and
// device code).
#pragma once

#ifdef __CUDACC__
#define QUERN_BOTH_SIDES __host__ __device__
#else
#define QUERN_BOTH_SIDES
#endif

namespace quern {

/// Elements between rows of a K or V tile in shared memory: head_dim padded to whole k16 steps and
/// one 16-byte chunk more, an odd number of chunks, so that the eight rows of an ldmatrix fall into
/// eight different bank groups without a swizzle.
QUERN_BOTH_SIDES constexpr int tile_pitch(int head_dim) { return (head_dim + 15) / 16 * 16 + 8; }

struct DecodeArgs {
  const void* q;           // [batch, num_heads * head_dim]
  const void* k_cache;     // [num_pages, num_kv_heads, page_size, head_dim]
  const void* v_cache;     // the same
  const int* block_table;  // [batch, max_blocks]
  const int* kv_len;       // [batch]
  void* out;               // [batch, num_heads * head_dim]
  void* workspace;
  int max_blocks;
};

/// Bytes of the K and V stages of all warps, or of the merge of the warps' results, which reuses
/// them.
QUERN_BOTH_SIDES constexpr int decode_smem_bytes(int head_dim, int group, int warps, int tokens,
                                                 int stages) {
  const int ring = warps * stages * 2 * tokens * tile_pitch(head_dim) * 2;
  const int heads = (group + 7) / 8 * 8;
  const int merge = warps * heads * ((head_dim + 15) / 16 * 16 + 4 + 2) * 4;
  return ring > merge ? ring : merge;
}

struct PrefillArgs {
  const void* q;           // [num_tokens, num_heads * head_dim]
  const void* k_cache;     // [num_pages, num_kv_heads, page_size, head_dim]
  const void* v_cache;     // the same
  const int* block_table;  // [batch, max_blocks]
  const int* query_start;  // [batch + 1]
  const int* kv_len;       // [batch]
  void* out;               // [num_tokens, num_heads * head_dim]
  int max_blocks;
};

QUERN_BOTH_SIDES constexpr int prefill_smem_bytes(int head_dim, int tile_kv, int stages) {
  return stages * 2 * tile_kv * tile_pitch(head_dim) * 2;
}

}  // namespace quern
