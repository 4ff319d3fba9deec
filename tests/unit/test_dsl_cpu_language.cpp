// Each feature of the kernel language on the CPU, against its formula.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "compiler/dsl.h"
#include "runtime/base/error.h"
#include "tests/support/dsl_tensor.h"
#include "tests/support/support.h"

using namespace quern;
using quern::test::Tensor;

namespace {

using Numbers = std::vector<double>;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Runs the only kernel of a text: operands in, operands out. What an output holds before must not
/// matter.
std::vector<Numbers> run(const std::string& text, std::vector<Tensor> operands,
                         const std::vector<std::int64_t>& extents, const Numbers& scalars = {}) {
  const auto kernels = dsl::parse(text, "test.qk");
  std::vector<void*> pointers;
  for (Tensor& operand : operands) pointers.push_back(operand.bytes.data());
  dsl::CpuKernel(kernels.at(0), {}).run(pointers, scalars, extents);
  std::vector<Numbers> out;
  for (const Tensor& operand : operands) {
    out.emplace_back();
    for (std::size_t i = 0; i < operand.size(); ++i) out.back().push_back(operand.get(i));
  }
  return out;
}

Tensor tensor(DType dtype, const Numbers& values) {
  Tensor out(dtype, values.size());
  for (std::size_t i = 0; i < values.size(); ++i) out.set(i, values[i]);
  return out;
}

Tensor empty(DType dtype, std::size_t count) {
  Tensor out(dtype, count);
  std::fill(out.bytes.begin(), out.bytes.end(), std::byte{0xff});
  return out;
}

Numbers random_numbers(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(-2, 2);
  Numbers out(count);
  for (double& v : out) v = uniform(random);
  return out;
}

}  // namespace

TEST_CASE("i32 arithmetic wraps around and divides towards zero") {
  const Numbers interesting{0, 1, -1, 2, -2, 7, -7, 2147483647, -2147483648.0, -2147483647, 65536};
  Numbers a, b;
  for (const double x : interesting)
    for (const double y : interesting) {
      a.push_back(x);
      b.push_back(y);
    }
  const std::size_t n = a.size();
  std::vector<Tensor> operands{tensor(DType::i32, a), tensor(DType::i32, b)};
  for (int i = 0; i < 9; ++i) operands.push_back(empty(DType::i32, n));
  const auto out = run(R"(kernel k(a: i32[n], b: i32[n]) -> (plus: i32[n], less: i32[n],
      times: i32[n], over: i32[n], rest: i32[n], third: i32[n], sign: i32[n], least: i32[n],
      most: i32[n]) {
    plus = a + b  less = a - b  times = a * b  over = a / b  rest = a % b  third = a / -3 + a % 5
    sign = select(a < b, -a, abs(a))  least = min(a, b)  most = max(a, b)
  })",
                       operands, {static_cast<std::int64_t>(n)});
  const auto wrap = [](std::int64_t x) {
    return static_cast<double>(static_cast<std::int32_t>(static_cast<std::uint32_t>(x)));
  };
  for (std::size_t i = 0; i < n; ++i) {
    const auto x = static_cast<std::int64_t>(a[i]), y = static_cast<std::int64_t>(b[i]);
    const std::int64_t divisor = y == 0 ? 1 : y;
    CAPTURE(x);
    CAPTURE(y);
    CHECK_EQ(out[2][i], wrap(x + y));
    CHECK_EQ(out[3][i], wrap(x - y));
    CHECK_EQ(out[4][i], wrap(x * y));
    CHECK_EQ(out[5][i], wrap(x / divisor));
    CHECK_EQ(out[6][i], wrap(x % divisor));
    CHECK_EQ(out[7][i], wrap(x / -3 + x % 5));
    CHECK_EQ(out[8][i], wrap(x < y || x < 0 ? -x : x));
    CHECK_EQ(out[9][i], wrap(std::min(x, y)));
    CHECK_EQ(out[10][i], wrap(std::max(x, y)));
  }
}

