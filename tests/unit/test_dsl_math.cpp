#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "compiler/dsl.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Function {
  const char* name;
  double (*exact)(double);
  double max_ulp;
};
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double rsqrt(double x) { return 1 / std::sqrt(x); }
const Function kFunctions[] = {
    {"exp", std::exp, 2},     {"exp2", std::exp2, 2}, {"log", std::log, 2},
    {"log2", std::log2, 2},   {"tanh", std::tanh, 2}, {"erf", std::erf, 2},
    {"sin", std::sin, 2},     {"cos", std::cos, 2},   {"sigmoid", sigmoid, 3},
    {"sqrt", std::sqrt, 0.5}, {"rsqrt", rsqrt, 1.5},
};

/// Distance of neighbouring f32 values around x.
double unit(double x) {
  const double magnitude = std::max(std::fabs(x), 0x1p-126);
  return std::ldexp(1.0, std::ilogb(magnitude) - 23);
}

/// Every exponent many times, and densely where functions change.
std::vector<float> arguments() {
  std::vector<float> out;
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += 30011)
    out.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
  for (const float special :
       {0.0f, 1.0f, kInfinity, std::nanf(""), 0x1p-149f, 0x1p-126f, 3.4e38f, 1.57079632f,
        3.14159265f, 0.78539816f, 88.7228f, 103.97f, 16367173.0f})
    for (const float x : {special, -special, std::nextafter(special, 0.0f)}) out.push_back(x);
  std::mt19937 random(1);
  for (const float range : {1.0f, 10.0f, 100.0f, 1e6f}) {
    std::uniform_real_distribution<float> uniform(-range, range);
    for (int i = 0; i < 50000; ++i) out.push_back(uniform(random));
  }
  // Close to multiples of pi/2.
  for (int i = 1; i < 20000; ++i) out.push_back(static_cast<float>(i * 1.5707963267948966));
  return out;
}

std::vector<float> evaluate(const std::string& expression, const std::vector<float>& x,
                            const std::vector<float>& w) {
  const auto kernels = dsl::parse(
      "kernel k(x: f32[n], w: f32[n]) -> (y: f32[n], z: f32[n]) { z = w  y = " + expression + " }",
      "test.qk");
  std::vector<float> y(x.size()), z(x.size());
  void* operands[] = {const_cast<float*>(x.data()), const_cast<float*>(w.data()), y.data(),
                      z.data()};
  const std::int64_t extent = static_cast<std::int64_t>(x.size());
  dsl::CpuKernel(kernels.at(0), {}).run(operands, {}, std::span(&extent, 1));
  return y;
}

}  // namespace

TEST_CASE("functions of the CPU build are a few units in the last place from libm in double") {
  const std::vector<float> x = arguments();
  for (const Function& function : kFunctions) {
    const std::vector<float> y = evaluate(fmt::format("{}(x)", function.name), x, x);
    double worst = 0;
    float worst_at = 0;
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double wanted = function.exact(static_cast<double>(x[i]));
      const double got = y[i];
      const auto rounded = static_cast<float>(wanted);
      if (std::isnan(wanted) || std::isinf(rounded) || std::isinf(got)) {
        if (std::isnan(wanted) ? !std::isnan(got) : static_cast<double>(rounded) != got) ++wrong;
        continue;
      }
      const double error = std::fabs(got - wanted) / unit(wanted);
      if (!(error <= worst)) {
        worst = error;
        worst_at = x[i];
      }
    }
    CAPTURE(std::string(function.name));
    CAPTURE(worst_at);
    CHECK_EQ(wrong, 0);
    CHECK_LE(worst, function.max_ulp);
  }
}

TEST_CASE("signs of zero and exact values of functions") {
  const std::vector<float> x{-0.0f, 0.0f, 8.0f, 0.125f, -3.0f};
  const auto at = [&](const char* expression, std::size_t i) {
    return evaluate(expression, x, x)[i];
  };
  for (const char* odd : {"sin(x)", "tanh(x)", "erf(x)"}) {
    CHECK(std::signbit(at(odd, 0)));
    CHECK_FALSE(std::signbit(at(odd, 1)));
  }
  CHECK_EQ(at("log2(x)", 2), 3.0f);
  CHECK_EQ(at("log2(x)", 3), -3.0f);
  CHECK_EQ(at("exp2(x)", 2), 256.0f);
  CHECK_EQ(at("exp2(x)", 4), 0.125f);
  CHECK_EQ(at("exp(x)", 0), 1.0f);
  CHECK_EQ(at("cos(x)", 0), 1.0f);
}

TEST_CASE("pow is that of the C library") {
  std::vector<float> x, y;
  const float values[] = {0.0f, -0.0f, 1.0f,  -1.0f,  2.0f,      -2.0f,      0.5f,
                          3.0f, -3.0f, 1e30f, 1e-30f, kInfinity, -kInfinity, std::nanf("")};
  for (const float a : values)
    for (const float b : values) {
      x.push_back(a);
      y.push_back(b);
    }
  const std::vector<float> got = evaluate("pow(x, w)", x, y);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float wanted = std::pow(x[i], y[i]);
    CAPTURE(x[i]);
    CAPTURE(y[i]);
    CHECK((got[i] == wanted || (std::isnan(got[i]) && std::isnan(wanted))));
  }
}

TEST_CASE("loops over functions are vectorised, whatever the extents") {
  for (const char* function : {"exp", "exp2", "log", "log2", "tanh", "erf", "sin", "cos", "sigmoid",
                               "floor", "round", "sqrt"}) {
    CAPTURE(std::string(function));
    const auto kernels = dsl::parse(
        fmt::format("kernel k(x: T[rows, cols]) -> (y: T[rows, cols]) {{ y = T({}(f32(x))) }}",
                    function),
        "test.qk");
    const std::string text = dsl::emit_llvm(kernels.at(0), {{{"T", DType::bf16}}, {}});
    CHECK(text.find(" x float>") != std::string::npos);
    // Not by calling the C library.
    for (std::size_t at = text.find("declare float @"); at != std::string::npos;
         at = text.find("declare float @", at + 1))
      CHECK(text.substr(at).starts_with("declare float @llvm."));
  }
}
