#include "model/quantised_linear.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "model/cpu_math.h"
#include "runtime/base/error.h"
#include "runtime/base/half.h"
#include "tests/support/quantised_checkpoint.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

/// Every combination that a checkpoint may have.
std::vector<Quantization> all_quantizations() {
  std::vector<Quantization> out;
  for (const std::int64_t group_size : {32, 64, 128, -1}) {
    Quantization awq;
    awq.group_size = group_size;
    out.push_back(awq);
    for (const int bits : {4, 8})
      for (const bool zero_points : {false, true})
        for (const bool act_order : {false, true})
          for (const bool first_format : {false, true}) {
            Quantization gptq;
            gptq.method = QuantMethod::gptq;
            gptq.bits = bits;
            gptq.group_size = group_size;
            gptq.zero_points = zero_points;
            gptq.act_order = act_order;
            gptq.zeros_minus_one = first_format;
            out.push_back(gptq);
          }
  }
  return out;
}

constexpr const char* kModule = "model.layers.0.mlp.up_proj";

/// A checkpoint of one module.
class OneModule {
 public:
  OneModule(std::int64_t out, std::int64_t in, const Quantization& quantization, unsigned seed = 1)
      : plain(test::random_quantised(out, in, quantization, seed)), quantization_(quantization) {
    writer.add(kModule, plain, quantization);
  }
  /// The checkpoint lives as long as this object.
  QuantisedLinear load() {
    const auto path = folder_.path() / "one.safetensors";
    writer.write(path);
    file_.emplace(path);
    return load_quantised_linear(*file_, kModule, plain.out_features, plain.in_features,
                                 quantization_);
  }
  void refuses(const char* fragment) {
    CHECK_THROWS_WITH_AS(load(), doctest::Contains(fragment), InputError);
  }

  test::PlainQuantised plain;
  test::CheckpointWriter writer;

 private:
  Quantization quantization_;
  test::TemporaryFolder folder_;
  std::optional<Checkpoint> file_;
};

}  // namespace

TEST_CASE("codes, zero points and scales are read as they were written, in every format") {
  for (const Quantization& quantization : all_quantizations()) {
    CAPTURE(quantization.text());
    CAPTURE(quantization.zeros_minus_one);
    OneModule module(24, 256, quantization);
    const QuantisedLinear linear = module.load();
    const test::PlainQuantised& plain = module.plain;
    CHECK_EQ(linear.num_groups(), plain.num_groups);
    CHECK_EQ(linear.g_idx.empty(), !quantization.act_order || plain.num_groups == 1);
    int differing = 0;
    for (std::int64_t n = 0; n < 24; ++n) {
      for (std::int64_t k = 0; k < 256; ++k) {
        differing += linear.code(n, k) != plain.codes[static_cast<std::size_t>(n * 256 + k)];
        differing += linear.group(k) != plain.groups[static_cast<std::size_t>(k)];
      }
      for (std::int64_t g = 0; g < plain.num_groups; ++g) {
        const auto entry = static_cast<std::size_t>(n * plain.num_groups + g);
        differing += linear.zero_point(n, g) != plain.zeros[entry];
        differing += linear.scale(n, g) != f16_to_f32(plain.scales[entry]);
      }
    }
    CHECK_EQ(differing, 0);
  }
}

TEST_CASE("the CPU's products with codes agree with loops over the formula") {
  ThreadPool pool(3);
  struct Shape {
    std::int64_t m, n, k;
  };
  for (const Quantization& quantization : all_quantizations())
    for (const auto& [m, n, k] :
         {Shape{1, 8, 128}, Shape{1, 136, 384}, Shape{3, 64, 128}, Shape{7, 24, 640}}) {
      CAPTURE(quantization.text());
      CAPTURE(n);
      OneModule module(n, k, quantization, static_cast<unsigned>(n + k));
      const QuantisedLinear linear = module.load();
      std::mt19937 engine(5);
      std::normal_distribution<float> normal;
      std::vector<float> x(static_cast<std::size_t>(m * k));
      for (float& value : x) value = normal(engine);
      const std::int64_t stride = n + 3;
      std::vector<float> out(static_cast<std::size_t>(m * stride), std::nanf(""));
      const cpu::Product products[] = {{{nullptr, DType::i32, n, k, &linear}, out.data()}};
      cpu::multiply(pool, x.data(), m, products, stride);
      double worst = 0;
      for (std::int64_t i = 0; i < m; ++i)
        for (std::int64_t j = 0; j < n; ++j) {
          double sum = 0, magnitude = 0;
          for (std::int64_t l = 0; l < k; ++l) {
            const double term = static_cast<double>(x[static_cast<std::size_t>(i * k + l)]) *
                                static_cast<double>(module.plain.weight(j, l));
            sum += term;
            magnitude += std::abs(term);
          }
          const double error =
              std::abs(static_cast<double>(out[static_cast<std::size_t>(i * stride + j)]) - sum);
          worst = std::max(worst, std::isnan(error) ? 1e9 : error / magnitude);
        }
      // Of the sum of magnitudes; rounding errors of k terms one after the other stay far below.
      CHECK_LT(worst, 1e-6);
    }
}

