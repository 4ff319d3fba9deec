#pragma once
#include <cstdint>
#include <span>

#include "model/quantised_linear.h"
#include "runtime/base/dtype.h"
#include "runtime/base/thread_pool.h"

/// The loops of the CPU backend that are worth building for several instruction sets: matrix
/// products and attention. Activations and accumulation are f32.
namespace quern::cpu {

/// A projection's weight, [rows, cols]: rows are outputs. Either row-major elements of f32, f16 or
/// bf16, or codes, which are unpacked block by block while they are multiplied.
struct Matrix {
  const void* data;
  DType dtype;
  std::int64_t rows, cols;
  const QuantisedLinear* quantised = nullptr;  // instead of data and dtype
};

/// out[i, j] = sum over k of x[i, k] * weight[j, k]
struct Product {
  Matrix weight;
  float* out;  // [m, weight.rows], rows out_stride apart
};

/// Computes several products of one input, x [m, cols] contiguous, as one parallel loop. All
/// weights have the same cols; out_stride, in elements, is common to all outputs.
void multiply(ThreadPool& pool, const float* x, std::int64_t m, std::span<const Product> products,
              std::int64_t out_stride);

/// Elements [begin, begin + count) of a stored array, as f32.
void to_f32(const void* data, DType dtype, std::int64_t begin, std::int64_t count, float* out);

/// Tokens of one KV block. Keys of a block and head are stored transposed, [head_dim, kKvBlock], so
/// that the inner loop of q k^T runs along tokens; values as panels of 16 of the head's elements,
/// [ceil(head_dim / 16), kKvBlock, 16], zero-padded.
inline constexpr std::int64_t kKvBlock = 16;

/// Floats that one block's keys and values of one head take.
constexpr std::int64_t key_block_floats(std::int64_t head_dim) { return head_dim * kKvBlock; }
constexpr std::int64_t value_block_floats(std::int64_t head_dim) {
  return (head_dim + 15) / 16 * 16 * kKvBlock;
}

/// Causal attention, softmax(q k^T / sqrt(head_dim)) v, with an online softmax (Milakov and
/// Gimelshein 2018, arXiv:1805.02867), for a batch of consecutive tokens and one KV head.
struct Attention {
  const float* q;  // [num_tokens, num_heads * head_dim], rows q_stride apart, after rotation
  std::int64_t q_stride;
  float* out;  // [num_tokens, num_heads * head_dim], rows out_stride apart
  std::int64_t out_stride;
  std::int64_t first_position;  // of the batch's first token
  std::int64_t window;          // token i sees j with i - window < j <= i
  std::int64_t head_dim;
  std::int64_t group_size;                // query heads per KV head
  const float* const* blocks;             // base of each block of the sequence, in order
  std::int64_t key_offset, value_offset;  // of this layer and KV head within a block, in floats
  std::int64_t first_head;                // query head that this KV head's group starts with
};

/// Query rows (token, head of the group), token-major, that one call of attend() handles at most.
inline constexpr std::int64_t kAttentionRows = 24;

/// Computes query rows [row_begin, row_end) of num_tokens * group_size.
void attend(const Attention& attention, std::int64_t row_begin, std::int64_t row_end);

}  // namespace quern::cpu
