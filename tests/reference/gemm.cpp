#include "tests/reference/gemm.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "tests/support/gpu.h"

namespace quern::test {

void reference_gemm(const Params& problem, std::span<HostTensor> operands) {
  const auto extent = [&](const char* key) { return problem.at(key).get<std::size_t>(); };
  const std::size_t m = extent("m"), n = extent("n"), k = extent("k");
  const auto x = decode(operands[0].data, operands[0].spec.dtype);
  const auto w = decode(operands[1].data, operands[1].spec.dtype);
  std::vector<float> y(m * n);
  const auto columns = [&](std::size_t first, std::size_t last) {
    for (std::size_t j = first; j < last; ++j)
      for (std::size_t i = 0; i < m; ++i) {
        double sum = 0;
        for (std::size_t l = 0; l < k; ++l)
          sum += static_cast<double>(x[i * k + l]) * static_cast<double>(w[j * k + l]);
        y[i * n + j] = static_cast<float>(sum);
      }
  };
  const std::size_t num_threads = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < num_threads; ++t)
    threads.emplace_back(columns, n * t / num_threads, n * (t + 1) / num_threads);
  for (std::thread& thread : threads) thread.join();
  operands[2].data = encode(y, operands[2].spec.dtype);
}

}  // namespace quern::test
