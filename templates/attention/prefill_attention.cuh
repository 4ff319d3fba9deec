// Causal attention of a ragged batch of new tokens over the paged KV cache, which holds their own
// keys and values already.
//
//   out[i, h] = sum_j softmax_j(q[i, h] . k[j] / sqrt(head_dim)) v[j],   first <= j <= position(i)
//
// Query i (0-based) of sequence s stands at position kv_len[s] - query_len[s] + i; first is
// position - window + 1, or 0 where window is 0. Layouts are in attention_args.h.
//
// A block owns tile_q rows. A row is one (query, head); with pack_group the heads of a KV group lie
// next to each other in the tile, (query 0, head 0), (query 0, head 1), ..., so that short queries
// fill it and K and V are read once per group. Each warp owns 16 * row_tiles rows outright: Q stays
// in registers as A fragments, S = Q K^T and its softmax (online, base 2, fp32) in registers, and
// the fragments of P are those of A for O = P V, so nothing goes through shared memory but K and V,
// which all warps share: tiles of tile_kv positions, gathered page by page with cp.async into a ring
// of stages. Tiles that no row sees are never loaded; a warp skips those that its own rows do not
// see. Blocks with the longest rows start first.
//
// Tunables: warps; row_tiles (m16 tiles per warp); tile_kv; stages; pack_group; blocks_per_sm, a
// register bound.
//
// Paper: Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning",
// 2023.
#pragma once
#include "attention/attention_args.h"
#include "common/grid.cuh"
#include "common/math.cuh"
#include "common/memory.cuh"
#include "common/mma.cuh"

