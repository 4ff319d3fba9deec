#include <fmt/format.h>

#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <thread>

#include "compiler/dsl.h"
#include "runtime/base/error.h"
#include "runtime/base/fp8.h"
#include "runtime/base/half.h"
#include "templates/embedded.h"
#include "tests/support/dsl_tensor.h"
#include "tests/support/support.h"

using namespace quern;
using quern::test::Tensor;

namespace {

dsl::Kernel only_kernel(const std::string& text) {
  const auto kernels = dsl::parse(text, "test.qk", dsl::includes_from(embedded_templates(), "row"));
  REQUIRE_EQ(kernels.size(), 1);
  return kernels[0];
}

dsl::Kernel embedded_kernel(const std::string& name) {
  const auto& files = embedded_templates();
  const auto found = files.find("row/" + name + ".qk");
  REQUIRE(found != files.end());
  return only_kernel(found->second);
}

void run(const dsl::CpuKernel& kernel, std::vector<Tensor>& operands,
         const std::vector<double>& scalars, const std::vector<std::int64_t>& extents) {
  std::vector<void*> pointers;
  for (Tensor& operand : operands) pointers.push_back(operand.bytes.data());
  kernel.run(pointers, scalars, extents);
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

/// Row r of every operand, inputs as given and outputs to fill, in fp64.
using Row = std::vector<std::vector<double>>;
struct Reference {
  std::string name;
  std::function<void(Row&)> fill;
};
constexpr double kEps = 1e-5;

double mean(const std::vector<double>& v) {
  double sum = 0;
  for (const double x : v) sum += x;
  return sum / static_cast<double>(v.size());
}
double mean_square(const std::vector<double>& v) {
  double sum = 0;
  for (const double x : v) sum += x * x;
  return sum / static_cast<double>(v.size());
}

void elementwise(const std::vector<double>& x, std::vector<double>& y,
                 const std::function<double(double)>& f) {
  for (std::size_t c = 0; c < x.size(); ++c) y[c] = f(x[c]);
}

const std::vector<Reference>& references() {
  static const std::vector<Reference> all = {
      {"rmsnorm",
       [](Row& o) {
         const double scale = 1 / std::sqrt(mean_square(o[0]) + kEps);
         for (std::size_t c = 0; c < o[0].size(); ++c) o[2][c] = o[0][c] * scale * o[1][c];
       }},
      {"add_bias_rmsnorm",
       [](Row& o) {
         for (std::size_t c = 0; c < o[0].size(); ++c) o[2][c] += o[0][c] + o[1][c];
         const double scale = 1 / std::sqrt(mean_square(o[2]) + kEps);
         for (std::size_t c = 0; c < o[0].size(); ++c) o[4][c] = o[2][c] * scale * o[3][c];
       }},
      {"residual_rmsnorm",
       [](Row& o) {
         const double scale = 1 / std::sqrt(mean_square(o[0]) + kEps);
         for (std::size_t c = 0; c < o[0].size(); ++c) o[2][c] = o[0][c] * scale * o[1][c];
       }},
      {"add_rmsnorm",
       [](Row& o) {
         for (std::size_t c = 0; c < o[0].size(); ++c) o[1][c] += o[0][c];
         const double scale = 1 / std::sqrt(mean_square(o[1]) + kEps);
         for (std::size_t c = 0; c < o[0].size(); ++c) o[3][c] = o[1][c] * scale * o[2][c];
       }},
      {"add_layernorm",
       [](Row& o) {
         const std::size_t cols = o[0].size();
         for (std::size_t c = 0; c < cols; ++c) o[1][c] += o[0][c];
         std::vector<double> centred = o[1];
         const double middle = mean(centred);
         for (double& v : centred) v -= middle;
         const double scale = 1 / std::sqrt(mean_square(centred) + kEps);
         for (std::size_t c = 0; c < cols; ++c) o[4][c] = centred[c] * scale * o[2][c] + o[3][c];
       }},
      {"silu_mul",
       [](Row& o) {
         const std::size_t cols = o[1].size();
         for (std::size_t c = 0; c < cols; ++c)
           o[1][c] = o[0][c] * sigmoid(o[0][c]) * o[0][cols + c];
       }},
      {"silu", [](Row& o) { elementwise(o[0], o[1], [](double x) { return x * sigmoid(x); }); }},
      {"gelu",
       [](Row& o) {
         elementwise(o[0], o[1],
                     [](double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); });
       }},
      {"gelu_tanh",
       [](Row& o) {
         elementwise(o[0], o[1], [](double x) {
           return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
         });
       }},
      {"add",
       [](Row& o) {
         for (std::size_t c = 0; c < o[0].size(); ++c) o[1][c] += o[0][c];
       }},
      {"bias",
       [](Row& o) {
         for (std::size_t c = 0; c < o[0].size(); ++c) o[0][c] += o[1][c];
       }},
      {"cast", [](Row& o) { o[1] = o[0]; }},
      {"softmax",
       [](Row& o) {
         double largest = -std::numeric_limits<double>::infinity(), sum = 0;
         for (const double x : o[0]) largest = std::max(largest, x);
         for (const double x : o[0]) sum += std::exp(x - largest);
         for (std::size_t c = 0; c < o[0].size(); ++c) o[1][c] = std::exp(o[0][c] - largest) / sum;
       }},
  };
  return all;
}

/// Half a unit in the last place of the dtype, and fp32 rounding of a sum of `cols` terms.
double relative_tolerance(DType dtype, std::int64_t cols) {
  const double unit = dtype == DType::bf16 ? 0x1p-8 : dtype == DType::f16 ? 0x1p-11 : 0x1p-24;
  return unit + 0x1p-22 * (4 + std::sqrt(static_cast<double>(cols)));
}

void check_against_loops(const Reference& reference, const dsl::CpuKernel& built,
                         const dsl::Kernel& kernel, const std::map<std::string, DType>& dtypes,
                         std::int64_t rows, std::int64_t cols) {
  std::mt19937 random(static_cast<unsigned>(rows * 131 + cols));
  std::normal_distribution<double> normal;
  std::vector<Tensor> operands;
  std::vector<std::size_t> lengths;  // of one row
  std::vector<bool> per_row;
  for (const dsl::OperandInfo& info : kernel.operands()) {
    const DType dtype = info.dtype ? *info.dtype : dtypes.at(info.dtype_param);
    std::int64_t length = 1;
    per_row.push_back(false);
    for (const std::string& axis : info.axes) {
      if (axis == "rows") per_row.back() = true;
      length *= axis == "rows" ? 1 : axis == "cols" ? cols : std::stoll(axis);
    }
    lengths.push_back(static_cast<std::size_t>(length));
    operands.emplace_back(dtype, static_cast<std::size_t>(length * (per_row.back() ? rows : 1)));
    const bool output = info.role == dsl::OperandInfo::Role::out;
    for (std::size_t i = 0; i < operands.back().size(); ++i)
      operands.back().set(i, output ? std::nan("") : normal(random));
  }
  const std::vector<Tensor> before = operands;
  run(built, operands, std::vector<double>(kernel.scalars().size(), kEps), {rows, cols});
  for (std::int64_t r = 0; r < rows; ++r) {
    Row row;
    const auto begin = [&](std::size_t o) {
      return per_row[o] ? static_cast<std::size_t>(r) * lengths[o] : 0;
    };
    for (std::size_t o = 0; o < operands.size(); ++o) {
      row.emplace_back(lengths[o]);
      for (std::size_t c = 0; c < lengths[o]; ++c) row[o][c] = before[o].get(begin(o) + c);
    }
    reference.fill(row);
    for (std::size_t o = 0; o < operands.size(); ++o) {
      const double rel = relative_tolerance(operands[o].dtype, cols);
      for (std::size_t c = 0; c < lengths[o]; ++c) {
        const double got = operands[o].get(begin(o) + c), wanted = row[o][c];
        // 6e-8 is one step of f16's subnormals; sums that cancel lose what their terms lost.
        if (std::abs(got - wanted) <= 6e-8 + rel * (std::abs(wanted) + 0.1)) continue;
        FAIL(fmt::format("{} {} rows={} cols={} operand {} at [{}, {}]: {} instead of {}",
                         reference.name, name(operands[o].dtype), rows, cols, o, r, c, got,
                         wanted));
      }
    }
  }
}

}  // namespace