TEST_CASE("conditions, and which of them NaN fulfils") {
  const Numbers x{1, 2, kNan, -1, kInfinity, 2};
  const Numbers y{2, 2, 1, kNan, kInfinity, -3};
  const auto out = run(R"(kernel k(x: f32[n], y: f32[n]) -> (a: i32[n], b: i32[n], c: f32[n]) {
    a = select(x < y || x == y, i32(1), 0) + select(!(x < y), i32(10), 0) +
        select(x != y, i32(100), 0)
    b = select(x > 0 && y > 0 && !(x == y), i32(1), 0)
    c = min(x, y) + max(x, y)
  })",
                       {tensor(DType::f32, x), tensor(DType::f32, y), empty(DType::i32, 6),
                        empty(DType::i32, 6), empty(DType::f32, 6)},
                       {6});
  for (std::size_t i = 0; i < 6; ++i) {
    CAPTURE(i);
    CHECK_EQ(out[2][i], (x[i] < y[i] || x[i] == y[i] ? 1 : 0) + (!(x[i] < y[i]) ? 10 : 0) +
                            (x[i] != y[i] ? 100 : 0));
    CHECK_EQ(out[3][i], x[i] > 0 && y[i] > 0 && !(x[i] == y[i]) ? 1 : 0);
    CHECK_EQ(out[4][i], std::fmin(x[i], y[i]) + std::fmax(x[i], y[i]));
  }
}

TEST_CASE("positions and extents, of gathered axes too") {
  const auto out = run(R"(kernel k(t: i32[vocab], x: i32[rows, cols]) -> (y: i32[rows, cols]) {
    y = index(rows) * 100 + index(cols) + extent(cols) * 1000 + extent(vocab) * 10000 +
        t[vocab = x]
  })",
                       {tensor(DType::i32, {5, 6, 7, 8, 9}),
                        tensor(DType::i32, {0, 4, -1, 5, 2, 1}), empty(DType::i32, 6)},
                       {2, 3, 5});
  const Numbers table{5, 9, 0, 0, 7, 6};
  for (std::size_t i = 0; i < 6; ++i)
    CHECK_EQ(out[2][i], static_cast<double>(i / 3 * 100 + i % 3 + 3000 + 50000) + table[i]);
}

TEST_CASE("gathers read 0 outside the axis, without touching memory") {
  for (const DType dtype : {DType::f32, DType::bf16, DType::e4m3, DType::i8, DType::i4}) {
    CAPTURE(std::string(name(dtype)));
    const std::string text = "kernel k(table: " + std::string(name(dtype)) +
                             "[vocab, cols], ids: i32[rows]) -> (y: f32[rows, cols]) {"
                             " y = f32(table[vocab = ids]) }";
    const Numbers ids{1, 0, 3, -1, 2147483647, -2147483648.0, 2};
    Numbers values(3 * 6);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i % 15) - 7;
    const auto out = run(
        text, {tensor(dtype, values), tensor(DType::i32, ids), empty(DType::f32, 42)}, {7, 6, 3});
    for (std::size_t r = 0; r < 7; ++r)
      for (std::size_t c = 0; c < 6; ++c)
        CHECK_EQ(out[2][r * 6 + c],
                 ids[r] < 0 || ids[r] > 2 ? 0 : values[static_cast<std::size_t>(ids[r]) * 6 + c]);
    // An empty table may have no memory at all.
    const auto none =
        run(text, {Tensor(dtype, 0), tensor(DType::i32, ids), empty(DType::f32, 42)}, {7, 6, 0});
    CHECK(std::all_of(none[2].begin(), none[2].end(), [](double v) { return v == 0; }));
  }
}

TEST_CASE("two axes gathered at once, beside a fixed one") {
  const Numbers values = random_numbers(3 * 2 * 4, 3);
  const Numbers a{0, 2, 1, 3, 0}, b{3, 0, 1, 2, -1};
  const auto out = run(R"(kernel k(t: f32[p, 2, q], a: i32[n], b: i32[n]) -> (y: f32[2, n]) {
    y[0] = t[p = a, 1, q = b]
    y[1] = t[0, q = b + 1, p = a - 1]
  })",
                       {tensor(DType::f32, values), tensor(DType::i32, a), tensor(DType::i32, b),
                        empty(DType::f32, 10)},
                       {5, 3, 4});
  const auto at = [&](double p, double fixed, double q) {
    if (p < 0 || p > 2 || q < 0 || q > 3) return 0.0;
    return values[static_cast<std::size_t>((p * 2 + fixed) * 4 + q)];
  };
  for (std::size_t i = 0; i < 5; ++i) {
    CHECK_EQ(out[3][i], at(a[i], 1, b[i]));
    CHECK_EQ(out[3][5 + i], at(a[i] - 1, 0, b[i] + 1));
  }
}