namespace quern {

template <class T, class Problem, class Config>
__device__ __forceinline__ void prefill_attention(const PrefillArgs& args) {
  constexpr int head_dim = Problem::head_dim, page_size = Problem::page_size;
  constexpr int num_heads = Problem::num_heads, num_kv_heads = Problem::num_kv_heads;
  constexpr int group = num_heads / num_kv_heads, window = Problem::window;
  constexpr int warps = Config::warps, row_tiles = Config::row_tiles;
  constexpr int tile_kv = Config::tile_kv, stages = Config::stages;
  constexpr int rows_per_query = Config::pack_group ? group : 1;
  constexpr int threads = warps * kWarp, warp_rows = 16 * row_tiles, tile_q = warps * warp_rows;
  constexpr int dim_tiles = ceil_div(head_dim, 16);  // k16 steps of S, pairs of n8 tiles of O
  constexpr int kv_tiles = tile_kv / 16;             // pairs of n8 tiles of S, k16 steps of O
  constexpr int pitch = tile_pitch(head_dim);
  constexpr int chunks = head_dim / 8;  // 16-byte chunks of a row
  constexpr int tile_bytes = tile_kv * pitch * 2;
  static_assert(head_dim % 8 == 0, "rows are whole 16-byte chunks");
  static_assert(tile_kv % 16 == 0 && (page_size & (page_size - 1)) == 0, "whole k16 steps, 2^n");
  static_assert(stages >= 2, "one tile is copied while another is used");

  extern __shared__ __align__(128) unsigned char dynamic_smem[];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int g = lane / 4, t = lane % 4;
  const int batch = blockIdx.z;
  const int first_head = blockIdx.x * rows_per_query, kv_head = first_head / group;
  const u32 ring = shared_address(dynamic_smem);

  // The padding of a row to whole k16 steps enters S as 0 * 0; copies never touch it.
  if constexpr (head_dim % 16 != 0)
    for (int row = threadIdx.x; row < stages * 2 * tile_kv; row += threads)
      *reinterpret_cast<Bytes<16>*>(dynamic_smem + row * pitch * 2 + head_dim * 2) = {};
  pdl_launch_dependents();
  pdl_wait();

  const int query_start = args.query_start[batch];
  const int query_len = args.query_start[batch + 1] - query_start;
  const int kv_len = args.kv_len[batch];
  const int rows = query_len * rows_per_query;
  const int tile_row = static_cast<int>(gridDim.y - 1 - blockIdx.y) * tile_q;
  if (tile_row >= rows) return;
  const int past = kv_len - query_len;  // position of query 0

  // Positions that any row of the block sees.
  const int block_last = past + min(tile_row + tile_q - 1, rows - 1) / rows_per_query;
  const int block_first =
      window > 0 ? ::max(0, past + tile_row / rows_per_query - window + 1) : 0;
  const int tile_begin = block_first / tile_kv, tile_end = block_last / tile_kv + 1;

  const int* const table = args.block_table + static_cast<i64>(batch) * args.max_blocks;
  const T* const k_cache = static_cast<const T*>(args.k_cache);
  const T* const v_cache = static_cast<const T*>(args.v_cache);
  const auto copy_tile = [&](int tile) {
    const u32 to = ring + (tile - tile_begin) % stages * 2 * tile_bytes;
    const int position = tile * tile_kv;
    i64 page = 0;
    if constexpr (page_size % tile_kv == 0) page = table[position / page_size];
#pragma unroll
    for (int n = 0; n < ceil_div(tile_kv * chunks, threads); ++n) {
      const u32 i = n * threads + threadIdx.x, row = i / chunks, chunk = i % chunks;
      if (tile_kv * chunks % threads != 0 && row >= tile_kv) break;
      const int j = position + static_cast<int>(row);
      const bool valid = j >= block_first && j <= block_last;
      if constexpr (page_size % tile_kv != 0) page = valid ? table[j / page_size] : 0;
      const i64 offset =
          ((page * num_kv_heads + kv_head) * page_size + j % page_size) * head_dim + chunk * 8;
      const u32 at = to + row * (pitch * 2) + chunk * 16;
      copy_async<16>(at, k_cache + offset, valid);
      copy_async<16>(at + tile_bytes, v_cache + offset, valid);
    }
  };
#pragma unroll
  for (int i = 0; i < stages - 1; ++i) {
    if (tile_begin + i < tile_end) copy_tile(tile_begin + i);
    copy_async_commit();
  }

  // Rows g and g + 8 of each m16 tile: where they lie and what they see.
  const int warp_row = tile_row + warp * warp_rows;
  int position_of_row[row_tiles][2];
  u32 q[row_tiles][dim_tiles][4];
#pragma unroll
  for (int m = 0; m < row_tiles; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = warp_row + m * 16 + r * 8 + g;
      const int query = row / rows_per_query, head = first_head + row % rows_per_query;
      position_of_row[m][r] = past + query;
      const T* from = static_cast<const T*>(args.q) +
                      (static_cast<i64>(query_start + query) * num_heads + head) * head_dim;
#pragma unroll
      for (int d = 0; d < dim_tiles; ++d)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int dim = d * 16 + half * 8 + t * 2;
          q[m][d][half * 2 + r] = row < rows && dim < head_dim
                                      ? *reinterpret_cast<const u32*>(from + dim)
                                      : 0u;
        }
    }
  const int warp_first_position = past + warp_row / rows_per_query;
  const int warp_last_position = past + (warp_row + warp_rows - 1) / rows_per_query;

  const float scale = kLog2E * rsqrtf(static_cast<float>(head_dim));
  float o[row_tiles][dim_tiles * 2][4] = {};
  float max[row_tiles][2], sum[row_tiles][2] = {};
#pragma unroll
  for (int m = 0; m < row_tiles; ++m) max[m][0] = max[m][1] = negative_infinity();

  // ldmatrix rows of this lane: K as stored (chunk and next chunk, then rows 8-15), V transposed
  // (rows 0-7 and 8-15, then the next chunk).
  const u32 k_lane = (lane / 16 * 8 + lane % 8) * pitch * 2 + lane / 8 % 2 * 16;
  const u32 v_lane = tile_bytes + (lane / 8 % 2 * 8 + lane % 8) * pitch * 2 + lane / 16 * 16;