// Those that this list lacks are in test_row_kernels.cpp.
TEST_CASE("embedded kernels agree with loops in fp64 for every dtype and odd sizes") {
  for (const Reference& reference : references()) {
    CAPTURE(reference.name);
    const dsl::Kernel kernel = embedded_kernel(reference.name);
    for (const DType t : {DType::f32, DType::f16, DType::bf16})
      for (const DType r : {DType::f32, t}) {
        std::map<std::string, DType> dtypes{{"T", t}, {"R", r}};
        const bool has_r = kernel.dtype_params().size() > 1 || kernel.name() == "add";
        if ((!has_r || t == DType::f32) && r != t) continue;
        const dsl::CpuKernel built(kernel, {dtypes, {}});
        for (const std::int64_t rows : {1, 3, 17})
          for (const std::int64_t cols : {1, 7, 8, 64, 172, 4096}) {
            if (rows == 17 && cols == 4096 && t != DType::bf16) continue;
            check_against_loops(reference, built, kernel, dtypes, rows, cols);
          }
      }
  }
}

TEST_CASE("an extent known at compile time changes nothing but what may be passed") {
  const dsl::Kernel kernel = embedded_kernel("add_rmsnorm");
  const std::map<std::string, DType> dtypes{{"T", DType::bf16}, {"R", DType::f32}};
  const dsl::CpuKernel bound(kernel, {dtypes, {{"cols", 172}}});
  check_against_loops(references()[3], bound, kernel, dtypes, 3, 172);
  std::vector<Tensor> operands(4, Tensor(DType::f32, 172));
  CHECK_THROWS_AS(run(bound, operands, {kEps}, {1, 64}), InputError);
  CHECK_THROWS_AS(run(bound, operands, {}, {1, 172}), InputError);
  CHECK_THROWS_AS(run(bound, operands, {kEps}, {-1, 172}), InputError);
  CHECK_THROWS_AS(run(bound, operands, {kEps}, {std::int64_t{1} << 60, 172}), InputError);
  CHECK_THROWS_AS(dsl::CpuKernel(kernel, {{{"T", DType::bf16}}, {}}), CompileError);
  CHECK_THROWS_AS(dsl::CpuKernel(kernel, {{{"T", DType::i4}, {"R", DType::f32}}, {}}),
                  CompileError);
}