TEST_CASE("fixed axes are written place by place, after everything was read") {
  const Numbers x = random_numbers(5 * 2 * 3, 4);
  const auto out = run(R"(kernel k(x: inout f32[rows, 2, cols]) -> (s: f32[rows, 2]) {
    s[1] = sum[cols](x[0])
    s[0] = sum[cols](x[1])
    a = x[0]
    x[0] = -x[1]
    x[1] = a + x[0]
  })",
                       {tensor(DType::f32, x), empty(DType::f32, 10)}, {5, 3});
  for (std::size_t r = 0; r < 5; ++r) {
    double sums[2] = {0, 0};
    for (std::size_t c = 0; c < 3; ++c) {
      const double a = x[r * 6 + c], b = x[r * 6 + 3 + c];
      CHECK_EQ(out[0][r * 6 + c], -b);
      CHECK(out[0][r * 6 + 3 + c] == doctest::Approx(a - b));
      sums[0] += a;
      sums[1] += b;
    }
    CHECK(out[1][r * 2] == doctest::Approx(sums[1]));
    CHECK(out[1][r * 2 + 1] == doctest::Approx(sums[0]));
  }
}

TEST_CASE("argmin and argmax: the first one, passing over NaN") {
  const std::vector<Numbers> rows{{1, 3, 3, 2},
                                  {kNan, 2, kNan, 5},
                                  {kNan, kNan, kNan, kNan},
                                  {kNan, -kInfinity, -kInfinity, kNan},
                                  {kInfinity, kInfinity, 0, 0},
                                  {-0.0, 0.0, -0.0, 0.0}};
  Numbers x;
  for (const Numbers& row : rows) x.insert(x.end(), row.begin(), row.end());
  const auto out = run(R"(kernel k(x: f32[rows, cols]) -> (least: i32[rows], most: i32[rows]) {
    least = argmin[cols](x)
    most = argmax[cols](x)
  })",
                       {tensor(DType::f32, x), empty(DType::i32, 6), empty(DType::i32, 6)}, {6, 4});
  CHECK_EQ(out[1], Numbers{0, 1, 0, 1, 2, 0});
  CHECK_EQ(out[2], Numbers{1, 3, 0, 1, 0, 0});
  // Over several axes positions count row-major.
  Numbers y(3 * 5 * 7, 0.0);
  y[0 * 35 + 3 * 7 + 2] = 1;
  y[1 * 35 + 4 * 7 + 6] = 1;
  y[2 * 35 + 0 * 7 + 1] = 1;
  const auto two = run("kernel k(x: f32[a, b, c]) -> (y: i32[a]) { y = argmax[b, c](x) }",
                       {tensor(DType::f32, y), empty(DType::i32, 3)}, {3, 5, 7});
  CHECK_EQ(two[1], Numbers{23, 34, 1});
}

TEST_CASE("reductions of the user's") {
  const Numbers x = random_numbers(4 * 37, 5);
  const auto out =
      run(R"(
    reduction product(a, b) = a * b from 1
    reduction widest(a, b) = max(abs(a), abs(b)) from 0
    reduction log_sum(a, b) = max(a, b) + log(1 + exp(-abs(a - b))) from -1e9
    kernel k(x: f32[rows, cols]) -> (p: f32[rows], w: f32[rows], l: f32[rows]) {
      p = product[cols](1 + 0.1 * x)
      w = widest[cols](x)
      l = log_sum[cols](x)
    })",
          {tensor(DType::f32, x), empty(DType::f32, 4), empty(DType::f32, 4), empty(DType::f32, 4)},
          {4, 37});
  for (std::size_t r = 0; r < 4; ++r) {
    double product = 1, widest = 0, sum = 0;
    for (std::size_t c = 0; c < 37; ++c) {
      product *= 1 + 0.1 * x[r * 37 + c];
      widest = std::max(widest, std::abs(x[r * 37 + c]));
      sum += std::exp(x[r * 37 + c]);
    }
    CHECK(out[1][r] == doctest::Approx(product));
    CHECK_EQ(out[2][r], widest);
    CHECK(out[3][r] == doctest::Approx(std::log(sum)));
  }
}

