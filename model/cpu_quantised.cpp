#include "model/cpu_quantised.h"

#include <cstddef>

#include "model/cpu_panels.h"

namespace quern::cpu {
namespace {

// Bit positions of eight outputs in one word of codes.
constexpr IntVec kAwqShifts = {awq_shift(0), awq_shift(1), awq_shift(2), awq_shift(3),
                               awq_shift(4), awq_shift(5), awq_shift(6), awq_shift(7)};
constexpr IntVec kNibbleShifts = {0, 4, 8, 12, 16, 20, 24, 28};
constexpr IntVec kByteShifts = {0, 8, 16, 24, 0, 8, 16, 24};

/// Panels of 16 outputs. Both packings have neighbouring outputs in a word or in neighbouring
/// words, so that eight codes take a shift and a mask.
struct QuantisedPanels {
  const QuantisedLinear& w;

  /// Eight codes, of outputs from `column` on, of row `row` of a [rows, N / P] array of words.
  QUERN_INLINE void across(const std::uint32_t* words, std::int64_t row, std::int64_t column,
                           IntVec& codes) const {
    if (w.bits == 4) {
      const auto word = static_cast<std::int32_t>(words[(row * w.out_features + column) / 8]);
      codes =
          ((IntVec{} + word) >> (w.method == QuantMethod::awq ? kAwqShifts : kNibbleShifts)) & 15;
    } else {
      const std::uint32_t* pair = words + (row * w.out_features + column) / 4;
      const auto low = static_cast<std::int32_t>(pair[0]),
                 high = static_cast<std::int32_t>(pair[1]);
      codes = (IntVec{low, low, low, low, high, high, high, high} >> kByteShifts) & 255;
    }
  }

  /// Eight codes, of outputs from `column` on and input k.
  QUERN_INLINE void codes_of(std::int64_t k, std::int64_t column, IntVec& codes) const {
    if (w.method == QuantMethod::awq) {
      across(w.qweight.data(), k, column, codes);
      return;
    }
    // Eight or four inputs to a word: shifts, for divisions would take longer than the rest.
    const int log_per_word = w.bits == 4 ? 3 : 2;
    std::memcpy(&codes, w.qweight.data() + (k >> log_per_word) * w.out_features + column,
                sizeof codes);
    const auto place = static_cast<int>(k & ((1 << log_per_word) - 1));
    codes = (codes >> place * w.bits) & ((1 << w.bits) - 1);
  }

  QUERN_INLINE void scales_of(std::int64_t group, std::int64_t column, Vec& scales) const {
    const std::int64_t at = group * w.out_features + column;
    if (w.scales.dtype == DType::f32)
      load(w.scales.as<float>().data() + at, scales);
    else if (w.scales.dtype == DType::bf16)
      load(reinterpret_cast<const Bf16*>(w.scales.data.data()) + at, scales);
    else
      load(reinterpret_cast<const F16*>(w.scales.data.data()) + at, scales);
  }

  /// The last outputs where there are fewer than 16.
  QUERN_INLINE void pack_edge(std::int64_t first_row, std::int64_t first_k, std::int64_t depth,
                              float* packed) const {
    for (std::int64_t i = 0; i < depth; ++i) {
      const std::int64_t k = first_k + i, group = w.group(k);
      for (std::int64_t c = 0; c < kPanel; ++c) {
        const std::int64_t n = first_row + c;
        packed[i * kPanel + c] =
            n >= w.out_features
                ? 0
                : static_cast<float>(static_cast<std::int32_t>(w.code(n, k)) -
                                     static_cast<std::int32_t>(w.zero_point(n, group))) *
                      w.scale(n, group);
      }
    }
  }

  QUERN_INLINE void pack(std::int64_t first_row, std::int64_t first_k, std::int64_t depth,
                         float* packed) const {
    if (first_row + kPanel > w.out_features) {
      pack_edge(first_row, first_k, depth, packed);
      return;
    }
    std::int64_t group = -1, group_end = first_k;  // without g_idx, a group lasts until group_end
    IntVec zeros[2] = {};
    Vec scales[2] = {};
    for (std::int64_t i = 0; i < depth; ++i) {
      const std::int64_t k = first_k + i;
      std::int64_t next = group;
      if (!w.g_idx.empty()) {
        next = w.g_idx[static_cast<std::size_t>(k)];
      } else if (k >= group_end) {
        next = k / w.group_size;
        group_end = (next + 1) * w.group_size;
      }
      if (next != group) {
        group = next;
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
          across(w.qzeros.data(), group, first_row + half * kLanes, zeros[half]);
          zeros[half] =
              (zeros[half] + static_cast<std::int32_t>(w.zero_offset)) & ((1 << w.bits) - 1);
          scales_of(group, first_row + half * kLanes, scales[half]);
        }
      }
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        IntVec codes;
        codes_of(k, first_row + half * kLanes, codes);
        const Vec values = __builtin_convertvector(codes - zeros[half], Vec) * scales[half];
        store(values, packed + i * kPanel + half * kLanes);
      }
    }
  }
};

QUERN_CLONES void multiply_block(const float* x, std::int64_t m, const QuantisedLinear& w,
                                 std::int64_t begin, std::int64_t end, float* out,
                                 std::int64_t out_stride) {
  multiply_packed(x, m, QuantisedPanels{w}, w.in_features, begin, end, out, out_stride);
}

}  // namespace

void multiply_quantised(const float* x, std::int64_t m, const QuantisedLinear& weight,
                        std::int64_t begin, std::int64_t end, float* out, std::int64_t out_stride) {
  multiply_block(x, m, weight, begin, end, out, out_stride);
}

}  // namespace quern::cpu