TEST_CASE("empty tensors are left alone") {
  const dsl::Kernel kernel = embedded_kernel("softmax");
  const dsl::CpuKernel built(kernel, {{{"T", DType::f32}}, {}});
  std::vector<Tensor> operands(2, Tensor(DType::f32, 1));
  operands[1].set(0, 5);
  run(built, operands, {}, {0, 64});
  run(built, operands, {}, {64, 0});
  CHECK_EQ(operands[1].get(0), 5);
}

TEST_CASE("casts to 16 bits and back are those of the base library, bit for bit") {
  const dsl::Kernel narrow = only_kernel("kernel k(x: f32[n]) -> (y: T[n]) { y = T(x) }");
  const dsl::Kernel widen = only_kernel("kernel k(x: T[n]) -> (y: f32[n]) { y = f32(x) }");
  std::vector<std::uint32_t> patterns;
  for (std::uint32_t high = 0; high < 65536; ++high)
    for (const std::uint32_t low :
         {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x2fffu, 0x3000u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
      patterns.push_back(high << 16 | low);
  const auto count = static_cast<std::int64_t>(patterns.size());
  for (const DType dtype : {DType::f16, DType::bf16}) {
    std::vector<Tensor> operands{Tensor(DType::f32, patterns.size()),
                                 Tensor(dtype, patterns.size())};
    for (std::size_t i = 0; i < patterns.size(); ++i) operands[0].set_raw(i, patterns[i]);
    run(dsl::CpuKernel(narrow, {{{"T", dtype}}, {}}), operands, {}, {count});
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < patterns.size(); ++i) {
      const float value = std::bit_cast<float>(patterns[i]);
      const std::uint16_t wanted = dtype == DType::f16 ? f32_to_f16(value) : f32_to_bf16(value);
      if (operands[1].raw<std::uint16_t>(i) != wanted) ++wrong;
    }
    CHECK_EQ(wrong, 0);
    std::vector<Tensor> back{Tensor(dtype, 65536), Tensor(DType::f32, 65536)};
    for (std::size_t i = 0; i < 65536; ++i) back[0].set_raw(i, static_cast<std::uint16_t>(i));
    run(dsl::CpuKernel(widen, {{{"T", dtype}}, {}}), back, {}, {65536});
    for (std::size_t i = 0; i < 65536; ++i) {
      const auto bits = static_cast<std::uint16_t>(i);
      const float wanted = dtype == DType::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
      const float got = back[1].raw<float>(i);
      if (std::bit_cast<std::uint32_t>(got) != std::bit_cast<std::uint32_t>(wanted) &&
          !(std::isnan(got) && std::isnan(wanted)))
        ++wrong;
    }
    CHECK_EQ(wrong, 0);
  }
}

TEST_CASE("casts to 8-bit floats and back are those of the base library, bit for bit") {
  const dsl::Kernel narrow = only_kernel("kernel k(x: f32[n]) -> (y: T[n]) { y = T(x) }");
  const dsl::Kernel widen = only_kernel("kernel k(x: T[n]) -> (y: f32[n]) { y = f32(x) }");
  constexpr std::size_t count = std::size_t{1} << 22;
  for (const DType dtype : {DType::e4m3, DType::e5m2}) {
    const auto to_f32 = dtype == DType::e4m3 ? e4m3_to_f32 : e5m2_to_f32;
    std::vector<Tensor> operands{Tensor(DType::f32, count), Tensor(dtype, count)};
    for (std::size_t i = 0; i < count; ++i)  // ends in zeros, ones and what lies between
      operands[0].set_raw(i, static_cast<std::uint32_t>(i << 10 | (i * 0x155 & 0x3ff)));
    run(dsl::CpuKernel(narrow, {{{"T", dtype}}, {}}), operands, {},
        {static_cast<std::int64_t>(count)});
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const auto value = operands[0].raw<float>(i);
      const auto got = operands[1].raw<std::uint8_t>(i);
      const std::uint8_t wanted = dtype == DType::e4m3 ? f32_to_e4m3(value) : f32_to_e5m2(value);
      if (got != wanted && !(std::isnan(value) && std::isnan(to_f32(got)))) ++wrong;
    }
    CHECK_EQ(wrong, 0);
    std::vector<Tensor> back{Tensor(dtype, 256), Tensor(DType::f32, 256)};
    for (std::size_t i = 0; i < 256; ++i) back[0].set_raw(i, static_cast<std::uint8_t>(i));
    run(dsl::CpuKernel(widen, {{{"T", dtype}}, {}}), back, {}, {256});
    for (std::size_t i = 0; i < 256; ++i) {
      const float wanted = to_f32(static_cast<std::uint8_t>(i)), got = back[1].raw<float>(i);
      CHECK((std::bit_cast<std::uint32_t>(got) == std::bit_cast<std::uint32_t>(wanted) ||
             (std::isnan(got) && std::isnan(wanted))));
    }
  }
}