TEST_CASE("a bias of zeros is ignored, any other is refused") {
  OneModule module(16, 128, Quantization());
  std::vector<std::uint16_t> bias(16);
  module.writer.add(std::string(kModule) + ".bias", DType::f16, {16}, bias.data());
  CHECK_NOTHROW(module.load());
  module.writer.remove(std::string(kModule) + ".bias");
  bias[7] = f32_to_f16(0.5f);
  module.writer.add(std::string(kModule) + ".bias", DType::f16, {16}, bias.data());
  module.refuses("biases are not supported");
}

TEST_CASE("missing tensors, wrong shapes and wrong types are refused") {
  Quantization gptq;
  gptq.method = QuantMethod::gptq;
  for (const Quantization& quantization : {Quantization(), gptq})
    for (const char* suffix : {".qweight", ".qzeros", ".scales"}) {
      CAPTURE(suffix);
      const std::string tensor = kModule + std::string(suffix);
      OneModule module(32, 256, quantization);
      module.writer.remove(tensor);
      module.refuses(suffix);
      const std::vector<std::byte> zeros(1 << 16);
      for (const std::vector<std::int64_t>& shape : {std::vector<std::int64_t>{},
                                                     {0},
                                                     {1},
                                                     {256},
                                                     {256, 5},
                                                     {4, 256},
                                                     {32, 256, 1},
                                                     {33, 32},
                                                     {256, 0}}) {
        module.writer.remove(tensor);
        module.writer.add(tensor, DType::i32, shape, zeros.data());
        module.refuses(suffix);
      }
    }
  OneModule floats(32, 256, Quantization());
  const std::vector<std::byte> zeros(1 << 16);
  floats.writer.remove(std::string(kModule) + ".qweight");
  floats.writer.add(std::string(kModule) + ".qweight", DType::f32, {256, 4}, zeros.data());
  floats.refuses("packed codes are i32");
  OneModule integers(32, 256, Quantization());
  integers.writer.remove(std::string(kModule) + ".scales");
  integers.writer.add(std::string(kModule) + ".scales", DType::i32, {2, 32}, zeros.data());
  integers.refuses("which is not f32, f16 or bf16");
}

TEST_CASE("groups that do not exist, and act-order without groups, are refused") {
  Quantization gptq;
  gptq.method = QuantMethod::gptq;
  const std::string tensor = std::string(kModule) + ".g_idx";
  for (const std::int32_t bad : {-1, 2, 1 << 30, INT32_MIN, INT32_MAX}) {
    OneModule module(32, 256, gptq);
    std::vector<std::int32_t> groups = module.plain.groups;
    groups[100] = bad;
    module.writer.remove(tensor);
    module.writer.add(tensor, DType::i32, {256}, groups.data());
    module.refuses("puts input 100 into group");
  }
  OneModule module(32, 256, gptq);
  module.writer.remove(tensor);
  CHECK(module.load().g_idx.empty());
  gptq.act_order = true;
  OneModule ordered(32, 256, gptq);
  ordered.writer.remove(tensor);
  ordered.refuses(".g_idx");
}

TEST_CASE("shapes that do not pack, and zero points of a symmetric checkpoint, are refused") {
  Quantization gptq;
  gptq.method = QuantMethod::gptq;
  gptq.zero_points = false;
  OneModule module(32, 256, gptq);
  CHECK_NOTHROW(module.load());
  module.plain.zeros[5] = 7;
  for (const char* suffix : {".qweight", ".qzeros", ".scales", ".g_idx"})
    module.writer.remove(std::string(kModule) + suffix);
  module.writer.add(kModule, module.plain, gptq);
  module.refuses("zero points other than 8");
  const test::TemporaryFolder folder;
  test::CheckpointWriter().write(folder.path() / "none.safetensors");
  const Checkpoint none(folder.path() / "none.safetensors");
  CHECK_THROWS_WITH_AS(load_quantised_linear(none, "m", 32, 192, Quantization()),
                       doctest::Contains("multiple of the group"), InputError);
  CHECK_THROWS_WITH_AS(load_quantised_linear(none, "m", 33, 256, Quantization()),
                       doctest::Contains("does not pack"), InputError);
}

TEST_CASE("scales that are not finite pass through") {
  OneModule module(16, 128, Quantization());
  std::vector<std::uint16_t> scales(16, 0x7e00);
  module.writer.remove(std::string(kModule) + ".scales");
  module.writer.add(std::string(kModule) + ".scales", DType::f16, {1, 16}, scales.data());
  CHECK(std::isnan(module.load().scale(3, 0)));
}
