// Attention from its formula, with plain loops: the oracle of the other attention kernels on the
// device. One warp per (token, query head); fp32 throughout.
//
//   out = sum_j softmax_j(q . k_j / sqrt(head_dim)) v_j,    first <= j < last
#pragma once
#include "attention/attention_args.h"
#include "common/grid.cuh"
#include "common/reduce.cuh"

namespace quern {

template <class T, class Problem>
__device__ __forceinline__ void reference_row(const T* q, const T* k_cache, const T* v_cache,
                                              const int* pages, int kv_head, int first, int last,
                                              T* out) {
  constexpr int head_dim = Problem::head_dim, page_size = Problem::page_size;
  constexpr int per_lane = ceil_div(head_dim, kWarp);
  const int lane = threadIdx.x % kWarp;
  const float scale = rsqrtf(static_cast<float>(head_dim));
  const auto row = [&](int j) {
    return ((static_cast<i64>(pages[j / page_size]) * Problem::num_kv_heads + kv_head) * page_size +
            j % page_size) *
           head_dim;
  };
  const auto score = [&](int j) {
    const T* k = k_cache + row(j);
    float sum = 0.0f;
    for (int d = lane; d < head_dim; d += kWarp) sum += to_f32(q[d]) * to_f32(k[d]);
    return warp_reduce<Sum>(sum) * scale;
  };
  float max = Max::identity;
  for (int j = first; j < last; ++j) max = fmaxf(max, score(j));
  float total = 0.0f, o[per_lane] = {};
  for (int j = first; j < last; ++j) {
    const float p = expf(score(j) - max);
    total += p;
    const T* v = v_cache + row(j);
    for (int i = 0; i < per_lane; ++i) {
      const int d = lane + i * kWarp;
      if (d < head_dim) o[i] += p * to_f32(v[d]);
    }
  }
  for (int i = 0; i < per_lane; ++i) {
    const int d = lane + i * kWarp;
    if (d < head_dim) out[d] = from_f32<T>(total > 0.0f ? o[i] / total : 0.0f);
  }
}

/// Grid (ceil(num_heads / warps), batch).
template <class T, class Problem, class Config>
__device__ __forceinline__ void decode_reference(const DecodeArgs& args) {
  pdl_wait();
  const int head = blockIdx.x * Config::warps + threadIdx.x / kWarp;
  if (head >= Problem::num_heads) return;
  const i64 batch = blockIdx.y;
  const int kv_len = args.kv_len[batch];
  const int first = Problem::window > 0 && kv_len > Problem::window ? kv_len - Problem::window : 0;
  const i64 row = (batch * Problem::num_heads + head) * Problem::head_dim;
  reference_row<T, Problem>(
      static_cast<const T*>(args.q) + row, static_cast<const T*>(args.k_cache),
      static_cast<const T*>(args.v_cache), args.block_table + batch * args.max_blocks,
      head / (Problem::num_heads / Problem::num_kv_heads), first, kv_len,
      static_cast<T*>(args.out) + row);
}

/// Grid (ceil(num_heads / warps), max_query_len, batch).
template <class T, class Problem, class Config>
__device__ __forceinline__ void prefill_reference(const PrefillArgs& args) {
  pdl_wait();
  const int head = blockIdx.x * Config::warps + threadIdx.x / kWarp;
  if (head >= Problem::num_heads) return;
  const int query = blockIdx.y;
  const i64 batch = blockIdx.z;
  const int start = args.query_start[batch], query_len = args.query_start[batch + 1] - start;
  if (query >= query_len) return;
  const int last = args.kv_len[batch] - query_len + query + 1;
  const int first = Problem::window > 0 && last > Problem::window ? last - Problem::window : 0;
  const i64 row =
      (static_cast<i64>(start + query) * Problem::num_heads + head) * Problem::head_dim;
  reference_row<T, Problem>(
      static_cast<const T*>(args.q) + row, static_cast<const T*>(args.k_cache),
      static_cast<const T*>(args.v_cache), args.block_table + batch * args.max_blocks,
      head / (Problem::num_heads / Problem::num_kv_heads), first, last,
      static_cast<T*>(args.out) + row);
}

}  // namespace quern
