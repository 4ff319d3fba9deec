#pragma once
#include <cstdint>

#include "compiler/dsl.h"
#include "runtime/base/thread_pool.h"

namespace quern::cpu {

/// The row-wise kernels of templates/row that a Llama layer needs, built by LLVM for f32. Rows are
/// shared out among the pool's threads.
class RowKernels {
 public:
  /// `eps` of the norms.
  RowKernels(ThreadPool& pool, double eps);

  /// y = rmsnorm(x) * weight. x, y: [rows, cols]; weight: [cols]
  void rmsnorm(const float* x, const float* weight, float* y, std::int64_t rows, std::int64_t cols);
  /// residual += x; y = rmsnorm(residual) * weight. x, residual, y: [rows, cols]; weight: [cols]
  void add_rmsnorm(const float* x, float* residual, const float* weight, float* y,
                   std::int64_t rows, std::int64_t cols);
  /// y = silu(gate) * up. gate_up: [rows, 2, cols]; y: [rows, cols]
  void silu_mul(const float* gate_up, float* y, std::int64_t rows, std::int64_t cols);

 private:
  ThreadPool& pool_;
  double eps_;
  dsl::CpuKernel rmsnorm_, add_rmsnorm_, silu_mul_;
};

}  // namespace quern::cpu