TEST_CASE("casts to integers round to even, saturate, and take NaN to zero") {
  const dsl::Kernel kernel = only_kernel(
      "kernel k(x: f32[n]) -> (a: i8[n], b: u8[n], c: i32[n]) {\n"
      "  a = i8(x)\n  b = u8(x)\n  c = i32(x)\n}\n");
  const dsl::CpuKernel built(kernel, {});
  const std::vector<double> values{0.5,  1.5,  2.5,   -0.5, -1.5,         127.4, 127.5, 300,
                                   -300, 3e10, -3e10, 1e30, std::nan(""), 255.5, 254.5, -129};
  std::vector<Tensor> operands{Tensor(DType::f32, values.size()), Tensor(DType::i8, values.size()),
                               Tensor(DType::u8, values.size()), Tensor(DType::i32, values.size())};
  for (std::size_t i = 0; i < values.size(); ++i) operands[0].set(i, values[i]);
  run(built, operands, {}, {static_cast<std::int64_t>(values.size())});
  for (std::size_t i = 0; i < values.size(); ++i) {
    CAPTURE(values[i]);
    const double even = std::isnan(values[i]) ? 0 : std::nearbyint(values[i]);
    CHECK_EQ(operands[1].get(i), std::clamp(even, -128.0, 127.0));
    CHECK_EQ(operands[2].get(i), std::clamp(even, 0.0, 255.0));
    CHECK_EQ(operands[3].get(i), std::clamp(even, -2147483648.0, 2147483647.0));
  }
}

