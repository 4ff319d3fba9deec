// Attention of one new token per sequence over the paged KV cache.
//
//   out[b, h] = sum_j softmax_j(q[b, h] . k[j] / sqrt(head_dim)) v[j],   first <= j < kv_len[b],
//   first = max(0, kv_len[b] - window), or 0 where window is 0.
//
// Layouts are in attention_args.h. The query stands at position kv_len - 1.
//
// A block serves one sequence, one KV head and one of gridDim.x splits of the sequence's tiles; all
// query heads of the group share each key and value that is read. kv_len is read from device memory
// and the tiles divided by it, so a captured launch serves every length. Within a block each warp
// walks its own tiles of `tokens` positions through its own ring of cp.async stages: no barrier
// until the end. The products are transposed so that positions and head_dim, not the few heads,
// fill the 16 rows of mma.m16n8k16:
//
//   S^T [tokens x heads]   = K Q^T        A = K (ldmatrix), B = Q in registers
//   O^T [head_dim x heads] = V^T P^T      A = V^T (ldmatrix.trans), B = P^T by movmatrix
//
// Softmax is online, base 2, fp32. Warps merge in shared memory, splits through the workspace: the
// last block of a (sequence, KV head) to arrive adds the partials in split order, so that the result
// does not depend on who came last.
//
// Tunables: warps; tokens per warp and step (16, 32, 64); stages of the ring; blocks_per_sm, a
// register bound; splits (host only).
//
// Papers: Dao et al., "Flash-Decoding", 2023; Kwon et al., "PagedAttention", 2023.
#pragma once
#include "attention/attention_args.h"
#include "common/grid.cuh"
#include "common/math.cuh"
#include "common/memory.cuh"
#include "common/mma.cuh"
#include "common/workspace_args.h"

