#include "autotune/operands.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "runtime/base/error.h"
#include "tests/support/scale_family.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

OperandSpec spec(DType dtype, std::vector<std::int64_t> shape) {
  return {"y", dtype, std::move(shape), OperandSpec::Role::out, 1.0, {}};
}

std::vector<std::byte> floats(const std::vector<float>& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(float));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

}  // namespace

TEST_CASE("random contents have the wanted spread in every floating type and no NaN") {
  for (const DType dtype :
       {DType::f32, DType::f64, DType::f16, DType::bf16, DType::e4m3, DType::e5m2}) {
    OperandSpec operand = spec(dtype, {100, 101});
    operand.stddev = 0.5;
    const auto bytes = trial_contents(operand, 1);
    REQUIRE_EQ(bytes.size(), operand.size_bytes());
    double sum = 0, squares = 0;
    for (std::size_t i = 0; i < operand.num_elements(); ++i) {
      const double value = element(dtype, bytes.data(), i);
      sum += value;
      squares += value * value;
    }
    CAPTURE(name(dtype));
    const double count = static_cast<double>(operand.num_elements());
    CHECK_LT(std::fabs(sum / count), 0.02);
    CHECK_EQ(std::sqrt(squares / count), doctest::Approx(0.5).epsilon(0.03));
    CHECK(trial_contents(operand, 1) == bytes);
    CHECK(trial_contents(operand, 2) != bytes);
  }
}

TEST_CASE("given values are kept in every integer type") {
  for (const DType dtype : {DType::i64, DType::i32, DType::i16, DType::i8}) {
    OperandSpec operand = spec(dtype, {3});
    operand.values = {5, -7, 100};
    const auto bytes = trial_contents(operand, 1);
    for (std::size_t i = 0; i < 3; ++i)
      CHECK_EQ(element(dtype, bytes.data(), i), operand.values[i]);
  }
  OperandSpec wrong = spec(DType::i32, {3});
  wrong.values = {1, 2};
  CHECK_THROWS_AS(trial_contents(wrong, 1), InputError);
  OperandSpec real = spec(DType::f32, {1});
  real.values = {1};
  CHECK_THROWS_AS(trial_contents(real, 1), InputError);
}

TEST_CASE("large operands repeat with a prime period, small and packed ones are whole") {
  const auto large = trial_contents(spec(DType::bf16, {4096, 4096}), 1);
  CHECK_EQ(large.size(), 2 * 1048573);
  const auto repeated = repeat_to(large, 3 * large.size() - 2);
  CHECK_EQ(repeated.size(), 3 * large.size() - 2);
  CHECK(std::equal(large.begin(), large.end(), repeated.begin() + static_cast<long>(large.size())));
  CHECK_EQ(trial_contents(spec(DType::i4, {7}), 1).size(), 4);
  CHECK_EQ(trial_contents(spec(DType::u8, {7}), 1).size(), 7);
  for (const std::byte byte : trial_contents(spec(DType::boolean, {64}), 1))
    CHECK_LE(std::to_integer<int>(byte), 1);
}

TEST_CASE("an output is compared element by element with its bound") {
  const OperandSpec y = spec(DType::f32, {2, 3});
  const auto reference = floats({1, 2, 3, 4, 5, 6});
  const Tolerance tolerance{0.1, 0.1};
  CHECK_EQ(compare_output(y, reference, reference, tolerance).error, 0);
  const Comparison close = compare_output(y, floats({1, 2, 3, 4, 5, 6.35f}), reference, tolerance);
  CHECK_EQ(close.error, doctest::Approx(0.5).epsilon(0.01));
  CHECK_EQ(close.complaint, "");
  const Comparison far = compare_output(y, floats({1, 2, 3, 9, 5, 6.35f}), reference, tolerance);
  CHECK_EQ(far.error, doctest::Approx(10).epsilon(0.01));
  CHECK_EQ(far.complaint, "y[1, 0] is 9 instead of 4");
}

TEST_CASE("a part of an output is compared as the whole is") {
  const OperandSpec y = spec(DType::f32, {2, 3});
  const Tolerance tolerance{0.1, 0.1};
  const Comparison part = compare_output(y, floats({3, 9}), floats({3, 4}), tolerance, 2);
  CHECK_EQ(part.error, doctest::Approx(10).epsilon(0.01));
  CHECK_EQ(part.complaint, "y[1, 0] is 9 instead of 4");
  CHECK_EQ(compare_output(y, floats({6}), floats({6}), tolerance, 5).error, 0);
}

