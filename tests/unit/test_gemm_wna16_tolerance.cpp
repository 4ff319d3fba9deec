// Kernels that round weights to 16 bits must pass the gate at many tokens: its tolerance against
// what that rounding does to products of trial contents.
#include <cmath>
#include <string>
#include <vector>

#include "autotune/operands.h"
#include "runtime/base/half.h"
#include "templates/gemm_wna16/gemm_wna16.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

float rounded(float value, DType dtype) {
  return dtype == DType::bf16 ? bf16_to_f32(f32_to_bf16(value)) : f16_to_f32(f32_to_f16(value));
}

float widened(std::uint16_t bits, DType dtype) {
  return dtype == DType::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

/// Outputs that miss the tolerance, on average over normal activations: an output of a row of
/// weights errs by a normal error as large as the row's rounding errors together.
double expected_misses(const GemmWna16Problem& p) {
  const GemmWna16Family family;
  const Params problem = to_params(p);
  const auto specs = family.operands(problem);
  std::vector<std::vector<std::byte>> data;
  for (std::size_t i = 0; i + 1 < specs.size(); ++i)
    data.push_back(repeat_to(trial_contents(specs[i], i + 1), specs[i].size_bytes()));
  const auto* codes = reinterpret_cast<const std::uint8_t*>(data[1].data());
  const auto* scales = reinterpret_cast<const std::uint16_t*>(data[2].data());
  const auto* zeros =
      p.zero_points ? reinterpret_cast<const std::uint8_t*>(data[3].data()) : nullptr;
  const double bound = family.tolerance(problem, specs.size() - 1).abs;
  const int groups = p.k / p.group_size;
  double misses = 0;
  for (int row = 0; row < p.n; ++row) {
    double variance = 0;
    for (int g = 0; g < groups; ++g) {
      const auto at = static_cast<std::size_t>((row / 16 * groups + g) * 16 + row % 16);
      const float scale = widened(scales[at], p.dtype);
      const int zero = zeros ? zeros[at] : 1 << (p.bits - 1);
      for (int c = 0; c < p.group_size; ++c) {  // codes are random: any order of them will do
        const auto k = static_cast<std::size_t>(row * p.k + g * p.group_size + c);
        const int code = p.bits == 8 ? codes[k] : codes[k / 2] >> (k % 2 * 4) & 15;
        const float weight = static_cast<float>(code - zero) * scale;
        const auto error = static_cast<double>(rounded(weight, p.dtype) - weight);
        variance += error * error;
      }
    }
    misses += p.m * std::erfc(bound / std::sqrt(2 * variance));
  }
  return misses;
}

}  // namespace

TEST_CASE("the tolerance admits weights that are rounded to 16 bits") {
  for (const DType dtype : {DType::f16, DType::bf16})
    for (const int bits : {4, 8})
      for (const int group_size : {32, 128, 2048})
        for (const bool zero_points : {false, true}) {
          if (dtype == DType::bf16 && bits == 8) continue;  // takes no other path
          GemmWna16Problem p;
          p.m = 8192, p.n = 1024, p.k = 2048;
          p.dtype = dtype, p.out_dtype = DType::f32;
          p.bits = bits, p.group_size = group_size, p.zero_points = zero_points;
          CAPTURE(bits);
          CAPTURE(group_size);
          CAPTURE(zero_points);
          CHECK_LT(expected_misses(p), 0.1);
          // Not vacuous either: sums have a standard deviation of 1.
          const double unit = std::ldexp(1.0, dtype == DType::bf16 ? -8 : -11);
          CHECK_LT(GemmWna16Family().tolerance(to_params(p), 3).abs, 14 * unit);
        }
}
