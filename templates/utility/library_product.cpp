#include "templates/utility/library_product.h"

#include <cmath>

#include "runtime/base/error.h"
#include "templates/common/tunables.h"

namespace quern {
namespace {

constexpr int kAlgorithms[] = {0, 1, 2, 3, 4, 5, 6, 7};

struct Config {
  int algorithm = 0;  // rank in the library's own order
  static constexpr auto fields() {
    return std::make_tuple(std::pair{"algorithm", &Config::algorithm});
  }
  bool operator==(const Config&) const = default;
};

class LibraryProductFamily final : public Family {
 public:
  std::string_view name() const override { return "library_product"; }
  std::vector<std::string> dynamic_fields() const override { return {"m"}; }
  std::vector<Tunable> space(const Params&) const override {
    return {{"algorithm", values_of(kAlgorithms)}};
  }
  std::optional<std::string> unsupported(const Params& problem, const Arch& arch) const override {
    const auto p = from_params<LibraryProductProblem>(problem);
    if (auto why = bad_extents(p.m, p.n, p.k)) return why;
    if (p.n % 16 != 0 || p.k % 16 != 0)
      return fmt::format("cuBLASLt is used where n and k are multiples of 16, not for {} and {}",
                         p.n, p.k);
    const bool sums = p.dtype == DType::i8 && p.out_dtype == DType::i32;
    const bool scaled =
        p.dtype == DType::e4m3 &&
        (p.out_dtype == DType::bf16 || p.out_dtype == DType::f16 || p.out_dtype == DType::f32);
    if (!sums && !scaled)
      return fmt::format(
          "products are of i8 to i32 or of e4m3 to bf16, f16 or f32, not of {} to {}",
          quern::name(p.dtype), quern::name(p.out_dtype));
    if (scaled && !arch.has_fp8_mma())
      return fmt::format("products of e4m3 need sm_89 or later, this is {}", arch.name());
    return std::nullopt;
  }
  std::optional<std::string> reject_reason(const Params& problem, const Params& config,
                                           const Arch& arch) const override {
    if (auto why = unsupported(problem, arch)) return why;
    const auto c = from_params<Config>(config);
    if (c.algorithm < 0 || c.algorithm > 7)
      return fmt::format("algorithm = {} is not between 0 and 7", c.algorithm);
    return std::nullopt;
  }
  Params reference_config(const Params&) const override { return nullptr; }
  bool is_library(const Params&) const override { return true; }
  LibraryMatmul library_matmul(const Params& problem, const Params& config) const override {
    LibraryMatmul matmul = Family::library_matmul(problem, config);
    matmul.scaled = matmul.input == DType::e4m3;
    matmul.fast_sums = matmul.scaled;
    return matmul;
  }
  KernelSource source(const Params&, const Params&, const Arch&) const override {
    throw InputError("library_product has no kernel of its own");
  }
  LaunchPlan plan(const Params&, const Params&, const Arch&) const override {
    throw InputError("library_product has no kernel of its own");
  }
  std::vector<OperandSpec> operands(const Params& problem) const override {
    const auto p = from_params<LibraryProductProblem>(problem);
    constexpr double kCodes = 64;
    OperandSpec x{"x", p.dtype, {p.m, p.k}, OperandSpec::Role::in, kCodes, {}};
    OperandSpec w{"w", p.dtype, {p.n, p.k}, OperandSpec::Role::in, kCodes, {}};
    const OperandSpec y{"y", p.out_dtype, {p.m, p.n}, OperandSpec::Role::out, 1.0, {}};
    if (p.dtype == DType::i8) {
      x.range = w.range = std::pair{-127, 127};
      return {x, w, y};
    }
    OperandSpec scale{"x_scale", DType::f32, {1}, OperandSpec::Role::in, 1 / kCodes, {}};
    scale.positive = true;
    OperandSpec w_scale = scale;
    w_scale.name = "w_scale", w_scale.stddev = 1 / (kCodes * std::sqrt(p.k));
    return {x, w, scale, w_scale, y};
  }
  std::vector<std::byte> pack_args(const Params&, const Params&, std::span<const std::uint64_t>,
                                   std::uint64_t) const override {
    return {};
  }
  Cost cost(const Params& problem) const override {
    const auto p = from_params<LibraryProductProblem>(problem);
    const double m = p.m, n = p.n, k = p.k;
    return {m * k + n * k + static_cast<double>(size_bits(p.out_dtype)) / 8 * m * n, 2 * m * n * k};
  }
  Tolerance tolerance(const Params&, std::size_t) const override { return {}; }
};

}  // namespace

std::unique_ptr<Family> make_library_product_family() {
  return std::make_unique<LibraryProductFamily>();
}

}  // namespace quern
