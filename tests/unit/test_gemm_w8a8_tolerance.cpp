// Sums of e4m3 that the tensor cores of Hopper cut off must pass the gate, however many elements an
// output has and whatever scales its rows and columns have; one that lacks some of k must not.
#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "autotune/operands.h"
#include "templates/gemm_w8a8/gemm_w8a8.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

const GemmW8A8Family family;
constexpr int kStep = 32;  // products that a tensor core adds up at once

std::vector<float> contents(const GemmW8A8Problem& p, std::size_t operand) {
  const OperandSpec spec = family.operands(to_params(p)).at(operand);
  const auto data = repeat_to(trial_contents(spec, operand + 1), spec.size_bytes());
  std::vector<float> out(spec.num_elements());
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i] = static_cast<float>(element(spec.dtype, data.data(), i));
  return out;
}

/// One step of a tensor core of Hopper: products and the sum so far, each cut off 13 bits below the
/// largest of them.
float cut_sum(float sum, const float* x, const float* w) {
  float products[kStep], largest = std::fabs(sum);
  for (int i = 0; i < kStep; ++i) {
    products[i] = x[i] * w[i];
    largest = std::max(largest, std::fabs(products[i]));
  }
  if (largest == 0) return 0;
  const float unit = std::ldexp(1.0f, std::ilogb(largest) - 13);
  float units = std::trunc(sum / unit);
  for (const float product : products) units += std::trunc(product / unit);
  return units * unit;
}

struct Errors {
  double rms = 0;    // of sums cut off, of the sums' own
  double worst = 0;  // of those sums, of what the tolerance admits
  int found = 0;     // sums without their last 32 products that it does not admit
};

Errors errors_of(const GemmW8A8Problem& p, int samples) {
  const auto x = contents(p, 0), w = contents(p, 1);
  const auto x_scales = contents(p, 2), w_scales = contents(p, 3);
  const Tolerance tolerance = family.tolerance(to_params(p), 4);
  std::mt19937 random(1);
  Errors out;
  double squares = 0, squares_of_sums = 0;
  for (int s = 0; s < samples; ++s) {
    const auto m = random() % static_cast<unsigned>(p.m), n = random() % static_cast<unsigned>(p.n);
    const float* a = x.data() + m * static_cast<std::size_t>(p.k);
    const float* b = w.data() + n * static_cast<std::size_t>(p.k);
    double exact = 0, last = 0;
    float cut = 0;
    for (int i = 0; i < p.k; i += kStep) {
      last = 0;
      for (int j = i; j < i + kStep; ++j) last += static_cast<double>(a[j]) * b[j];
      exact += last;
      cut = cut_sum(cut, a + i, b + i);
    }
    squares += (cut - exact) * (cut - exact);
    squares_of_sums += exact * exact;
    const double scale = static_cast<double>(x_scales[m]) * w_scales[n];
    const double admitted = tolerance.abs + tolerance.rel * std::fabs(exact * scale);
    out.worst = std::max(out.worst, std::fabs(cut - exact) * scale / admitted);
    out.found += std::fabs(last * scale) > admitted;
  }
  out.rms = std::sqrt(squares / squares_of_sums);
  return out;
}

}  // namespace

TEST_CASE("the tolerance admits sums that Hopper's tensor cores cut off, scaled by rows") {
  struct Case {
    int k, samples;
    double measured;  // rms error on an H200
  };
  for (const Case& c : {Case{4096, 20000, 1.3e-3}, Case{14336, 6000, 2.9e-3}}) {
    CAPTURE(c.k);
    GemmW8A8Problem p;
    p.m = 300, p.n = 300, p.k = c.k, p.dtype = DType::e4m3, p.out_dtype = DType::f32;
    const Errors errors = errors_of(p, c.samples);
    CHECK(errors.rms == doctest::Approx(c.measured).epsilon(0.1));
    // Of ten elements beyond one tenth of the tolerance one is beyond the next, and 0.6 is the
    // worst of 10^6: less than 0.5 of some 10^4 leaves 10^8 within it.
    CHECK_LT(errors.worst, 0.5);
    CHECK_GT(errors.found, c.samples / 10);
  }
}
