#include <cmath>
#include <cstring>

#include "runtime/driver.h"
#include "tests/support/fragments.h"
#include "tests/support/gpu.h"

using namespace quern;
using namespace quern::test;

namespace {

/// Calls a fragment on `values` ([rows, cols, parts]), which it may replace.
void run(const GpuFixture& gpu, const char* text, const dsl::Fragment& fragment,
         const std::string& function, int parts, const dsl::Binding& binding, Buffer& values,
         const std::vector<std::uint64_t>& addresses, const std::map<std::string, double>& scalars,
         const std::map<std::string, std::int64_t>& extents, std::int64_t rows, std::int64_t cols) {
  const dsl::Kernel kernel = dsl::parse(text, "k.qk").at(0);
  const Module module(compile(dsl::emit_fragment(kernel, binding, fragment) +
                                  fragment_kernel(fragment, function, parts),
                              "tiles", gpu.arch())
                          .cubin);
  std::vector<std::byte> args = dsl::fragment_args(kernel, fragment, addresses, scalars, extents);
  const TileArgs tile_args{values.address(), rows, cols};
  const auto* bytes = reinterpret_cast<const std::byte*>(&tile_args);
  args.insert(args.end(), bytes, bytes + sizeof tile_args);
  const std::int64_t tiles = rows * ((cols + kFragmentVector - 1) / kFragmentVector);
  LaunchPlan plan;
  plan.grid[0] = static_cast<unsigned>((tiles + 127) / 128);
  plan.block[0] = 128;
  launch(gpu.stream, module.function("tiles"), plan, args.data(), args.size());
  gpu.stream.synchronize();
}

std::size_t at(std::int64_t row, std::int64_t col, std::int64_t cols) {
  return static_cast<std::size_t>(row * cols + col);
}

}  // namespace

TEST_CASE("fragments: bias and GELU as an epilogue") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  for (const std::int64_t cols : {8, 64, 100, 77, 3})
    for (const bool bound : {false, true}) {
      CAPTURE(cols);
      const std::int64_t rows = 5;
      const auto count = static_cast<std::size_t>(rows * cols);
      const std::vector<float> acc = random_values(count, 1);
      const std::vector<float> bias =
          rounded(random_values(static_cast<std::size_t>(cols), 2), DType::bf16);
      std::vector<float> expected(count);
      for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t col = 0; col < cols; ++col) {
          const float h = acc[at(row, col, cols)] + bias[static_cast<std::size_t>(col)];
          expected[at(row, col, cols)] = 0.5f * h * (1 + std::erf(h * 0.70710678f));
        }
      dsl::Binding binding{{{"T", DType::bf16}}, {}};
      if (bound) binding.extents["cols"] = cols;
      Buffer values = upload(acc, gpu.stream);
      const Buffer device_bias = upload(encode(bias, DType::bf16), gpu.stream);
      const GuardedBuffer y(count * 2, gpu.stream);
      run(gpu, kBiasGelu, {.input = "acc"}, "epilogue", 1, binding, values,
          {device_bias.address(), y.address()}, {}, {{"rows", rows}, {"cols", cols}}, rows, cols);
      CHECK(y.intact(gpu.stream));
      QUERN_CHECK_CLOSE(decode(y.download<std::byte>(gpu.stream), DType::bf16), expected, 1e-3,
                        8e-3);
    }
}

TEST_CASE("fragments: SwiGLU of interleaved pairs as an epilogue") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  for (const std::int64_t cols : {8, 64, 100, 77, 3}) {
    CAPTURE(cols);
    const std::int64_t rows = 4;
    const auto count = static_cast<std::size_t>(rows * cols);
    const std::vector<float> acc = random_values(count * 2, 3);
    std::vector<float> expected(count);
    for (std::size_t i = 0; i < count; ++i)
      expected[i] = acc[2 * i] / (1 + std::exp(-acc[2 * i])) * acc[2 * i + 1];
    Buffer values = upload(acc, gpu.stream);
    const GuardedBuffer y(count * 2, gpu.stream);
    run(gpu, kSwiglu, {.input = "acc"}, "epilogue", 2, {{{"T", DType::f16}}, {}}, values,
        {y.address()}, {}, {{"rows", rows}, {"cols", cols}}, rows, cols);
    CHECK(y.intact(gpu.stream));
    QUERN_CHECK_CLOSE(decode(y.download<std::byte>(gpu.stream), DType::f16), expected, 1e-4, 2e-3);
  }
}

TEST_CASE("fragments: soft cap, ALiBi and causal mask on scores") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  const std::int64_t heads = 3, queries = 5, past = 6;
  for (const std::int64_t keys : {11, 16, 40}) {
    CAPTURE(keys);
    const std::int64_t rows = heads * queries;
    std::vector<float> scores = random_values(static_cast<std::size_t>(rows * keys), 4);
    const std::vector<float> slopes{0.5f, 0.25f, 0.125f};
    std::vector<float> expected(scores.size());
    for (std::int64_t row = 0; row < rows; ++row)
      for (std::int64_t key = 0; key < keys; ++key) {
        const std::int64_t distance = row % queries + past - key;
        // Masked scores are -inf: compared as a number far below all others.
        expected[at(row, key, keys)] = distance < 0
                                           ? -1e30f
                                           : 2 * std::tanh(scores[at(row, key, keys)] / 2) -
                                                 slopes[static_cast<std::size_t>(row / queries)] *
                                                     static_cast<float>(distance);
      }
    Buffer values = upload(scores, gpu.stream);
    const Buffer slope = upload(slopes, gpu.stream);
    run(gpu, kScores, {.input = "s", .name = "ScoreModifier", .output = "t"}, "score_modifier", 1,
        {}, values, {slope.address()}, {{"cap", 2}, {"past", static_cast<double>(past)}},
        {{"heads", heads}, {"queries", queries}, {"keys", keys}}, rows, keys);
    std::vector<float> actual = download<float>(values.address(), scores.size(), gpu.stream);
    for (float& value : actual)
      if (std::isinf(value) && value < 0) value = -1e30f;
    QUERN_CHECK_CLOSE(actual, expected, 1e-5, 1e-5);
  }
}