  for (int tile = tile_begin; tile < tile_end; ++tile) {
    copy_async_wait<stages - 2>();
    __syncthreads();  // this tile is complete, and every warp has left the one before it
    if (tile + stages - 1 < tile_end) copy_tile(tile + stages - 1);
    copy_async_commit();

    const int position = tile * tile_kv;
    if (position > warp_last_position) continue;
    if (window > 0 && position + tile_kv <= warp_first_position - window + 1) continue;
    const u32 stage = ring + (tile - tile_begin) % stages * 2 * tile_bytes;

    float s[row_tiles][kv_tiles * 2][4] = {};
#pragma unroll
    for (int d = 0; d < dim_tiles; ++d)
#pragma unroll
      for (int n = 0; n < kv_tiles; ++n) {
        u32 k[4];
        ldmatrix_x4(k, stage + k_lane + n * 16 * pitch * 2 + d * 32);
#pragma unroll
        for (int m = 0; m < row_tiles; ++m) {
          mma_m16n8k16<T>(s[m][2 * n], q[m][d], {k[0], k[1]});
          mma_m16n8k16<T>(s[m][2 * n + 1], q[m][d], {k[2], k[3]});
        }
      }

    if (position + tile_kv - 1 > warp_first_position ||
        (window > 0 && position <= warp_last_position - window)) {
#pragma unroll
      for (int m = 0; m < row_tiles; ++m)
#pragma unroll
        for (int n = 0; n < kv_tiles * 2; ++n)
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            const int behind = position_of_row[m][c / 2] - (position + n * 8 + t * 2 + c % 2);
            if (behind < 0 || (window > 0 && behind >= window)) s[m][n][c] = negative_infinity();
          }
    }

#pragma unroll
    for (int m = 0; m < row_tiles; ++m)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float top = max[m][r];
#pragma unroll
        for (int n = 0; n < kv_tiles * 2; ++n)
          top = fmaxf(top, fmaxf(s[m][n][2 * r], s[m][n][2 * r + 1]));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        // A row may have seen nothing yet: its weights are then exp2(-inf - 0) = 0, not NaN.
        const float offset = top == negative_infinity() ? 0.0f : top * scale;
        const float shrink = exp2_approx(max[m][r] * scale - offset);
        max[m][r] = top;
        sum[m][r] *= shrink;
#pragma unroll
        for (int n = 0; n < kv_tiles * 2; ++n)
#pragma unroll
          for (int c = 2 * r; c < 2 * r + 2; ++c) {
            s[m][n][c] = exp2_approx(s[m][n][c] * scale - offset);
            sum[m][r] += s[m][n][c];
          }
#pragma unroll
        for (int n = 0; n < dim_tiles * 2; ++n) {
          o[m][n][2 * r] *= shrink;
          o[m][n][2 * r + 1] *= shrink;
        }
      }

#pragma unroll
    for (int n = 0; n < kv_tiles; ++n) {
      u32 p[row_tiles][4];
#pragma unroll
      for (int m = 0; m < row_tiles; ++m)
#pragma unroll
        for (int r = 0; r < 4; ++r)
          p[m][r] = pack2<T>(s[m][2 * n + r / 2][r % 2 * 2], s[m][2 * n + r / 2][r % 2 * 2 + 1]);
#pragma unroll
      for (int d = 0; d < dim_tiles; ++d) {
        u32 v[4];
        ldmatrix_x4_trans(v, stage + v_lane + n * 16 * pitch * 2 + d * 32);
#pragma unroll
        for (int m = 0; m < row_tiles; ++m) {
          mma_m16n8k16<T>(o[m][2 * d], p[m], {v[0], v[1]});
          mma_m16n8k16<T>(o[m][2 * d + 1], p[m], {v[2], v[3]});
        }
      }
    }
  }
  copy_async_wait<0>();

#pragma unroll
  for (int m = 0; m < row_tiles; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float total = sum[m][r];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      const float inverse = 1.0f / total;
      const int row = warp_row + m * 16 + r * 8 + g;
      if (row >= rows) continue;
      const int query = row / rows_per_query, head = first_head + row % rows_per_query;
      T* to = static_cast<T*>(args.out) +
              (static_cast<i64>(query_start + query) * num_heads + head) * head_dim + t * 2;
#pragma unroll
      for (int n = 0; n < chunks; ++n)
        *reinterpret_cast<u32*>(to + n * 8) =
            pack2<T>(o[m][n][2 * r] * inverse, o[m][n][2 * r + 1] * inverse);
    }
}

}  // namespace quern