namespace quern {

/// 4 outputs as 16-bit elements.
template <class T>
__device__ __forceinline__ void store_four(T* to, const float (&x)[4]) {
  Bytes<8> packed;
  packed.word[0] = pack2<T>(x[0], x[1]);
  packed.word[1] = pack2<T>(x[2], x[3]);
  *reinterpret_cast<Bytes<8>*>(to) = packed;
}

template <class T, class Problem, class Config>
__device__ __forceinline__ void decode_attention(const DecodeArgs& args) {
  constexpr int head_dim = Problem::head_dim, page_size = Problem::page_size;
  constexpr int num_heads = Problem::num_heads, num_kv_heads = Problem::num_kv_heads;
  constexpr int group = num_heads / num_kv_heads;
  constexpr int warps = Config::warps, tokens = Config::tokens, stages = Config::stages;
  constexpr int threads = warps * kWarp;
  constexpr int dim_tiles = ceil_div(head_dim, 16);   // k16 steps of S^T, m16 tiles of O^T
  constexpr int head_tiles = ceil_div(group, 8);      // n8 tiles of both
  constexpr int token_tiles = tokens / 16;            // m16 tiles of S^T, k16 steps of O^T
  constexpr int heads_padded = head_tiles * 8, dim_padded = dim_tiles * 16;
  constexpr int pitch = tile_pitch(head_dim);
  constexpr int chunks = head_dim / 8;  // 16-byte chunks of a row
  constexpr int tile_bytes = tokens * pitch * 2;
  static_assert(head_dim % 8 == 0, "rows are whole 16-byte chunks");
  static_assert(tokens % 16 == 0 && page_size % tokens == 0, "a tile lies within one page");
  static_assert(num_heads % num_kv_heads == 0, "whole groups");

  extern __shared__ __align__(128) unsigned char dynamic_smem[];
  __shared__ u32 flag;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int g = lane / 4, t = lane % 4;
  const int kv_head = blockIdx.y, batch = blockIdx.z;
  const int splits = gridDim.x, split = blockIdx.x;
  const u32 ring = shared_address(dynamic_smem) + warp * stages * 2 * tile_bytes;

  // The padding of a row to whole k16 steps enters S as 0 * 0; copies never touch it.
  if constexpr (head_dim % 16 != 0) {
    unsigned char* rows = dynamic_smem + warp * stages * 2 * tile_bytes + head_dim * 2;
    for (int row = lane; row < stages * 2 * tokens; row += kWarp)
      *reinterpret_cast<Bytes<16>*>(rows + row * pitch * 2) = {};
  }
  pdl_launch_dependents();
  pdl_wait();

  const int kv_len = args.kv_len[batch];
  T* const out = static_cast<T*>(args.out) +
                 (static_cast<i64>(batch) * num_heads + kv_head * group) * head_dim;
  if (kv_len <= 0) {
    const float zero[4] = {};
    if (split == 0)
      for (int i = threadIdx.x * 4; i < group * head_dim; i += threads * 4) store_four(out + i, zero);
    return;
  }
  const int first = Problem::window > 0 && kv_len > Problem::window ? kv_len - Problem::window : 0;
  const int first_tile = first / tokens;
  const int tiles = ceil_div(kv_len, tokens) - first_tile;
  const int tiles_per_split = round_up(ceil_div(tiles, splits), warps);
  const int active_splits = ceil_div(tiles, tiles_per_split);
  if (split >= active_splits) return;

  // This warp's steps: tiles tile(0), tile(1), ... of the sequence, `warps` apart.
  const int begin = split * tiles_per_split + warp;
  const int end = min(tiles, (split + 1) * tiles_per_split);
  const int steps = begin < end ? ceil_div(end - begin, warps) : 0;
  const auto position_of = [&](int step) { return (first_tile + begin + step * warps) * tokens; };

  const int* const table = args.block_table + static_cast<i64>(batch) * args.max_blocks;
  const T* const k_cache = static_cast<const T*>(args.k_cache);
  const T* const v_cache = static_cast<const T*>(args.v_cache);
  int pages = 0;  // lane i: page of step 32 n + i, so that a lookup stalls once in 32 steps
  const auto copy_step = [&](int step) {
    if (step % kWarp == 0) {
      const int ahead = step + lane;
      pages = ahead < steps ? table[position_of(ahead) / page_size] : 0;
    }
    const i64 page = __shfl_sync(0xffffffffu, pages, step % kWarp);
    const int position = position_of(step);
    const i64 offset =
        ((page * num_kv_heads + kv_head) * page_size + position % page_size) * head_dim;
    const u32 to = ring + step % stages * 2 * tile_bytes;
    const T* const k = k_cache + offset + lane * 8;
    const T* const v = v_cache + offset + lane * 8;
#pragma unroll
    for (int n = 0; n < ceil_div(tokens * chunks, kWarp); ++n) {
      const u32 i = n * kWarp + lane, row = i / chunks;
      if (tokens * chunks % kWarp != 0 && row >= tokens) break;
      const int j = position + static_cast<int>(row);
      const bool valid = j >= first && j < kv_len;
      const u32 at = to + row * (pitch * 2) + i % chunks * 16;
      copy_async<16>(at, k + n * kWarp * 8, valid);
      copy_async<16>(at + tile_bytes, v + n * kWarp * 8, valid);
    }
  };
#pragma unroll
  for (int step = 0; step < stages; ++step) {
    if (step < steps) copy_step(step);
    copy_async_commit();
  }

  // Q^T as B fragments: element (k = head_dim index, n = head).
  u32 q[head_tiles][dim_tiles][2];
  const T* const q_row = static_cast<const T*>(args.q) +
                         (static_cast<i64>(batch) * num_heads + kv_head * group) * head_dim;
#pragma unroll
  for (int h = 0; h < head_tiles; ++h)
#pragma unroll
    for (int d = 0; d < dim_tiles; ++d)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int head = h * 8 + g, dim = d * 16 + r * 8 + t * 2;
        q[h][d][r] = head < group && dim < head_dim
                         ? *reinterpret_cast<const u32*>(q_row + head * head_dim + dim)
                         : 0u;
      }

  const float scale = kLog2E * rsqrtf(static_cast<float>(head_dim));
  float o[dim_tiles][head_tiles][4] = {};
  float max[head_tiles][2], sum[head_tiles][2] = {};  // of heads 8 h + 2 t and the next
#pragma unroll
  for (int h = 0; h < head_tiles; ++h) max[h][0] = max[h][1] = negative_infinity();