TEST_CASE("functions and operators follow the C library") {
  const dsl::Kernel kernel = only_kernel(R"(
    kernel k(x: f32[n], w: f32[n]) -> (a: f32[n], b: f32[n], c: f32[n], d: f32[n], e: f32[n],
                                       f: f32[n], g: f32[n], h: f32[n]) {
      a = exp(x)
      b = log(abs(x)) + sin(x) - cos(w)
      c = tanh(x) * erf(w)
      d = sqrt(abs(x)) / rsqrt(1 + w * w)
      e = min(x, w) - max(x, -2)
      f = select(x < w, x, -w)
      g = select(x >= w, f32(1), select(x == w, 2, 3)) + select(x != w, 10, 20)
      h = sigmoid(x)
    })");
  std::vector<double> values{0,
                             -0.0,
                             1,
                             -1,
                             0.1,
                             10,
                             -10,
                             88.7,
                             88.8,
                             -87.5,
                             -100,
                             -103.9,
                             -105,
                             200,
                             -200,
                             1e-30,
                             3.5,
                             1e5,
                             std::numeric_limits<double>::infinity(),
                             -std::numeric_limits<double>::infinity(),
                             std::nan("")};
  for (double x = -110; x < 95; x += 0.37) values.push_back(static_cast<float>(x));
  std::vector<Tensor> o(10, Tensor(DType::f32, values.size()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    o[0].set(i, values[i]);
    o[1].set(i, values[(i * 7 + 3) % values.size()]);
  }
  run(dsl::CpuKernel(kernel, {}), o, {}, {static_cast<std::int64_t>(values.size())});
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double x = o[0].get(i), w = o[1].get(i);
    const double wanted[] = {std::exp(x),
                             std::log(std::abs(x)) + std::sin(x) - std::cos(w),
                             std::tanh(x) * std::erf(w),
                             std::sqrt(std::abs(x)) * std::sqrt(1 + w * w),
                             std::fmin(x, w) - std::fmax(x, -2),
                             x < w ? x : -w,
                             (x >= w ? 1 : 3) + (x != w ? 10.0 : 20.0),
                             sigmoid(x)};
    for (std::size_t k = 0; k < 8; ++k) {
      CAPTURE(x);
      CAPTURE(w);
      CAPTURE(k);
      const double got = o[k + 2].get(i);
      const auto rounded = static_cast<float>(wanted[k]);
      if (std::isnan(rounded)) {
        CHECK(std::isnan(got));
      } else if (std::isinf(rounded) || std::isinf(got)) {
        CHECK_EQ(got, rounded);
      } else {
        const double floor = k == 1 ? 1 : 1e-30;  // three terms that may cancel
        CHECK(std::abs(got - wanted[k]) <= 1e-44 + 6e-7 * std::max(floor, std::abs(wanted[k])));
      }
    }
  }
}

