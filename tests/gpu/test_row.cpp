#include "autotune/row_family.h"
#include "runtime/driver.h"
#include "templates/embedded.h"
#include "tests/support/family_check.h"
#include "tests/support/row_problems.h"

using namespace quern;
using namespace quern::test;

namespace {

const RowFamily& family() {
  static const RowFamily shipped(embedded_templates());
  return shipped;
}

/// Every shipped kernel at small and odd sizes.
void check_shipped(DType dtype) {
  GpuFixture gpu;
  FamilyCheck few;
  few.max_candidates = 5;
  for (const auto& [name, kernel] : family().kernels())
    for (const std::int64_t cols : {1, 7, 172, 4096})
      for (const std::int64_t rows : {1, 3, 17})
        check_family(gpu, family(), row_problem(family(), kernel, rows, cols, dtype, DType::f32),
                     {}, few);
}

}  // namespace

TEST_CASE("the CUDA build of every row kernel agrees with its LLVM build: f32") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  check_shipped(DType::f32);
}

TEST_CASE("the CUDA build of every row kernel agrees with its LLVM build: f16") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  check_shipped(DType::f16);
}

TEST_CASE("the CUDA build of every row kernel agrees with its LLVM build: bf16") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  check_shipped(DType::bf16);
}

TEST_CASE("long rows and 16-bit residuals") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  FamilyCheck few;
  few.max_candidates = 6;
  for (const char* name : {"add_rmsnorm", "add_layernorm", "softmax", "silu_mul",
                           "rmsnorm_quantise_fp8_group", "rmsnorm_quantise_int8", "argmax_logits"})
    for (const std::int64_t cols : {8192, 14336, 40000, 40001}) {
      const dsl::Kernel& kernel = family().kernels().find(name)->second;
      check_family(gpu, family(), row_problem(family(), kernel, 5, cols, DType::bf16, DType::bf16),
                   {}, few);
    }
}

TEST_CASE("every candidate of a few kernels: clusters, shared memory, several rows a block") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  for (const char* name : {"add_layernorm", "softmax", "rmsnorm_quantise_fp8_group", "silu_mul",
                           "dequantise_int4", "rope_halves"})
    for (const std::int64_t cols : {64, 1024, 4096, 65536}) {
      const dsl::Kernel& kernel = family().kernels().find(name)->second;
      for (const std::int64_t rows : {std::int64_t{2}, std::int64_t{cols > 4096 ? 5 : 301}})
        check_family(gpu, family(),
                     row_problem(family(), kernel, rows, cols, DType::bf16, DType::bf16));
    }
}

TEST_CASE("8-bit floats and integers as dtype parameters") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  FamilyCheck few;
  few.max_candidates = 4;
  for (const char* name : {"rmsnorm", "silu", "softmax", "cast", "gather_embedding"})
    for (const DType dtype : {DType::e4m3, DType::e5m2, DType::i8, DType::u8, DType::i32})
      for (const std::int64_t cols : {7, 256}) {
        const dsl::Kernel& kernel = family().kernels().find(name)->second;
        check_family(gpu, family(), row_problem(family(), kernel, 9, cols, dtype, dtype), {}, few);
      }
}

TEST_CASE("kernels of a user's own: columns, fixed axes, scalars of rows, conditions") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  RowFamily own;
  own.add(R"(
    kernel column_sum(x: T[rows, cols]) -> (total: f32[cols]) { total = sum[rows](f32(x)) }
    kernel column_softmax(x: T[rows, cols]) -> (y: T[rows, cols]) {
      e = exp(f32(x) - max[rows](f32(x)))
      y = T(e / sum[rows](e))
    }
    kernel interleave(a: T[n], b: T[n]) -> (y: T[n, 2]) { y[0] = a  y[1] = b }
    kernel moments(x: T[rows, cols]) -> (mean_of: f32[rows], power: f32[rows]) {
      mean_of = mean[cols](f32(x))
      power   = log2(sum[cols](f32(x) * f32(x)))
    }
    kernel whole(x: T[rows, cols]) -> (largest: f32[]) { largest = max[rows, cols](f32(x)) }
    kernel roots(x: T[rows, cols]; at: i32) -> (y: f32[rows, cols], where: i32[rows]) {
      y     = select(index(cols) < at, sqrt(f32(x)), log(f32(x) + 1))
      where = argmin[cols](f32(x))
    })",
          "own.qk");
  for (const auto& [name, kernel] : own.kernels())
    for (const std::int64_t cols : {1, 33, 1024}) {
      RowValues values;
      for (const std::string& axis : kernel.axes()) values.axes[axis] = axis == "rows" ? 70 : cols;
      for (const std::string& param : kernel.dtype_params()) values.dtypes[param] = DType::f16;
      for (const dsl::ScalarInfo& scalar : kernel.scalars()) values.scalars[scalar.name] = 5;
      check_family(gpu, own, own.problem(name, values));
    }
}
