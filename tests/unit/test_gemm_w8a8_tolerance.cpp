// Sums of e4m3 that the tensor cores of Hopper cut off must pass the gate, however many elements an
// output has and whatever scales its rows and columns have: what the tolerance admits against what
// those sums are off.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "autotune/operands.h"
#include "templates/gemm_w8a8/gemm_w8a8.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

const GemmW8A8Family family;

GemmW8A8Problem scaled_rows(int m, int n, int k) {
  GemmW8A8Problem p;
  p.m = m, p.n = n, p.k = k, p.dtype = DType::e4m3, p.out_dtype = DType::f32;
  return p;
}

std::vector<double> contents(const GemmW8A8Problem& p, std::size_t operand) {
  const OperandSpec spec = family.operands(to_params(p)).at(operand);
  const auto data = repeat_to(trial_contents(spec, operand + 1), spec.size_bytes());
  std::vector<double> out(spec.num_elements());
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = element(spec.dtype, data.data(), i);
  return out;
}

/// One step of a tensor core of Hopper: 32 products and the sum so far, each cut off 13 bits below
/// the largest of them.
double cut_sum(double sum, const double* x, const double* w) {
  double products[32], largest = std::fabs(sum);
  for (int i = 0; i < 32; ++i) {
    products[i] = x[i] * w[i];
    largest = std::max(largest, std::fabs(products[i]));
  }
  if (largest == 0) return 0;
  const double unit = std::ldexp(1.0, std::ilogb(largest) - 13);
  double units = std::trunc(sum / unit);
  for (const double product : products) units += std::trunc(product / unit);
  return units * unit;
}

struct Rms {
  double error = 0, sum = 0;
};
/// Of sums of products of trial contents, before they are scaled.
Rms rms_of_cut_sums(int k) {
  constexpr int kRows = 24;
  const GemmW8A8Problem p = scaled_rows(kRows, kRows, k);
  const auto x = contents(p, 0), w = contents(p, 1);
  Rms squares;
  for (int m = 0; m < kRows; ++m)
    for (int n = 0; n < kRows; ++n) {
      const double *a = x.data() + m * k, *b = w.data() + n * k;
      double exact = 0, cut = 0;
      for (int i = 0; i < k; ++i) exact += a[i] * b[i];
      for (int i = 0; i < k; i += 32) cut = cut_sum(cut, a + i, b + i);
      squares.error += (cut - exact) * (cut - exact);
      squares.sum += exact * exact;
    }
  return {std::sqrt(squares.error) / kRows, std::sqrt(squares.sum) / kRows};
}

/// Elements that miss the tolerance on average, their sums being off by normal errors.
double expected_misses(const GemmW8A8Problem& p, double rms_error) {
  const double bound = family.tolerance(to_params(p), 4).abs;
  const auto x_scales = contents(p, 2), w_scales = contents(p, 3);
  // Scales of w are counted by size, each as the largest of its kind.
  std::vector<double> counts(200);
  const double largest = *std::max_element(w_scales.begin(), w_scales.end());
  const double width = largest / static_cast<double>(counts.size());
  for (const double scale : w_scales)
    ++counts[std::min(static_cast<std::size_t>(scale / width), counts.size() - 1)];
  double misses = 0;
  for (const double x_scale : x_scales)
    for (std::size_t i = 0; i < counts.size(); ++i) {
      const double deviation = x_scale * width * static_cast<double>(i + 1) * rms_error;
      misses += counts[i] * std::erfc(bound / (std::sqrt(2.0) * deviation));
    }
  return misses;
}

}  // namespace

TEST_CASE("the tolerance admits sums that Hopper's tensor cores cut off, scaled by rows") {
  for (const auto& [k, measured] : {std::pair{4096, 1.3e-3}, {14336, 2.9e-3}}) {
    CAPTURE(k);
    const Rms rms = rms_of_cut_sums(k);
    CHECK(rms.error / rms.sum == doctest::Approx(measured).epsilon(0.1));  // on an H200
    for (const auto& [m, n] : {std::pair{16, 512}, {2048, 28672}, {8192, 4096}, {8192, 28672}}) {
      CAPTURE(m);
      CAPTURE(n);
      const GemmW8A8Problem p = scaled_rows(m, n, k);
      CHECK_LT(expected_misses(p, rms.error), 0.1);
      // Not vacuous either: in the smallest of them a kernel that leaves out 32 of k is found.
      const double left_out = rms.sum * std::sqrt(32.0 / k);
      CHECK_GT(expected_misses(p, left_out), 10);
    }
  }
}
