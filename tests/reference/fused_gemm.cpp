#include "tests/reference/fused_gemm.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/gpu.h"

namespace quern::test {

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
    for (std::size_t i = 0; i < m; ++i) {
      double squares = 0;
      for (std::size_t l = 0; l < k; ++l) {
        squares += static_cast<double>(x[i * k + l]) * static_cast<double>(x[i * k + l]);
        x[i * k + l] *= gamma[l];
      }
      scale[i] = 1 / std::sqrt(squares / static_cast<double>(k) + problem.at("eps").get<double>());
    }
    x = rounded(x, operands[1].spec.dtype);
  }
  const GemmEpilogue& epilogue = family.epilogues().at(problem.at("epilogue").get<std::string>());
  const auto parts = static_cast<std::size_t>(epilogue.parts());
  const std::size_t cols = n / parts;
  std::vector<float> acc(m * n);
  const auto columns = [&](std::size_t first, std::size_t last) {
    for (std::size_t c = first; c < last; ++c)
      for (std::size_t part = 0; part < parts; ++part) {
        // 8 rows of each part in turn.
        const std::size_t row = parts == 1 ? c : c / 8 * 16 + part * 8 + c % 8;
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

  const dsl::Kernel& kernel = epilogue.kernel();
  dsl::Binding binding;
  for (const std::string& param : kernel.dtype_params())
    binding.dtypes[param] = parse_dtype(problem.at(param).get<std::string>()).value();
  std::vector<void*> pointers{acc.data()};
  for (std::size_t i = normalised ? 3 : 2; i < operands.size(); ++i)
    pointers.push_back(operands[i].data.data());
  std::vector<double> scalars;
  for (const dsl::ScalarInfo& scalar : kernel.scalars())
    scalars.push_back(problem.at(scalar.name).get<double>());
  const std::vector<std::int64_t> extents{static_cast<std::int64_t>(m),
                                          static_cast<std::int64_t>(cols)};
  dsl::CpuKernel(kernel, binding).run(pointers, scalars, extents);
}

}  // namespace quern::test
