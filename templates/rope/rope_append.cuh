// Rotary position embedding of queries and keys, and the append of keys and values to the paged
// cache. With h = head_dim / 2 and the angle a of (position, i), 0 <= i < h:
//
//   y[i]     = x[i] cos a - x[i + h] sin a
//   y[i + h] = x[i + h] cos a + x[i] sin a          (rotate-half pairs, as in Llama checkpoints)
//
// in fp32 (qkv may be fp32, so that nothing is rounded twice), for every head of q (to q_out) and k (to its slot of k_cache); v is copied to v_cache.
// The projections' bias, where there is one, is added to q, k and v first.
// A padding token (sequence -1) is skipped and its row of q_out left as it was.
//
// Tunables: threads per block; vector, elements per access (a thread owns `vector` elements of a
// head's first half and the matching ones of its second); unroll, such pieces per thread.
//
// Paper: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021.
#pragma once
#include "common/grid.cuh"
#include "common/memory.cuh"
#include "rope/rope_append_args.h"

namespace quern {

template <class In, class T, class Problem, class Config>
__device__ __forceinline__ void rope_append(const RopeAppendArgs& args) {
  constexpr int head_dim = Problem::head_dim, half = head_dim / 2, vector = Config::vector;
  constexpr int num_heads = Problem::num_heads, num_kv_heads = Problem::num_kv_heads;
  constexpr int page_size = Problem::page_size;
  constexpr int all_heads = num_heads + 2 * num_kv_heads;
  constexpr int pieces_per_head = half / vector;
  constexpr int pieces_per_token = all_heads * pieces_per_head;
  static_assert(half % vector == 0, "a vector lies within half a head");
  static_assert((page_size & (page_size - 1)) == 0, "page_size is a power of two");
  using Piece = Vec<T, vector>;

  pdl_launch_dependents();
  pdl_wait();
  const long long first =
      static_cast<long long>(blockIdx.x) * (Config::threads * Config::unroll) + threadIdx.x;
  const long long pieces = static_cast<long long>(args.num_tokens) * pieces_per_token;
#pragma unroll
  for (int u = 0; u < Config::unroll; ++u) {
    const long long piece = first + u * Config::threads;
    if (piece >= pieces) continue;
    const int token = static_cast<int>(piece / pieces_per_token);
    const int in_token = static_cast<int>(piece - static_cast<long long>(token) * pieces_per_token);
    const int head = in_token / pieces_per_head;
    const int i = in_token % pieces_per_head * vector;
    const int sequence = args.sequence[token];
    if (sequence < 0) continue;
    const int position = args.positions[token];

    const In* from = static_cast<const In*>(args.qkv) +
                     (static_cast<i64>(token) * all_heads + head) * head_dim + i;
    const auto low_in = load_vec<In, vector>(from), high_in = load_vec<In, vector>(from + half);
    float x[vector], y[vector];
#pragma unroll
    for (int e = 0; e < vector; ++e) {
      x[e] = to_f32(low_in.element[e]);
      y[e] = to_f32(high_in.element[e]);
    }
    if constexpr (Problem::bias) {
      const T* bias = static_cast<const T*>(args.bias) + head * head_dim + i;
      const Piece low_bias = load_vec<T, vector>(bias), high_bias = load_vec<T, vector>(bias + half);
#pragma unroll
      for (int e = 0; e < vector; ++e) {
        x[e] += to_f32(low_bias.element[e]);
        y[e] += to_f32(high_bias.element[e]);
      }
    }
    if (head < num_heads + num_kv_heads) {
      const float* angle = args.table + (static_cast<i64>(position) * half + i) * 2;
#pragma unroll
      for (int e = 0; e < vector; e += 2) {
        const Vec<float, 4> c = load_vec<float, 4>(angle + 2 * e);  // cos, sin, cos, sin
#pragma unroll
        for (int p = 0; p < 2; ++p) {
          const float cos_a = c.element[2 * p], sin_a = c.element[2 * p + 1];
          const float a = x[e + p], b = y[e + p];
          x[e + p] = a * cos_a - b * sin_a;
          y[e + p] = b * cos_a + a * sin_a;
        }
      }
    }
    Piece low, high;
#pragma unroll
    for (int e = 0; e < vector; ++e) {
      low.element[e] = from_f32<T>(x[e]);
      high.element[e] = from_f32<T>(y[e]);
    }
    T* to;
    if (head < num_heads) {
      to = static_cast<T*>(args.q_out) + (static_cast<i64>(token) * num_heads + head) * head_dim;
    } else {
      const bool is_key = head < num_heads + num_kv_heads;
      const int kv_head = head - num_heads - (is_key ? 0 : num_kv_heads);
      const int page = args.block_table[static_cast<i64>(sequence) * args.max_blocks +
                                        position / page_size];
      to = static_cast<T*>(is_key ? args.k_cache : args.v_cache) +
           ((static_cast<i64>(page) * num_kv_heads + kv_head) * page_size + position % page_size) *
               head_dim;
    }
    store_vec(to + i, low);
    store_vec(to + half + i, high);
  }
}

}  // namespace quern
