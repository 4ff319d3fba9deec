#include "model/cpu_row_kernels.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <span>
#include <string>

#include "templates/embedded.h"

namespace quern::cpu {
namespace {

// Elements below which a loop is not worth sharing out.
constexpr std::int64_t kMinTaskElements = 16384;

dsl::CpuKernel build(const char* kernel) {
  const std::string path = fmt::format("row/{}.qk", kernel);
  const auto parsed = dsl::parse(embedded_templates().at(path), path,
                                 dsl::includes_from(embedded_templates(), "row"));
  dsl::Binding binding;
  for (const std::string& parameter : parsed.front().dtype_params())
    binding.dtypes[parameter] = DType::f32;
  return {parsed.front(), binding};
}

/// An operand and how many of its elements belong to a row: 0 for those that all rows share.
struct Operand {
  const float* data;
  std::int64_t row_elements;
};

template <std::size_t N>
void run_rows(ThreadPool& pool, const dsl::CpuKernel& kernel,
              const std::array<Operand, N>& operands, std::span<const double> scalars,
              std::int64_t rows, std::int64_t cols) {
  const std::int64_t task_rows = std::max<std::int64_t>(1, kMinTaskElements / cols);
  const auto num_tasks = static_cast<std::size_t>((rows + task_rows - 1) / task_rows);
  pool.parallel_for(num_tasks, [&](std::size_t task) {
    const std::int64_t first = static_cast<std::int64_t>(task) * task_rows;
    std::array<void*, N> addresses;
    for (std::size_t i = 0; i < N; ++i)
      addresses[i] = const_cast<float*>(operands[i].data) + first * operands[i].row_elements;
    const std::array<std::int64_t, 2> extents{std::min(task_rows, rows - first), cols};
    kernel.run(addresses, scalars, extents);
  });
}

}  // namespace

RowKernels::RowKernels(ThreadPool& pool, double eps)
    : pool_(pool),
      eps_(eps),
      rmsnorm_(build("rmsnorm")),
      add_rmsnorm_(build("add_rmsnorm")),
      silu_mul_(build("silu_mul")) {}

void RowKernels::rmsnorm(const float* x, const float* weight, float* y, std::int64_t rows,
                         std::int64_t cols) {
  run_rows(pool_, rmsnorm_, std::array<Operand, 3>{{{x, cols}, {weight, 0}, {y, cols}}},
           std::array{eps_}, rows, cols);
}

void RowKernels::add_rmsnorm(const float* x, float* residual, const float* weight, float* y,
                             std::int64_t rows, std::int64_t cols) {
  run_rows(pool_, add_rmsnorm_,
           std::array<Operand, 4>{{{x, cols}, {residual, cols}, {weight, 0}, {y, cols}}},
           std::array{eps_}, rows, cols);
}

void RowKernels::silu_mul(const float* gate_up, float* y, std::int64_t rows, std::int64_t cols) {
  run_rows(pool_, silu_mul_, std::array<Operand, 2>{{{gate_up, 2 * cols}, {y, cols}}}, {}, rows,
           cols);
}

}  // namespace quern::cpu
