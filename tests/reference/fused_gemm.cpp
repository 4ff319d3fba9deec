#include "tests/reference/fused_gemm.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "tests/reference/gemm_wna16.h"
#include "tests/support/gpu.h"

namespace quern::test {
namespace {

/// Row of w that is part `part` of element `c`: 8 rows of each part in turn.
std::size_t interleaved_row(std::size_t parts, std::size_t c, std::size_t part) {
  return parts == 1 ? c : c / 8 * 16 + part * 8 + c % 8;
}

/// Runs the epilogue as LLVM builds it for the CPU on acc[m, cols, parts] and its other operands.
void apply_epilogue(const GemmEpilogue& epilogue, const Params& problem, std::vector<float>& acc,
                    std::span<HostTensor> operands) {
  const dsl::Kernel& kernel = epilogue.kernel();
  dsl::Binding binding;
  for (const std::string& param : kernel.dtype_params())
    binding.dtypes[param] = parse_dtype(problem.at(param).get<std::string>()).value();
  std::vector<void*> pointers{acc.data()};
  for (HostTensor& operand : operands) pointers.push_back(operand.data.data());
  std::vector<double> scalars;
  for (const dsl::ScalarInfo& scalar : kernel.scalars())
    scalars.push_back(problem.at(scalar.name).get<double>());
  const auto m = problem.at("m").get<std::int64_t>(), n = problem.at("n").get<std::int64_t>();
  const std::vector<std::int64_t> extents{m, n / epilogue.parts()};
  dsl::CpuKernel(kernel, binding).run(pointers, scalars, extents);
}

/// rsqrt(mean(x^2) + eps) of each row of x[m, k], which is multiplied by gamma.
std::vector<double> normalise(std::vector<float>& x, const std::vector<float>& gamma, double eps) {
  const std::size_t k = gamma.size();
  std::vector<double> scale(x.size() / k);
  for (std::size_t i = 0; i < scale.size(); ++i) {
    double squares = 0;
    for (std::size_t l = 0; l < k; ++l) {
      squares += static_cast<double>(x[i * k + l]) * static_cast<double>(x[i * k + l]);
      x[i * k + l] *= gamma[l];
    }
    scale[i] = 1 / std::sqrt(squares / static_cast<double>(k) + eps);
  }
  return scale;
}

}  // namespace

void reference_fused_gemm_wna16(const FusedGemmWna16Family& family, const Params& problem,
                                std::span<HostTensor> operands) {
  const bool normalised = problem.at("prologue") == "rmsnorm";
  const std::size_t of_product = problem.at("zero_points").get<bool>() ? 4 : 3;
  const std::size_t num_inputs = of_product + (normalised ? 1 : 0);
  const auto m = problem.at("m").get<std::size_t>(), n = problem.at("n").get<std::size_t>();
  Params plain = family.like(problem)->problem;
  plain["out_dtype"] = "f32";
  std::vector<HostTensor> product(operands.begin(),
                                  operands.begin() + static_cast<std::ptrdiff_t>(of_product));
  std::vector<double> scale(m, 1.0);
  if (normalised) {
    auto x = decode(operands[0].data, operands[0].spec.dtype);
    const auto gamma = decode(operands[of_product].data, operands[of_product].spec.dtype);
    scale = normalise(x, gamma, problem.at("eps").get<double>());
    const HostTensor plain_x{GemmWna16Family().operands(plain).front(), {}};
    const float by = plain_x.spec.dtype == DType::f16 ? 1.0f / 64 : 1.0f;
    for (float& value : x) value *= by;
    for (double& factor : scale) factor /= static_cast<double>(by);
    product[0] = plain_x;
    product[0].data = encode(x, plain_x.spec.dtype);
  }
  product.push_back({GemmWna16Family().operands(plain).back(), {}});
  product.back().data.resize(product.back().spec.size_bytes());
  reference_gemm_wna16(plain, product);
  const auto sums = decode(product.back().data, DType::f32);
  const GemmEpilogue& epilogue = family.epilogues().at(problem.at("epilogue").get<std::string>());
  const auto parts = static_cast<std::size_t>(epilogue.parts());
  std::vector<float> acc(m * n);
  for (std::size_t i = 0; i < m; ++i)
    for (std::size_t c = 0; c < n / parts; ++c)
      for (std::size_t part = 0; part < parts; ++part)
        acc[i * n + c * parts + part] = static_cast<float>(
            scale[i] * static_cast<double>(sums[i * n + interleaved_row(parts, c, part)]));
  apply_epilogue(epilogue, problem, acc, operands.subspan(num_inputs));
}

void reference_fused_gemm(const FusedGemmFamily& family, const Params& problem,
                          std::span<HostTensor> operands) {
  const auto extent = [&](const char* key) { return problem.at(key).get<std::size_t>(); };
  const std::size_t m = extent("m"), n = extent("n"), k = extent("k");
  const bool normalised = problem.at("prologue") == "rmsnorm";
  auto x = decode(operands[0].data, operands[0].spec.dtype);
  const auto w = decode(operands[1].data, operands[1].spec.dtype);
  std::vector<double> scale(m, 1.0);
  if (normalised) {
    const auto gamma = decode(operands[2].data, operands[2].spec.dtype);
    scale = normalise(x, gamma, problem.at("eps").get<double>());
    x = rounded(x, operands[1].spec.dtype);
  }
  const GemmEpilogue& epilogue = family.epilogues().at(problem.at("epilogue").get<std::string>());
  const auto parts = static_cast<std::size_t>(epilogue.parts());
  const std::size_t cols = n / parts;
  std::vector<float> acc(m * n);
  const auto columns = [&](std::size_t first, std::size_t last) {
    for (std::size_t c = first; c < last; ++c)
      for (std::size_t part = 0; part < parts; ++part) {
        const std::size_t row = interleaved_row(parts, c, part);
        for (std::size_t i = 0; i < m; ++i) {
          double sum = 0;
          for (std::size_t l = 0; l < k; ++l)
            sum += static_cast<double>(x[i * k + l]) * static_cast<double>(w[row * k + l]);
          acc[(i * cols + c) * parts + part] = static_cast<float>(sum * scale[i]);
        }
      }
  };
  const std::size_t num_threads = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < num_threads; ++t)
    threads.emplace_back(columns, cols * t / num_threads, cols * (t + 1) / num_threads);
  for (std::thread& thread : threads) thread.join();

  apply_epilogue(epilogue, problem, acc, operands.subspan(normalised ? 3 : 2));
}

}  // namespace quern::test