  // ldmatrix rows of this lane: K as stored (rows 0-7 and 8-15, then the next chunk), V transposed
  // (chunk and next chunk, then rows 8-15).
  const u32 k_lane = (lane / 8 % 2 * 8 + lane % 8) * pitch * 2 + lane / 16 * 16;
  const u32 v_lane = tile_bytes + (lane / 16 * 8 + lane % 8) * pitch * 2 + lane / 8 % 2 * 16;

  for (int step = 0; step < steps; ++step) {
    copy_async_wait<stages - 1>();
    __syncwarp();
    const u32 stage = ring + step % stages * 2 * tile_bytes;

    float s[token_tiles][head_tiles][4] = {};
#pragma unroll
    for (int d = 0; d < dim_tiles; ++d)
#pragma unroll
      for (int i = 0; i < token_tiles; ++i) {
        u32 k[4];
        ldmatrix_x4(k, stage + k_lane + i * 16 * pitch * 2 + d * 32);
#pragma unroll
        for (int h = 0; h < head_tiles; ++h) mma_m16n8k16<T>(s[i][h], k, q[h][d]);
      }

    const int position = position_of(step);
    if (position < first || position + tokens > kv_len) {
#pragma unroll
      for (int i = 0; i < token_tiles; ++i)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const int j = position + i * 16 + c / 2 * 8 + g;
          if (j < first || j >= kv_len)
#pragma unroll
            for (int h = 0; h < head_tiles; ++h) s[i][h][c] = negative_infinity();
        }
    }

    // Every tile has a position that counts, so the new maximum is finite.
    u32 p[head_tiles][token_tiles][2];
#pragma unroll
    for (int h = 0; h < head_tiles; ++h) {
      float shrink[2], offset[2];
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float m = max[h][c];
#pragma unroll
        for (int i = 0; i < token_tiles; ++i) m = fmaxf(m, fmaxf(s[i][h][c], s[i][h][c + 2]));
#pragma unroll
        for (int distance = 4; distance < kWarp; distance *= 2)
          m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, distance));
        shrink[c] = exp2_approx((max[h][c] - m) * scale);
        max[h][c] = m;
        offset[c] = m * scale;
        sum[h][c] *= shrink[c];
      }
#pragma unroll
      for (int d = 0; d < dim_tiles; ++d)
#pragma unroll
        for (int c = 0; c < 4; ++c) o[d][h][c] *= shrink[c % 2];
#pragma unroll
      for (int i = 0; i < token_tiles; ++i) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          s[i][h][c] = exp2_approx(s[i][h][c] * scale - offset[c % 2]);
          sum[h][c % 2] += s[i][h][c];
        }
        p[h][i][0] = transpose_8x8(pack2<T>(s[i][h][0], s[i][h][1]));
        p[h][i][1] = transpose_8x8(pack2<T>(s[i][h][2], s[i][h][3]));
      }
    }

#pragma unroll
    for (int i = 0; i < token_tiles; ++i)
#pragma unroll
      for (int d = 0; d < dim_tiles; ++d) {
        u32 v[4];
        ldmatrix_x4_trans(v, stage + v_lane + i * 16 * pitch * 2 + d * 32);
#pragma unroll
        for (int h = 0; h < head_tiles; ++h) mma_m16n8k16<T>(o[d][h], v, p[h][i]);
      }

    __syncwarp();
    if (step + stages < steps) copy_step(step + stages);
    copy_async_commit();
  }

  // Merge of the warps. The ring is reused once every warp has left it.
  constexpr int merge_pitch = dim_padded + 4;  // 8-bank steps between the heads of a fragment
  float* const merge_o = reinterpret_cast<float*>(dynamic_smem);  // [warps][heads_padded][pitch]
  float* const merge_max = merge_o + warps * heads_padded * merge_pitch;  // [warps][heads_padded]
  float* const merge_sum = merge_max + warps * heads_padded;              // the same
  copy_async_wait<0>();
  __syncthreads();
#pragma unroll
  for (int h = 0; h < head_tiles; ++h) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
#pragma unroll
      for (int distance = 4; distance < kWarp; distance *= 2)
        sum[h][c] += __shfl_xor_sync(0xffffffffu, sum[h][c], distance);
      if (g == 0) {
        merge_max[warp * heads_padded + h * 8 + t * 2 + c] = max[h][c] * scale;
        merge_sum[warp * heads_padded + h * 8 + t * 2 + c] = sum[h][c];
      }
    }