TEST_CASE("the surroundings of the worst element are found by halves") {
  for (const std::size_t count : {1, 63, 64, 65, 1000, 100003})
    for (const std::size_t worst : {std::size_t{0}, count / 3, count / 2, count - 1})
      for (const double error : {2.0, std::numeric_limits<double>::infinity()}) {
        CAPTURE(count);
        CAPTURE(worst);
        std::size_t asked = 0;
        const ElementRange range = around_worst(count, 64, [&](const ElementRange& part) {
          CHECK_GT(part.count, 0);
          CHECK_LE(part.first + part.count, count);
          asked += part.count;
          return worst - part.first < part.count ? error : 1.5;
        });
        CHECK_LE(range.count, 64);
        CHECK_LT(worst - range.first, range.count);
        CHECK_LE(asked, 2 * count + 64);
      }
}

TEST_CASE("NaN and infinity never pass, not even against themselves") {
  const OperandSpec y = spec(DType::f32, {1});
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  const Tolerance loose{1e30, 1e30};
  for (const float bad : {nan, infinity}) {
    CHECK_GT(compare_output(y, floats({bad}), floats({bad}), loose).error, 1);
    CHECK_GT(compare_output(y, floats({bad}), floats({1}), loose).error, 1);
    CHECK_GT(compare_output(y, floats({1}), floats({nan}), loose).error, 1);
  }
  CHECK_GT(compare_output(y, floats({1}), floats({2}), {}).error, 1);
}

TEST_CASE("integers are equal or wrong, whatever the tolerance") {
  const OperandSpec y = spec(DType::i32, {1});
  std::vector<std::byte> one(4), two(4);
  one[0] = std::byte{1};
  two[0] = std::byte{2};
  CHECK_EQ(compare_output(y, one, one, {100, 100}).error, 0);
  CHECK_EQ(compare_output(y, two, one, {100, 100}).complaint, "y[0] is 2 instead of 1");
}

TEST_CASE("a share of an integer output may miss, by the absolute bound at most") {
  const OperandSpec y = spec(DType::i8, {100});
  const std::vector<std::byte> reference(100);
  const Tolerance tolerance{1, 0, 0.02};
  auto out = reference;
  CHECK_EQ(compare_output(y, out, reference, tolerance).error, 0);
  out[3] = out[7] = std::byte{1};
  CHECK_LE(compare_output(y, out, reference, tolerance).error, 1);
  out[9] = std::byte{0xff};
  const Comparison many = compare_output(y, out, reference, tolerance);
  CHECK_EQ(many.error, doctest::Approx(1.5));
  CHECK_EQ(many.complaint, "3 of 100 elements of y differ, y[3] for one");
  out = reference;
  out[3] = std::byte{2};
  CHECK_EQ(compare_output(y, out, reference, tolerance).complaint, "y[3] is 2 instead of 0");
  // One element at least may miss, and with a relative bound large numbers are free within it.
  const OperandSpec z = spec(DType::i32, {1});
  std::vector<std::byte> one(4), two(4);
  one[0] = std::byte{1};
  two[0] = std::byte{2};
  CHECK_LE(compare_output(z, two, one, tolerance).error, 1);
  CHECK_LE(compare_output(spec(DType::i32, {1}), two, one, {1, 0.6, 0.001}).error, 1);
}

TEST_CASE("integers in a range, and magnitudes") {
  OperandSpec ids = spec(DType::i32, {1000});
  ids.range = {-2, 5};
  const auto bytes = trial_contents(ids, 1);
  double low = 10, high = -10;
  for (std::size_t i = 0; i < 1000; ++i) {
    low = std::min(low, element(DType::i32, bytes.data(), i));
    high = std::max(high, element(DType::i32, bytes.data(), i));
  }
  CHECK_EQ(low, -2);
  CHECK_EQ(high, 5);
  for (const DType dtype : {DType::f32, DType::bf16, DType::e4m3}) {
    OperandSpec x = spec(dtype, {1000});
    x.positive = true;
    const auto values = trial_contents(x, 1);
    for (std::size_t i = 0; i < 1000; ++i) CHECK_GE(element(dtype, values.data(), i), 0);
  }
}

TEST_CASE("the odd problem is one less where that is supported") {
  const test::ScaleFamily family;
  const Arch arch = parse_arch("sm_80");
  CHECK_EQ((*odd_problem(family, {{"n", 16}, {"scale", 4}}, arch)).dump(), R"({"n":15,"scale":4})");
  CHECK_FALSE(odd_problem(family, {{"n", 1}, {"scale", 4}}, arch).has_value());
  CHECK_FALSE(odd_problem(family, {{"n", 7}, {"scale", 4}}, arch).has_value());
}
