#include "model/cpu_math.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <vector>

#include "model/cpu_panels.h"
#include "model/cpu_quantised.h"
#include "runtime/base/half.h"

namespace quern::cpu {
namespace {

/// e^x for x <= 0, to about 1e-7 relative; below -87 the least normal number. Range reduction and
/// polynomial as in Cephes' expf.
QUERN_INLINE void exp_nonpositive(Vec& x) {
  x = x < -87.0f ? Vec{} - 87.0f : x;
  // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
  const Vec shifted = x * 1.44269504088896341f + 12582912.0f;
  const Vec n = shifted - 12582912.0f;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  IntVec power;
  std::memcpy(&power, &shifted, sizeof power);
  power <<= 23;  // the constant's own bits are shifted out
  IntVec bits;
  std::memcpy(&bits, &p, sizeof bits);
  bits += power;
  std::memcpy(&x, &bits, sizeof x);
}

// Below so many rows of x, unpacking costs more than it saves.
constexpr std::int64_t kMinPackedRows = 6;

/// Panels of a weight whose elements are stored one by one.
template <class T>
struct DensePanels {
  const T* weight;  // [rows, cols]
  std::int64_t rows, cols;

  QUERN_INLINE void pack(std::int64_t first_row, std::int64_t first_k, std::int64_t depth,
                         float* packed) const {
    for (std::int64_t c = 0; c < kPanel; ++c) {
      if (first_row + c >= rows) {
        for (std::int64_t k = 0; k < depth; ++k) packed[k * kPanel + c] = 0;
        continue;
      }
      const T* source = weight + (first_row + c) * cols + first_k;
      std::int64_t k = 0;
      for (; k + kLanes <= depth; k += kLanes) {
        Vec values;
        load(source + k, values);
  #pragma GCC unroll 8
        for (int lane = 0; lane < kLanes; ++lane) packed[(k + lane) * kPanel + c] = values[lane];
      }
      for (; k < depth; ++k) packed[k * kPanel + c] = scalar(source[k]);
    }
  }
};

template <class T>
QUERN_INLINE void multiply_rows(const float* x, std::int64_t m, const T* weight, std::int64_t cols,
                                std::int64_t begin, std::int64_t end, float* out,
                                std::int64_t out_stride) {
  for (std::int64_t j = begin; j < end; ++j) {
    const T* row = weight + j * cols;
    for (std::int64_t i = 0; i < m; ++i) {
      const float* input = x + i * cols;
      Vec sums[4] = {};
      std::int64_t k = 0;
      for (; k + 4 * kLanes <= cols; k += 4 * kLanes) {
#pragma GCC unroll 4
        for (int s = 0; s < 4; ++s) {
          Vec a, b;
          load(input + k + s * kLanes, a);
          load(row + k + s * kLanes, b);
          sums[s] += a * b;
        }
      }
      const Vec all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
      float total = sum(all);
      for (; k < cols; ++k) total += input[k] * scalar(row[k]);
      out[i * out_stride + j] = total;
    }
  }
}

template <class T>
QUERN_INLINE void multiply_typed(const float* x, std::int64_t m, const Matrix& w,
                                 std::int64_t begin, std::int64_t end, float* out,
                                 std::int64_t out_stride) {
  const T* weight = static_cast<const T*>(w.data);
  if (m >= kMinPackedRows)
    multiply_packed(x, m, DensePanels<T>{weight, w.rows, w.cols}, w.cols, begin, end, out,
                    out_stride);
  else
    multiply_rows(x, m, weight, w.cols, begin, end, out, out_stride);
}

/// Outputs [begin, end) of one product, for m rows of x.
QUERN_CLONES void multiply_block(const float* x, std::int64_t m, const Matrix& w,
                                 std::int64_t begin, std::int64_t end, float* out,
                                 std::int64_t out_stride) {
  if (w.dtype == DType::bf16)
    multiply_typed<Bf16>(x, m, w, begin, end, out, out_stride);
  else if (w.dtype == DType::f16)
    multiply_typed<F16>(x, m, w, begin, end, out, out_stride);
  else
    multiply_typed<float>(x, m, w, begin, end, out, out_stride);
}

// Scores and probabilities of kKeyBlocks blocks of keys are held at a time: 24 KiB.
constexpr std::int64_t kKeyBlocks = 16;
constexpr std::int64_t kMaxKeys = kKeyBlocks * kKvBlock;
constexpr float kMasked = -1e30f;  // finite, so that a row without keys so far stays free of NaN
constexpr std::int64_t kMaxHeadDim = 1024;  // of ModelConfig

QUERN_CLONES void attend_rows(const Attention& a, std::int64_t row_begin, std::int64_t row_end) {
  static_assert(kKvBlock == kPanel);
  const std::int64_t rows = row_end - row_begin;
  const std::int64_t d = a.head_dim, panels = (d + kPanel - 1) / kPanel, width = panels * kPanel;
  alignas(64) float queries[kAttentionRows * kMaxHeadDim];  // [rows, d]
  alignas(64) float sums[kAttentionRows * kMaxHeadDim];     // [rows, width]
  alignas(64) float scores[kAttentionRows * kMaxKeys];
  float largest[kAttentionRows], mass[kAttentionRows];

  const auto position_of = [&](std::int64_t r) {
    return a.first_position + (row_begin + r) / a.group_size;
  };
  const auto element_of = [&](std::int64_t r) {
    return (a.first_head + (row_begin + r) % a.group_size) * d;
  };
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* q = a.q + (row_begin + r) / a.group_size * a.q_stride + element_of(r);
    for (std::int64_t i = 0; i < d; ++i) queries[r * d + i] = q[i] * scale;
    largest[r] = kMasked;
    mass[r] = 0;
  }
  std::fill_n(sums, rows * width, 0.0f);