TEST_CASE("roundings") {
  const Numbers x{0.5, 1.5, 2.5, -0.5, -1.5, 1.2, -1.2, 1e10, kInfinity, 2.9999};
  std::vector<Tensor> operands{tensor(DType::f32, x)};
  for (int i = 0; i < 4; ++i) operands.push_back(empty(DType::f32, x.size()));
  const auto out = run(R"(kernel k(x: f32[n]) -> (a: f32[n], b: f32[n], c: f32[n], d: f32[n]) {
    a = floor(x)  b = ceil(x)  c = round(x)  d = trunc(x)
  })",
                       operands, {10});
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double v = static_cast<float>(x[i]);
    CHECK_EQ(out[1][i], std::floor(v));
    CHECK_EQ(out[2][i], std::ceil(v));
    CHECK_EQ(out[3][i], std::nearbyint(v));
    CHECK_EQ(out[4][i], std::trunc(v));
  }
}

TEST_CASE("i4 is packed in pairs, signed, and saturates") {
  const Numbers x{-9, -8.5, -8, -1, 0, 0.5, 1.5, 7, 7.4, 7.6, kNan, 100};
  const auto out =
      run(R"(kernel k(x: f32[rows, cols], old: i4[rows, cols], wide: i32[rows, cols])
      -> (y: i4[rows, cols], z: i32[rows, cols], w: i4[rows, cols]) {
    y = i4(x)
    z = i32(old) * 10
    w = i4(wide)
  })",
          {tensor(DType::f32, x), tensor(DType::i4, {-8, 7, 0, 1, -1, 2, -2, 3, -3, 4, -4, 5}),
           tensor(DType::i32, {-9, 9, 3, -3, 8, 7, -8, 0, 1, 2, 1000, -1000}), empty(DType::i4, 12),
           empty(DType::i32, 12), empty(DType::i4, 12)},
          {2, 6});
  CHECK_EQ(out[3], Numbers{-8, -8, -8, -1, 0, 0, 2, 7, 7, 7, 0, 7});
  CHECK_EQ(out[4], Numbers{-80, 70, 0, 10, -10, 20, -20, 30, -30, 40, -40, 50});
  CHECK_EQ(out[5], Numbers{-8, 7, 3, -3, 7, 7, -8, 0, 1, 2, 7, -8});
  // Long enough for vectors, with the low half of each byte first.
  Numbers many(128);
  for (std::size_t i = 0; i < many.size(); ++i) many[i] = static_cast<double>(i % 16) - 8;
  const auto copy = run("kernel k(x: i4[n]) -> (y: i4[n]) { y = i4(f32(x)) }",
                        {tensor(DType::i4, many), empty(DType::i4, 128)}, {128});
  CHECK_EQ(copy[1], many);
  CHECK_EQ(tensor(DType::i4, {1, -2}).bytes[0], std::byte{0xe1});
  CHECK_THROWS_AS(run("kernel k(x: i4[n]) -> (y: i4[n]) { y = i4(-f32(x)) }",
                      {Tensor(DType::i4, 6), Tensor(DType::i4, 6)}, {5}),
                  InputError);
}

TEST_CASE("a norm over the row and a scale for each of its groups") {
  constexpr std::size_t rows = 3, groups = 5, lanes = 11;
  const Numbers x = random_numbers(rows * groups * lanes, 6);
  const auto out =
      run(R"(kernel k(x: f32[rows, groups, lanes]; eps: f32)
      -> (y: i8[rows, groups, lanes], scale: f32[rows, groups], widest: f32[rows], top: i32[rows]) {
    n = x * rsqrt(mean[groups, lanes](x * x) + eps)
    s = max[lanes](abs(n)) / 127
    scale = s
    widest = max[groups](s)
    top = argmax[groups](s)
    y = i8(n / s)
  })",
          {tensor(DType::f32, x), empty(DType::i8, x.size()), empty(DType::f32, rows * groups),
           empty(DType::f32, rows), empty(DType::i32, rows)},
          {rows, groups, lanes}, {1e-5});
  for (std::size_t r = 0; r < rows; ++r) {
    double square = 0, widest = 0, top = 0;
    for (std::size_t i = 0; i < groups * lanes; ++i)
      square += x[r * groups * lanes + i] * x[r * groups * lanes + i];
    const double norm = 1 / std::sqrt(square / (groups * lanes) + 1e-5);
    for (std::size_t g = 0; g < groups; ++g) {
      double scale = 0;
      for (std::size_t l = 0; l < lanes; ++l)
        scale = std::max(scale, std::abs(x[(r * groups + g) * lanes + l]) * norm / 127);
      if (scale > widest) {
        widest = scale;
        top = static_cast<double>(g);
      }
      CHECK(out[2][r * groups + g] == doctest::Approx(scale));
      for (std::size_t l = 0; l < lanes; ++l) {
        const std::size_t i = (r * groups + g) * lanes + l;
        CHECK(std::abs(out[1][i] - x[i] * norm / scale) <= 0.501);
      }
    }
    CHECK(out[3][r] == doctest::Approx(widest));
    CHECK_EQ(out[4][r], top);
  }
}

