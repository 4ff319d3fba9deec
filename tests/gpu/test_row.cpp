#include "autotune/row_family.h"
#include "runtime/driver.h"
#include "templates/embedded.h"
#include "tests/support/family_check.h"

using namespace quern;
using namespace quern::test;

namespace {

const RowFamily& family() {
  static const RowFamily shipped(embedded_templates());
  return shipped;
}

Params problem_of(const dsl::Kernel& kernel, std::int64_t rows, std::int64_t cols, DType dtype,
                  DType residual) {
  Params problem = {{"kernel", kernel.name()}, {"rows", rows}, {"cols", cols}};
  for (const std::string& name : kernel.dtype_params())
    problem[name] = std::string(quern::name(name == "R" ? residual : dtype));
  for (const dsl::ScalarInfo& scalar : kernel.scalars()) problem[scalar.name] = 1e-5;
  return problem;
}

}  // namespace

TEST_CASE("the CUDA build of every row kernel agrees with its LLVM build") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  FamilyCheck few;
  few.max_candidates = 5;
  for (const auto& [name, kernel] : family().kernels())
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
      for (const std::int64_t cols : {1, 7, 172, 4096})
        for (const std::int64_t rows : {1, 3, 17})
          check_family(gpu, family(), problem_of(kernel, rows, cols, dtype, DType::f32), {}, few);
}

TEST_CASE("long rows and 16-bit residuals") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  FamilyCheck few;
  few.max_candidates = 6;
  for (const char* name : {"add_rmsnorm", "add_layernorm", "softmax", "silu_mul"})
    for (const std::int64_t cols : {8192, 14336, 40000, 40001}) {
      const dsl::Kernel& kernel = family().kernels().find(name)->second;
      check_family(gpu, family(), problem_of(kernel, 5, cols, DType::bf16, DType::bf16), {}, few);
    }
}
