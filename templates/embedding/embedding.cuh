// y[t, :] = table[ids[t], :], a gather of rows: token embeddings, and the last hidden row of each
// sequence of a ragged batch. A row of an id below 0 or from vocab_size on is zero; callers check
// ids before, so such a row marks a padded slot, never a fault that would stop the device.
//
//   ids [num_tokens] i32, table [vocab_size, hidden_size] bf16, f16 or f32, y [num_tokens,
//   hidden_size] of the table's type or fp32. num_tokens is an argument, the rest is compile-time.
//
// Tunables (Config)
//   threads           threads of a block
//   vector_bytes      bytes of the table that one access moves; divides a row's size
//   tokens_per_block  rows that a block gathers, one after the other in strides of its threads
//
// With few tokens all that counts is latency: id, row and store are three trips to memory.
#pragma once
#include "common/grid.cuh"
#include "common/memory.cuh"
#include "common/types.cuh"
#include "embedding/embedding_args.h"

namespace quern {

template <class Problem, class Config>
__device__ __forceinline__ void gather_rows(const EmbeddingArgs& args) {
  using T = typename Problem::Input;
  using Out = typename Problem::Output;
  constexpr int hidden = Problem::hidden_size;
  constexpr int vec = Config::vector_bytes / static_cast<int>(sizeof(T));
  constexpr int per_row = hidden / vec, total = per_row * Config::tokens_per_block;
  static_assert(vec >= 1 && hidden % vec == 0, "vector_bytes divides a row of the table");

  pdl_launch_dependents();
  pdl_wait();
  const T* table = static_cast<const T*>(args.table);
  for (int i = static_cast<int>(threadIdx.x); i < total; i += Config::threads) {
    const i64 token = static_cast<i64>(blockIdx.x) * Config::tokens_per_block + i / per_row;
    if (token >= args.num_tokens) return;
    const int id = args.ids[token], column = i % per_row * vec;
    Vec<T, vec> row{};
    if (id >= 0 && id < Problem::vocab_size)
      row = load_vec<T, vec>(table + static_cast<i64>(id) * hidden + column);
    // Wider outputs go out in as many stores as they need.
    constexpr int part =
        16 / static_cast<int>(sizeof(Out)) < vec ? 16 / static_cast<int>(sizeof(Out)) : vec;
#pragma unroll
    for (int first = 0; first < vec; first += part) {
      Vec<Out, part> out;
#pragma unroll
      for (int v = 0; v < part; ++v) out.element[v] = from_f32<Out>(to_f32(row.element[first + v]));
      store_vec<Out, part>(static_cast<Out*>(args.y) + token * hidden + column + first, out);
    }
  }
}

}  // namespace quern