TEST_CASE("a softmax within each group, and what groups make of the whole row") {
  constexpr std::size_t rows = 2, groups = 4, lanes = 9;
  const Numbers x = random_numbers(rows * groups * lanes, 8);
  const auto out =
      run(R"(
    let softmax[axis](v) = exp(v - max[axis](v)) / sum[axis](exp(v - max[axis](v)))
    kernel k(x: f32[rows, groups, lanes]) -> (y: f32[rows, groups, lanes], whole: f32[rows]) {
      p = softmax[lanes](x)
      m = sum[groups, lanes](p * x)
      whole = m
      y = p * m + max[lanes](p)
    })",
          {tensor(DType::f32, x), empty(DType::f32, x.size()), empty(DType::f32, rows)},
          {rows, groups, lanes});
  for (std::size_t r = 0; r < rows; ++r) {
    Numbers p(groups * lanes), top(groups, 0.0);
    double whole = 0;
    for (std::size_t g = 0; g < groups; ++g) {
      double sum = 0;
      for (std::size_t l = 0; l < lanes; ++l) sum += std::exp(x[(r * groups + g) * lanes + l]);
      for (std::size_t l = 0; l < lanes; ++l) {
        const double v = x[(r * groups + g) * lanes + l];
        p[g * lanes + l] = std::exp(v) / sum;
        top[g] = std::max(top[g], p[g * lanes + l]);
        whole += p[g * lanes + l] * v;
      }
    }
    CHECK(out[2][r] == doctest::Approx(whole));
    for (std::size_t i = 0; i < p.size(); ++i)
      CHECK(out[1][r * p.size() + i] == doctest::Approx(p[i] * whole + top[i / lanes]));
  }
}

TEST_CASE("reductions over columns, and over an axis in the middle") {
  const Numbers x = random_numbers(4 * 3 * 5, 9);
  const auto columns =
      run("kernel k(x: f32[rows, cols]) -> (y: f32[rows, cols], s: f32[cols]) {"
          " s = sum[rows](x)  y = x - mean[rows](x) }",
          {tensor(DType::f32, x), empty(DType::f32, 60), empty(DType::f32, 15)}, {4, 15});
  for (std::size_t c = 0; c < 15; ++c) {
    double sum = 0;
    for (std::size_t r = 0; r < 4; ++r) sum += x[r * 15 + c];
    CHECK(columns[2][c] == doctest::Approx(sum));
    for (std::size_t r = 0; r < 4; ++r)
      CHECK(columns[1][r * 15 + c] == doctest::Approx(x[r * 15 + c] - sum / 4));
  }
  const auto middle = run("kernel k(x: f32[a, b, c]) -> (y: f32[a, c]) { y = max[b](x) }",
                          {tensor(DType::f32, x), empty(DType::f32, 20)}, {4, 3, 5});
  for (std::size_t a = 0; a < 4; ++a)
    for (std::size_t c = 0; c < 5; ++c)
      CHECK_EQ(middle[1][a * 5 + c],
               std::max({x[a * 15 + c], x[a * 15 + 5 + c], x[a * 15 + 10 + c]}));
}

TEST_CASE("a kernel that folds every axis") {
  const Numbers x = random_numbers(6 * 7, 10);
  const auto out = run("kernel k(x: f32[rows, cols]) -> (y: f32[]) { y = mean[rows, cols](x) }",
                       {tensor(DType::f32, x), empty(DType::f32, 1)}, {6, 7});
  double sum = 0;
  for (const double v : x) sum += v;
  CHECK(out[1][0] == doctest::Approx(sum / 42));
}
