#pragma once

namespace quern {

struct RopeAppendArgs {
  const void* qkv;         // [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim]
  const float* table;      // [max_positions, head_dim / 2, 2]: cos, sin
  const int* positions;    // [num_tokens]
  const int* sequence;     // [num_tokens]: row of block_table, or -1 for a padding token
  const int* block_table;  // [batch, max_blocks]
  void* k_cache;           // [num_pages, num_kv_heads, page_size, head_dim]
  void* v_cache;           // the same
  void* q_out;             // [num_tokens, num_heads * head_dim]
  const void* bias;        // [(num_heads + 2 * num_kv_heads) * head_dim], or null
  int num_tokens, max_blocks;
};

}  // namespace quern
