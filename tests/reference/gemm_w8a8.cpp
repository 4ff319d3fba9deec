#include "tests/reference/gemm_w8a8.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "autotune/operands.h"
#include "tests/support/gpu.h"

namespace quern::test {
namespace {

std::vector<double> numbers(const HostTensor& tensor) {
  std::vector<double> out(tensor.spec.num_elements());
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i] = element(tensor.spec.dtype, tensor.data.data(), i);
  return out;
}

}  // namespace

void reference_gemm_w8a8(const Params& problem, std::span<HostTensor> operands) {
  const auto extent = [&](const char* key) { return problem.at(key).get<std::size_t>(); };
  const std::size_t m = extent("m"), n = extent("n"), k = extent("k"), blocks = (k + 127) / 128;
  const auto x_scale = problem.at("x_scale").get<std::string>();
  const auto w_scale = problem.at("w_scale").get<std::string>();
  const bool exact = problem.at("dtype").get<std::string>() == "i8";
  const auto x = numbers(operands[0]), w = numbers(operands[1]);
  const auto sx = numbers(operands[2]), sw = numbers(operands[3]);
  // The scale of an element: of row `row` and, in blocks, column `l`.
  const auto of_x = [&](std::size_t row, std::size_t l) {
    if (x_scale == "tensor") return sx[0];
    return x_scale == "token" ? sx[row] : sx[row * blocks + l / 128];
  };
  const auto of_w = [&](std::size_t row, std::size_t l) {
    if (w_scale == "tensor") return sw[0];
    return w_scale == "channel" ? sw[row] : sw[row / 128 * blocks + l / 128];
  };
  std::vector<float> y(m * n);
  const auto columns = [&](std::size_t first, std::size_t last) {
    for (std::size_t j = first; j < last; ++j)
      for (std::size_t i = 0; i < m; ++i) {
        double total = 0;
        if (exact) {
          std::int64_t sum = 0;
          for (std::size_t l = 0; l < k; ++l)
            sum += static_cast<std::int64_t>(x[i * k + l] * w[j * k + l]);
          const float scale = static_cast<float>(of_x(i, 0)) * static_cast<float>(of_w(j, 0));
          total = static_cast<float>(sum) * scale;
        } else {
          for (std::size_t l = 0; l < k; ++l)
            total += x[i * k + l] * w[j * k + l] * (of_x(i, l) * of_w(j, l));
        }
        y[i * n + j] = static_cast<float>(total);
      }
  };
  const std::size_t num_threads = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < num_threads; ++t)
    threads.emplace_back(columns, n * t / num_threads, n * (t + 1) / num_threads);
  for (std::thread& thread : threads) thread.join();
  operands[4].data = encode(y, operands[4].spec.dtype);
}

}  // namespace quern::test
