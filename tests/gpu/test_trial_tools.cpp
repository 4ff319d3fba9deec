#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "autotune/trial_tools.h"
#include "runtime/base/half.h"
#include "templates/embedded.h"
#include "tests/support/gpu.h"
#include "tests/support/support.h"

using namespace quern;

using test::GpuFixture;

TEST_CASE("outputs are compared on the device as the formula has it") {
  QUERN_SKIP_IF(!test::gpu_available(), driver_problem());
  const GpuFixture gpu;
  const Stream& stream = gpu.stream;
  const test::TemporaryFolder folder;
  KernelLibrary library(gpu.context, FamilyRegistry(embedded_templates()), {folder.path(), {}, 0});
  const TrialTools tools(library);
  for (const std::size_t count : {std::size_t{1}, std::size_t{31}, std::size_t{100003}}) {
    CAPTURE(count);
    const OperandSpec spec{"y", DType::f32, {static_cast<std::int64_t>(count)},
                           OperandSpec::Role::out, 1.0, {}};
    std::vector<float> reference(count), out(count);
    for (std::size_t i = 0; i < count; ++i)
      out[i] = reference[i] = static_cast<float>(i % 7) - 3.0f;
    const Tolerance tolerance{0.25, 0.5};
    const Buffer expected = test::upload(reference, stream);
    auto same = tools.difference(expected.address(), expected.address(), spec, tolerance, stream);
    CHECK_EQ(same.error, 0);
    CHECK_EQ(same.num_unequal, 0);
    out[count - 1] += 1.0f;
    const double wanted = 1 / (0.25 + 0.5 * std::fabs(reference[count - 1]));
    auto off = tools.difference(test::upload(out, stream).address(), expected.address(), spec, tolerance,
                                stream);
    CHECK(off.error == doctest::Approx(wanted));
    CHECK_EQ(off.num_unequal, 1);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                            std::numeric_limits<float>::infinity()}) {
      out[count / 2] = bad;
      off = tools.difference(test::upload(out, stream).address(), expected.address(), spec, tolerance,
                             stream);
      CHECK(std::isinf(off.error));
    }
    // Bytes of a type that the device does not decode.
    OperandSpec bytes = spec;
    bytes.dtype = DType::i32;
    off = tools.difference(test::upload(out, stream).address(), expected.address(), bytes, {}, stream);
    CHECK_EQ(off.error, 0);
    CHECK(off.num_unequal > 0);
  }
}

TEST_CASE("operands are random numbers as their spec has them, the same for the same seed") {
  QUERN_SKIP_IF(!test::gpu_available(), driver_problem());
  const GpuFixture gpu;
  const Stream& stream = gpu.stream;
  const test::TemporaryFolder folder;
  KernelLibrary library(gpu.context, FamilyRegistry(embedded_templates()), {folder.path(), {}, 0});
  const TrialTools tools(library);
  constexpr std::size_t kCount = 200001;
  for (const bool positive : {false, true}) {
    OperandSpec spec{"x", DType::bf16, {static_cast<std::int64_t>(kCount)}, OperandSpec::Role::in,
                     2.0, {}};
    spec.positive = positive;
    const Buffer a(spec.size_bytes()), b(spec.size_bytes());
    tools.fill(a.address(), spec, 5, stream);
    tools.fill(b.address(), spec, 5, stream);
    CHECK_EQ(tools.difference(a.address(), b.address(), spec, {}, stream).num_unequal, 0);
    std::vector<std::uint16_t> bits(kCount);
    copy_to_host(bits.data(), a.address(), spec.size_bytes(), stream);
    stream.synchronize();
    double sum = 0, squares = 0, least = 0;
    for (const std::uint16_t x : bits) {
      const double value = bf16_to_f32(x);
      sum += value;
      squares += value * value;
      least = std::min(least, value);
    }
    CHECK(std::sqrt(squares / kCount) == doctest::Approx(2.0).epsilon(0.02));
    CHECK(std::fabs(sum / kCount - (positive ? 2.0 * std::sqrt(2 / 3.14159265) : 0)) < 0.03);
    CHECK((least < 0) == !positive);
    tools.fill(b.address(), spec, 6, stream);
    CHECK(tools.difference(a.address(), b.address(), spec, {}, stream).num_unequal > kCount / 2);
  }
  // Scales: none is close to zero, or negative.
  OperandSpec scales{
      "scales", DType::f32, {static_cast<std::int64_t>(kCount)}, OperandSpec::Role::in, 0.1, {}};
  scales.between = {0.075, 0.125};
  const Buffer a(scales.size_bytes());
  tools.fill(a.address(), scales, 5, stream);
  std::vector<float> values(kCount);
  copy_to_host(values.data(), a.address(), scales.size_bytes(), stream);
  stream.synchronize();
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  CHECK(*least == doctest::Approx(0.075).epsilon(0.001));
  CHECK(*most == doctest::Approx(0.125).epsilon(0.001));
  CHECK_GE(*least, 0.075f);
  CHECK_LE(*most, 0.125f);
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  CHECK(sum / kCount == doctest::Approx(0.1).epsilon(0.002));
}