TEST_CASE("leading axes, per-row operands, fixed axes and interleaved pairs") {
  const dsl::Kernel kernel = only_kernel(R"(
    kernel k(x: f32[b, h, d, 2], w: f32[d], s: f32[b], t: f32[3]; n: i32)
        -> (y: f32[b, h, d], top: f32[b, h], low: f32[b, h]) {
      v   = x[0] * w + x[1] * s
      y   = v + t[2]
      top = max[d](v) * f32(n)
      low = min[d](x[1])
    })");
  CHECK_EQ(kernel.axes(), std::vector<std::string>{"b", "h", "d"});
  constexpr std::size_t b = 2, h = 3, d = 5;
  std::vector<Tensor> o;
  for (const std::size_t count : {b * h * d * 2, d, b, std::size_t{3}, b * h * d, b * h, b * h})
    o.emplace_back(DType::f32, count);
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  for (std::size_t k = 0; k < 4; ++k)
    for (std::size_t i = 0; i < o[k].size(); ++i) o[k].set(i, normal(random));
  run(dsl::CpuKernel(kernel, {}), o, {-4.0}, {b, h, d});
  for (std::size_t i = 0; i < b * h; ++i) {
    double top = -1e9, low = 1e9;
    for (std::size_t c = 0; c < d; ++c) {
      const double first = o[0].get((i * d + c) * 2), second = o[0].get((i * d + c) * 2 + 1);
      const double v = first * o[1].get(c) + second * o[2].get(i / h);
      CHECK(o[4].get(i * d + c) == doctest::Approx(v + o[3].get(2)));
      top = std::max(top, v);
      low = std::min(low, second);
    }
    CHECK(o[5].get(i) == doctest::Approx(-4 * top));
    CHECK(o[6].get(i) == doctest::Approx(low));
  }
}

TEST_CASE("an assigned name stands for its new value, rounded") {
  const dsl::Kernel kernel = only_kernel(R"(
    kernel k(x: inout bf16[rows, cols]) -> (y: f32[rows, cols], s: f32[rows]) {
      x = bf16(f32(x) * 1.01)
      y = f32(x) + mean[cols](f32(x))
      s = sum[cols](y)
    })");
  constexpr std::size_t cols = 9;
  std::vector<Tensor> o{Tensor(DType::bf16, cols), Tensor(DType::f32, cols), Tensor(DType::f32, 1)};
  std::vector<double> rounded;
  for (std::size_t c = 0; c < cols; ++c) {
    o[0].set(c, 1.0 + static_cast<double>(c));
    rounded.push_back(bf16_to_f32(f32_to_bf16(static_cast<float>(c + 1) * 1.01f)));
  }
  run(dsl::CpuKernel(kernel, {}), o, {}, {1, cols});
  double sum = 0;
  for (std::size_t c = 0; c < cols; ++c) {
    CHECK_EQ(o[0].get(c), rounded[c]);
    CHECK(o[1].get(c) == doctest::Approx(rounded[c] + mean(rounded)));
    sum += o[1].get(c);
  }
  CHECK(o[2].get(0) == doctest::Approx(sum));
}

TEST_CASE("one built kernel serves several threads at once") {
  const dsl::Kernel kernel = embedded_kernel("softmax");
  const dsl::CpuKernel built(kernel, {{{"T", DType::f32}}, {}});
  std::vector<std::thread> threads;
  std::vector<double> sums(4);
  for (std::size_t t = 0; t < sums.size(); ++t)
    threads.emplace_back([&, t] {
      std::vector<Tensor> o(2, Tensor(DType::f32, 500));
      for (int repeat = 0; repeat < 50; ++repeat) {
        for (std::size_t i = 0; i < 500; ++i) o[0].set(i, static_cast<double>(i * (t + 1) % 13));
        run(built, o, {}, {1, 500});
      }
      for (std::size_t i = 0; i < 500; ++i) sums[t] += o[1].get(i);
    });
  for (std::thread& thread : threads) thread.join();
  for (const double sum : sums) CHECK(sum == doctest::Approx(1.0));
}

TEST_CASE("kernels may bear the names of functions that they call") {
  const dsl::Kernel kernel = only_kernel("kernel erff(x: f32[n]) -> (y: f32[n]) { y = erf(x) }");
  std::vector<Tensor> o(2, Tensor(DType::f32, 1));
  o[0].set(0, 0.5);
  run(dsl::CpuKernel(kernel, {}), o, {}, {1});
  CHECK(o[1].get(0) == doctest::Approx(std::erf(0.5)));
}

TEST_CASE("the LLVM text names the operands and is vectorised") {
  const std::string text = dsl::emit_llvm(embedded_kernel("rmsnorm"), {{{"T", DType::bf16}}, {}});
  CHECK(text.find("%weight") != std::string::npos);
  CHECK(text.find("x float>") != std::string::npos);
  CHECK(text.find("define void @kernel.rmsnorm") != std::string::npos);
}