  const std::int64_t first_key = std::max<std::int64_t>(0, position_of(0) - a.window + 1);
  const std::int64_t end_block = position_of(rows - 1) / kKvBlock + 1;
  for (std::int64_t b0 = first_key / kKvBlock; b0 < end_block; b0 += kKeyBlocks) {
    const std::int64_t num_blocks = std::min(kKeyBlocks, end_block - b0);
    const std::int64_t num_keys = num_blocks * kKvBlock, key0 = b0 * kKvBlock;
    for (std::int64_t b = 0; b < num_blocks; ++b)
      tile_rows(rows, queries, d, a.blocks[b0 + b] + a.key_offset, d, scores + b * kKvBlock,
                kMaxKeys, false);
    for (std::int64_t r = 0; r < rows; ++r) {
      float* row = scores + r * kMaxKeys;
      const std::int64_t last = position_of(r) - key0;  // relative to this chunk, as is `first`
      const std::int64_t first = last - a.window + 1;
      for (std::int64_t j = 0; j < std::min(first, num_keys); ++j) row[j] = kMasked;
      for (std::int64_t j = std::max<std::int64_t>(0, last + 1); j < num_keys; ++j)
        row[j] = kMasked;
      Vec tops = Vec{} + kMasked;
      for (std::int64_t j = 0; j < num_keys; j += kLanes) {
        Vec s;
        load(row + j, s);
        tops = s > tops ? s : tops;
      }
      float top = largest[r];
      for (int lane = 0; lane < kLanes; ++lane) top = std::max(top, tops[lane]);
      Vec total{};
      for (std::int64_t j = 0; j < num_keys; j += kLanes) {
        Vec s;
        load(row + j, s);
        Vec p = s - top;
        exp_nonpositive(p);
        p = s == kMasked ? Vec{} : p;
        total += p;
        store(p, row + j);
      }
      const float shrink = std::exp(largest[r] - top);
      mass[r] = mass[r] * shrink + sum(total);
      largest[r] = top;
      if (shrink != 1.0f)
        for (std::int64_t i = 0; i < width; ++i) sums[r * width + i] *= shrink;
    }
    for (std::int64_t b = 0; b < num_blocks; ++b)
      for (std::int64_t p = 0; p < panels; ++p)
        tile_rows(rows, scores + b * kKvBlock, kMaxKeys,
                  a.blocks[b0 + b] + a.value_offset + p * kKvBlock * kPanel, kKvBlock,
                  sums + p * kPanel, width, true);
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    float* out = a.out + (row_begin + r) / a.group_size * a.out_stride + element_of(r);
    for (std::int64_t i = 0; i < d; ++i) out[i] = sums[r * width + i] / mass[r];
  }
}

}  // namespace

void multiply(ThreadPool& pool, const float* x, std::int64_t m, std::span<const Product> products,
              std::int64_t out_stride) {
  struct Task {
    const Product* product;
    std::int64_t begin, end;   // outputs
    std::int64_t first, last;  // rows of x
  };
  std::int64_t num_blocks = 0;
  for (const Product& product : products)
    num_blocks += (product.weight.rows + kBlockCols - 1) / kBlockCols;
  // Where there are few blocks of outputs, the rows of x are split up too.
  const std::int64_t wanted = 3 * pool.size();
  const std::int64_t splits =
      m < 4 * kMinPackedRows ? 1 : std::clamp<std::int64_t>(wanted / num_blocks, 1, m / 24);
  const std::int64_t split_rows = (m + splits - 1) / splits;
  std::vector<Task> tasks;
  for (const Product& product : products)
    for (std::int64_t begin = 0; begin < product.weight.rows; begin += kBlockCols)
      for (std::int64_t first = 0; first < m; first += split_rows)
        tasks.push_back({&product, begin, std::min(begin + kBlockCols, product.weight.rows), first,
                         std::min(first + split_rows, m)});
  pool.parallel_for(tasks.size(), [&](std::size_t i) {
    const Task& task = tasks[i];
    const Matrix& weight = task.product->weight;
    const float* rows = x + task.first * weight.cols;
    float* out = task.product->out + task.first * out_stride;
    const std::int64_t m_task = task.last - task.first;
    if (weight.quantised)
      multiply_quantised(rows, m_task, *weight.quantised, task.begin, task.end, out, out_stride);
    else
      multiply_block(rows, m_task, weight, task.begin, task.end, out, out_stride);
  });
}

void to_f32(const void* data, DType dtype, std::int64_t begin, std::int64_t count, float* out) {
  if (dtype == DType::f32) {
    std::copy_n(static_cast<const float*>(data) + begin, count, out);
    return;
  }
  const auto* halves = static_cast<const std::uint16_t*>(data) + begin;
  std::transform(halves, halves + count, out, dtype == DType::bf16 ? bf16_to_f32 : f16_to_f32);
}

void attend(const Attention& attention, std::int64_t row_begin, std::int64_t row_end) {
  attend_rows(attention, row_begin, row_end);
}

}  // namespace quern::cpu