#pragma unroll
    for (int d = 0; d < dim_tiles; ++d)
#pragma unroll
      for (int c = 0; c < 4; ++c)
        merge_o[(warp * heads_padded + h * 8 + t * 2 + c % 2) * merge_pitch + d * 16 + c / 2 * 8 +
                g] = o[d][h][c];
  }
  __syncthreads();

  // Partials of this (sequence, KV head): O [splits][group][head_dim], unnormalised, then
  // (maximum, sum) [splits][group], with maxima in units of log 2.
  const int unit = batch * num_kv_heads + kv_head;
  const int units = gridDim.z * num_kv_heads;
  u32* const counters = static_cast<u32*>(args.workspace);
  float* const partials =
      reinterpret_cast<float*>(static_cast<unsigned char*>(args.workspace) + kCounterBytes);
  float* const partial_o = partials + static_cast<i64>(unit) * splits * group * head_dim;
  float* const partial_ml = partials + static_cast<i64>(units) * splits * group * head_dim +
                            static_cast<i64>(unit) * splits * group * 2;
  constexpr int items = group * head_dim / 4;
  for (int item = threadIdx.x; item < items; item += threads) {
    const int head = item / (head_dim / 4), dim = item % (head_dim / 4) * 4;
    float top = merge_max[head];
#pragma unroll
    for (int w = 1; w < warps; ++w) top = fmaxf(top, merge_max[w * heads_padded + head]);
    float total = 0.0f, x[4] = {};
#pragma unroll
    for (int w = 0; w < warps; ++w) {
      const float weight = exp2_approx(merge_max[w * heads_padded + head] - top);
      total += weight * merge_sum[w * heads_padded + head];
      const Vec<float, 4> part =
          load_vec<float, 4>(merge_o + (w * heads_padded + head) * merge_pitch + dim);
#pragma unroll
      for (int e = 0; e < 4; ++e) x[e] += weight * part.element[e];
    }
    if (active_splits == 1) {
      const float inverse = 1.0f / total;
#pragma unroll
      for (int e = 0; e < 4; ++e) x[e] *= inverse;
      store_four(out + head * head_dim + dim, x);
    } else {
      store_vec(partial_o + (split * group + head) * head_dim + dim,
                Vec<float, 4>{{x[0], x[1], x[2], x[3]}});
      if (dim == 0)
        store_vec(partial_ml + (split * group + head) * 2, Vec<float, 2>{{top, total}});
    }
  }
  if (active_splits == 1) return;
  if (!last_block(counters + unit, static_cast<u32>(active_splits), &flag)) return;

  // Weights of the splits of each head, once per block.
  float* const weights = reinterpret_cast<float*>(dynamic_smem);  // [group][active_splits]
  for (int head = warp; head < group; head += warps) {
    float top = negative_infinity();
    for (int i = lane; i < active_splits; i += kWarp)
      top = fmaxf(top, load_from_l2<float>(partial_ml + (i * group + head) * 2));
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, distance));
    float total = 0.0f;
    for (int i = lane; i < active_splits; i += kWarp) {
      const float* ml = partial_ml + (i * group + head) * 2;
      const float weight = exp2_approx(load_from_l2<float>(ml) - top);
      total += weight * load_from_l2<float>(ml + 1);
      weights[head * active_splits + i] = weight;
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
      total += __shfl_xor_sync(0xffffffffu, total, distance);
    for (int i = lane; i < active_splits; i += kWarp) weights[head * active_splits + i] /= total;
  }
  __syncthreads();
  for (int item = threadIdx.x; item < items; item += threads) {
    const int head = item / (head_dim / 4), dim = item % (head_dim / 4) * 4;
    const float* from = partial_o + head * head_dim + dim;
    float x[4] = {};
#pragma unroll 8
    for (int i = 0; i < active_splits; ++i) {
      const auto part = load_from_l2<Vec<float, 4>>(from + i * group * head_dim);
      const float weight = weights[head * active_splits + i];
#pragma unroll
      for (int e = 0; e < 4; ++e) x[e] += weight * part.element[e];
    }
    store_four(out + head * head_dim + dim, x);
  }
}

}  // namespace quern
