#include "tests/reference/gemm_wna16.h"

#include <algorithm>
#include <thread>

#include "tests/support/gpu.h"

namespace quern::test {

std::size_t wna16_code_index(std::size_t row, std::size_t column, std::size_t k, int bits) {
  const std::size_t unit_columns = bits == 4 ? 64 : 32, in_step = column % 16;
  const std::size_t unit = row / 16 * (k / unit_columns) + column / unit_columns;
  const std::size_t step = column % unit_columns / 16;
  const std::size_t lane = row % 8 * 4 + in_step % 8 / 2;
  const std::size_t reg = row % 16 / 8 + in_step / 8 * 2, half = in_step % 2;
  if (bits == 4) return unit * 1024 + lane * 32 + step * 8 + reg + 4 * half;
  return unit * 512 + lane * 16 + step * 8 + reg / 2 * 4 + reg % 2 + 2 * half;
}

std::size_t wna16_scale_index(std::size_t row, std::size_t group, std::size_t groups) {
  return (row / 16 * groups + group) * 16 + row % 8 * 2 + row % 16 / 8;
}

void reference_gemm_wna16(const Params& problem, std::span<HostTensor> operands) {
  const auto extent = [&](const char* key) { return problem.at(key).get<std::size_t>(); };
  const std::size_t m = extent("m"), n = extent("n"), k = extent("k");
  const std::size_t group_size = extent("group_size"), groups = k / group_size;
  const int bits = problem.at("bits").get<int>();
  const bool zero_points = problem.at("zero_points").get<bool>();
  const auto x = decode(operands[0].data, operands[0].spec.dtype);
  const auto& codes = operands[1].data;
  const auto scales = decode(operands[2].data, operands[2].spec.dtype);
  HostTensor& out = operands[zero_points ? 4 : 3];
  std::vector<float> y(m * n);
  const auto rows = [&](std::size_t first, std::size_t last) {
    std::vector<double> w(k);
    for (std::size_t j = first; j < last; ++j) {
      for (std::size_t l = 0; l < k; ++l) {
        const std::size_t at = wna16_code_index(j, l, k, bits);
        const std::size_t group = wna16_scale_index(j, l / group_size, groups);
        const int code = bits == 4 ? static_cast<int>(codes[at / 2]) >> (at % 2 * 4) & 15
                                   : static_cast<int>(codes[at]);
        const int zero = zero_points ? static_cast<int>(operands[3].data[group]) : 1 << (bits - 1);
        w[l] = (code - zero) * static_cast<double>(scales[group]);
      }
      for (std::size_t i = 0; i < m; ++i) {
        double sum = 0;
        for (std::size_t l = 0; l < k; ++l) sum += static_cast<double>(x[i * k + l]) * w[l];
        y[i * n + j] = static_cast<float>(sum);
      }
    }
  };
  const std::size_t num_threads = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < num_threads; ++t)
    threads.emplace_back(rows, n * t / num_threads, n * (t + 1) / num_threads);
  for (std::thread& thread : threads) thread.join();
  out.data = encode(y, out.spec.dtype);
}

}  // namespace quern::test
