#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "model/cpu_math.h"
#include "model/cpu_row_kernels.h"
#include "runtime/base/half.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

std::vector<float> normal(std::size_t count, unsigned seed, float stddev = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> distribution(0, stddev);
  std::vector<float> out(count);
  for (float& value : out) value = distribution(engine);
  return out;
}

/// Elements in their stored form, and what they are worth in f32.
struct Stored {
  std::vector<std::uint16_t> halves;
  std::vector<float> values;
  const void* data(DType dtype) const {
    if (dtype == DType::f32) return values.data();
    return halves.data();
  }
};

Stored stored(std::vector<float> values, DType dtype) {
  Stored out;
  for (float& value : values) {
    if (dtype == DType::f32) break;
    out.halves.push_back(dtype == DType::bf16 ? f32_to_bf16(value) : f32_to_f16(value));
    value = dtype == DType::bf16 ? bf16_to_f32(out.halves.back()) : f16_to_f32(out.halves.back());
  }
  out.values = std::move(values);
  return out;
}

/// A sentence for the first element beyond what rounding explains, or nothing. Summing `depth`
/// products of order 1 one after the other errs by some 6e-8 * depth: partial sums grow as the root
/// of their length, and so do the errors' sum.
std::string compare(const std::vector<float>& actual, const std::vector<double>& expected,
                    double depth) {
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double tolerance = 2e-7 * depth + 1e-6 * (1 + std::abs(expected[i]));
    if (!(std::abs(static_cast<double>(actual[i]) - expected[i]) <= tolerance))
      return fmt::format("element {}: {} instead of {}", i, actual[i], expected[i]);
  }
  return {};
}

}  // namespace

TEST_CASE("products agree with loops, for odd sizes and every dtype of weights") {
  ThreadPool pool(3);
  struct Shape {
    std::int64_t m, n, k;
  };
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const auto& [m, n, k] :
         {Shape{1, 1, 1}, Shape{1, 17, 33}, Shape{2, 64, 64}, Shape{5, 100, 300}, Shape{6, 16, 8},
          Shape{7, 65, 257}, Shape{13, 31, 7}, Shape{50, 130, 520}, Shape{129, 5, 64}}) {
      const auto x = normal(static_cast<std::size_t>(m * k), 1);
      const Stored w = stored(normal(static_cast<std::size_t>(n * k), 2), dtype);
      const Stored w2 = stored(normal(static_cast<std::size_t>(3 * k), 3), dtype);
      const std::int64_t stride = n + 3;
      std::vector<float> out(static_cast<std::size_t>(m * stride), std::nanf(""));
      const cpu::Product products[] = {{{w.data(dtype), dtype, n, k}, out.data()},
                                       {{w2.data(dtype), dtype, 3, k}, out.data() + n}};
      cpu::multiply(pool, x.data(), m, products, stride);
      std::vector<double> expected;
      for (std::int64_t i = 0; i < m; ++i)
        for (std::int64_t j = 0; j < stride; ++j) {
          const float* row = j < n ? w.values.data() + j * k : w2.values.data() + (j - n) * k;
          double total = 0;
          for (std::int64_t l = 0; l < k; ++l)
            total += static_cast<double>(x[static_cast<std::size_t>(i * k + l)]) *
                     static_cast<double>(row[l]);
          expected.push_back(total);
        }
      INFO("m=" << m << " n=" << n << " k=" << k << " " << name(dtype));
      CHECK_EQ(compare(out, expected, static_cast<double>(k)), "");
    }
  }
}

