#include <algorithm>
#include <string>
#include <vector>

#include "runtime/driver.h"
#include "templates/embedded.h"
#include "tests/reference/fused_gemm.h"
#include "tests/support/family_check.h"
#include "tests/support/wna16_kinds.h"

using namespace quern;
using namespace quern::test;

namespace {

const FusedGemmWna16Family& family() {
  static const FusedGemmWna16Family shipped(embedded_templates());
  return shipped;
}

/// Dtypes of the epilogue's parameters: B of biases, R of residuals, Q of codes, Y of results.
Params problem(const std::string& epilogue, const GemmWna16Problem& p, DType y,
               DType q = DType::e4m3) {
  Params out = to_params(p);
  out.erase("out_dtype");
  out["prologue"] = "";
  out["epilogue"] = epilogue;
  for (const std::string& param : family().epilogues().at(epilogue).kernel().dtype_params())
    out[param] = std::string(name(param == "Q" ? q : param == "B" ? p.dtype : y));
  return out;
}

void oracle(const Params& problem, std::span<HostTensor> operands) {
  reference_fused_gemm_wna16(family(), problem, operands);
}

void check(GpuFixture& gpu, const std::string& epilogue, const GemmWna16Problem& p, DType y,
           DType q = DType::e4m3) {
  FamilyCheck options;
  options.max_candidates = 1;
  const Params fused = problem(epilogue, p, y, q);
  for (Params config : wna16_kinds(p, gpu.arch())) {
    config["tma_store"] = 0;
    const bool known = std::ranges::find(options.configs, config) != options.configs.end();
    if (!known && !family().reject_reason(fused, config, gpu.arch()))
      options.configs.push_back(config);
  }
  check_family(gpu, family(), fused, oracle, options);
}

GemmWna16Problem weights(int m, int n, int k, int bits, bool zero_points, DType dtype) {
  GemmWna16Problem p;
  p.m = m, p.n = n, p.k = k, p.bits = bits, p.zero_points = zero_points, p.dtype = dtype;
  return p;
}

}  // namespace

TEST_CASE("SwiGLU and residuals of quantised products in every kernel agree with loops") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  for (const int m : {1, 3, 8, 16, 17, 65, 129}) {
    check(gpu, "swiglu", weights(m, 208, 1152, 4, true, DType::f16), DType::f16);
    check(gpu, "add", weights(m, 336, 1152, 4, false, DType::bf16), DType::f32);
  }
}

TEST_CASE("every epilogue of quantised products agrees with its CPU build") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  for (const auto& [name, epilogue] : family().epilogues())
    for (const int m : {2, 33}) {
      const int bits = m == 2 ? 8 : 4;
      check(gpu, name, weights(m, 80, 640, bits, bits == 4, DType::bf16), DType::bf16);
      if (name.find("quantise") != std::string::npos)
        check(gpu, name, weights(m, 80, 640, bits, false, DType::f16), DType::f16, DType::i8);
    }
}

TEST_CASE("x is normalised on its way into quantised products") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  FamilyCheck options;
  options.max_candidates = 24;
  for (const int m : {1, 2, 3, 4})
    for (const DType dtype : {DType::bf16, DType::f16})
      for (const int bits : {4, 8}) {
        Params p = problem(m % 2 == 0 ? "swiglu" : "cast",
                           weights(m, 336, m == 1 ? 4096 : 1152, bits, bits == 4, dtype), dtype);
        p.update(Params{{"prologue", "rmsnorm"},
                        {"eps", 1e-5},
                        {"stream", m < 3 ? "f32" : std::string(name(dtype))}});
        check_family(gpu, family(), p, oracle, options);
      }
}

TEST_CASE("candidates for quantised gate and up of a feed-forward layer") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  FamilyCheck options;
  options.max_candidates = 12;
  for (const int m : {1, 16, 64})
    check_family(gpu, family(),
                 problem("swiglu", weights(m, 2048, 1024, 4, true, DType::f16), DType::f16), oracle,
                 options);
}