TEST_CASE("every half is read exactly, subnormals and specials included") {
  ThreadPool pool(1);
  for (const DType dtype : {DType::f16, DType::bf16}) {
    // Two ways through the code: eight at a time in the vector part, one by one in the tail.
    for (const std::size_t cols : {32u, 7u}) {
      std::vector<std::uint16_t> halves(65536 * cols);
      for (unsigned bits = 0; bits < 65536; ++bits)
        halves[bits * cols + bits % cols] = static_cast<std::uint16_t>(bits);
      const std::vector<float> ones(cols, 1.0f);
      std::vector<float> out(65536);
      const cpu::Product product[] = {
          {{halves.data(), dtype, 65536, static_cast<std::int64_t>(cols)}, out.data()}};
      cpu::multiply(pool, ones.data(), 1, product, 65536);
      int wrong = 0;
      for (unsigned bits = 0; bits < 65536; ++bits) {
        const auto half = static_cast<std::uint16_t>(bits);
        const float expected = dtype == DType::f16 ? f16_to_f32(half) : bf16_to_f32(half);
        wrong += std::isnan(expected) ? !std::isnan(out[bits]) : out[bits] != expected;
      }
      CHECK_EQ(wrong, 0);
    }
  }
}

TEST_CASE("attention agrees with loops: groups, windows, odd head sizes, garbage past the end") {
  struct Shape {
    std::int64_t past, tokens, kv_heads, group, head_dim, window;
  };
  constexpr std::int64_t kNoWindow = 1 << 20;
  for (const Shape& s : {Shape{0, 1, 1, 1, 2, kNoWindow}, Shape{0, 5, 2, 2, 8, kNoWindow},
                         Shape{15, 3, 1, 4, 64, kNoWindow}, Shape{16, 1, 2, 1, 18, kNoWindow},
                         Shape{100, 37, 2, 3, 24, kNoWindow}, Shape{300, 20, 1, 8, 32, kNoWindow},
                         Shape{0, 80, 2, 2, 16, 24}, Shape{600, 1, 1, 2, 8, 24},
                         Shape{5, 60, 1, 2, 128, 1}, Shape{270, 9, 1, 32, 8, kNoWindow}}) {
    const std::int64_t heads = s.kv_heads * s.group, total = s.past + s.tokens, d = s.head_dim;
    const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
    const auto q = normal(at(s.tokens * heads * d), 4, 2);
    const auto k = normal(at(total * s.kv_heads * d), 5, 2);
    const auto v = normal(at(total * s.kv_heads * d), 6);
    // Blocks lie apart and in no order, full of loud garbage until a token is stored.
    const std::int64_t num_blocks = (total + cpu::kKvBlock - 1) / cpu::kKvBlock;
    const std::int64_t head_floats = cpu::key_block_floats(d) + cpu::value_block_floats(d);
    std::vector<std::vector<float>> storage(at(num_blocks));
    std::vector<const float*> blocks;
    for (auto& block : storage) block.assign(at(s.kv_heads * head_floats), 1e4f);
    for (std::int64_t t = 0; t < total; ++t) {
      const std::int64_t slot = t % cpu::kKvBlock;
      for (std::int64_t head = 0; head < s.kv_heads; ++head) {
        float* keys = storage[at(t / cpu::kKvBlock)].data() + head * head_floats;
        float* values = keys + cpu::key_block_floats(d);
        for (std::int64_t i = 0; i < d; ++i) {
          keys[i * cpu::kKvBlock + slot] = k[at((t * s.kv_heads + head) * d + i)];
          values[(i / 16 * cpu::kKvBlock + slot) * 16 + i % 16] =
              v[at((t * s.kv_heads + head) * d + i)];
        }
      }
    }
    for (const auto& block : storage) blocks.push_back(block.data());

    std::vector<float> out(at(s.tokens * heads * d), std::nanf(""));
    for (std::int64_t head = 0; head < s.kv_heads; ++head) {
      const cpu::Attention attention{.q = q.data(),
                                     .q_stride = heads * d,
                                     .out = out.data(),
                                     .out_stride = heads * d,
                                     .first_position = s.past,
                                     .window = s.window,
                                     .head_dim = d,
                                     .group_size = s.group,
                                     .blocks = blocks.data(),
                                     .key_offset = head * head_floats,
                                     .value_offset = head * head_floats + cpu::key_block_floats(d),
                                     .first_head = head * s.group};
      const std::int64_t rows = s.tokens * s.group;
      for (std::int64_t row = 0; row < rows; row += cpu::kAttentionRows)
        cpu::attend(attention, row, std::min(row + cpu::kAttentionRows, rows));
    }

    std::vector<double> expected;
    for (std::int64_t t = 0; t < s.tokens; ++t)
      for (std::int64_t h = 0; h < heads; ++h) {
        const std::int64_t position = s.past + t, kv_head = h / s.group;
        std::vector<double> sums(at(d), 0.0);
        std::vector<double> scores;
        double largest = -1e300, mass = 0;
        const std::int64_t first = std::max<std::int64_t>(0, position - s.window + 1);
        for (std::int64_t j = first; j <= position; ++j) {
          double score = 0;
          for (std::int64_t i = 0; i < d; ++i)
            score += static_cast<double>(q[at((t * heads + h) * d + i)]) *
                     static_cast<double>(k[at((j * s.kv_heads + kv_head) * d + i)]);
          scores.push_back(score / std::sqrt(static_cast<double>(d)));
          largest = std::max(largest, scores.back());
        }
        for (std::int64_t j = first; j <= position; ++j) {
          const double weight = std::exp(scores[at(j - first)] - largest);
          mass += weight;
          for (std::int64_t i = 0; i < d; ++i)
            sums[at(i)] += weight * static_cast<double>(v[at((j * s.kv_heads + kv_head) * d + i)]);
        }
        for (const double value : sums) expected.push_back(value / mass);
      }
    INFO("past=" << s.past << " tokens=" << s.tokens << " group=" << s.group << " d=" << d
                 << " window=" << s.window);
    // Scores reach some tens; their rounding, 1e-7 of that, scales the probabilities.
    CHECK_EQ(compare(out, expected, 100), "");
  }
}

TEST_CASE("row kernels agree with their formulas") {
  ThreadPool pool(2);
  const double eps = 1e-5;
  cpu::RowKernels kernels(pool, eps);
  for (const std::int64_t cols : {1, 7, 172, 4096}) {
    for (const std::int64_t rows : {1, 3, 40}) {
      const auto count = static_cast<std::size_t>(rows * cols);
      const auto x = normal(count, 7), gate_up = normal(2 * count, 8, 3);
      const auto weight = normal(static_cast<std::size_t>(cols), 9);
      const auto before = normal(count, 10);
      auto residual = before;
      std::vector<float> y(count, std::nanf("")), y2 = y, activated = y;
      kernels.rmsnorm(x.data(), weight.data(), y.data(), rows, cols);
      kernels.add_rmsnorm(x.data(), residual.data(), weight.data(), y2.data(), rows, cols);
      kernels.silu_mul(gate_up.data(), activated.data(), rows, cols);
      std::vector<double> expected, expected2, sums, expected_activated;
      for (std::int64_t r = 0; r < rows; ++r) {
        double squares = 0, squares2 = 0;
        const auto at = [&](std::int64_t c) { return static_cast<std::size_t>(r * cols + c); };
        for (std::int64_t c = 0; c < cols; ++c) {
          const double a = static_cast<double>(x[at(c)]);
          const double b = a + static_cast<double>(before[at(c)]);
          squares += a * a;
          squares2 += b * b;
        }
        for (std::int64_t c = 0; c < cols; ++c) {
          const double w = static_cast<double>(weight[static_cast<std::size_t>(c)]);
          const double n = static_cast<double>(cols);
          const double a = static_cast<double>(x[at(c)]);
          const double b = a + static_cast<double>(before[at(c)]);
          const double gate =
              static_cast<double>(gate_up[static_cast<std::size_t>(2 * r * cols + c)]);
          const double up =
              static_cast<double>(gate_up[static_cast<std::size_t>((2 * r + 1) * cols + c)]);
          expected.push_back(a / std::sqrt(squares / n + eps) * w);
          expected2.push_back(b / std::sqrt(squares2 / n + eps) * w);
          sums.push_back(b);
          expected_activated.push_back(gate / (1 + std::exp(-gate)) * up);
        }
      }
      INFO("rows=" << rows << " cols=" << cols);
      CHECK_EQ(compare(y, expected, 10), "");
      CHECK_EQ(compare(y2, expected2, 10), "");
      CHECK_EQ(compare(residual, sums, 1), "");
      CHECK_EQ(compare(activated, expected_activated, 10), "");
    }
  }
}
