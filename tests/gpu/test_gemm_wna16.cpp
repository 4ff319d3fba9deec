#include "runtime/driver.h"
#include "templates/gemm_wna16/gemm_wna16.h"
#include "templates/gemm_wna16/repack.h"
#include "tests/reference/gemm_wna16.h"
#include "tests/support/family_check.h"
#include "tests/support/wna16_kinds.h"

using namespace quern;
using namespace quern::test;

namespace {

const GemmWna16Family family;

GemmWna16Problem problem(int m, int n, int k, int bits, int group_size, bool zero_points,
                         DType dtype = DType::bf16, DType out = DType::bf16) {
  GemmWna16Problem p;
  p.m = m, p.n = n, p.k = k, p.bits = bits, p.group_size = group_size;
  p.zero_points = zero_points, p.dtype = dtype, p.out_dtype = out;
  return p;
}

void check(GpuFixture& gpu, const GemmWna16Problem& p) {
  FamilyCheck options;
  options.max_candidates = 1;
  options.configs = wna16_kinds(p, gpu.arch());
  check_family(gpu, family, to_params(p), reference_gemm_wna16, options);
}

constexpr int kRows[] = {1, 2, 3, 7, 8, 15, 16, 17, 33, 64, 65, 129};

}  // namespace

TEST_CASE("every kernel of gemm_wna16 agrees with loops on the CPU at odd shapes") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  for (const int m : kRows) {
    check(gpu, problem(m, 208, 1088, 4, 64, false));
    check(gpu, problem(m, 336, 704, 8, 64, true));
    if (m > 16) continue;
    check(gpu, problem(m, 208, 1152, 4, 64, true));
    check(gpu, problem(m, 4368, 768, 8, 128, false));
  }
}

TEST_CASE("every group size, with and without zero points, of both widths and dtypes") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  for (const int bits : {4, 8})
    for (const int group_size : {32, 64, 128, 640})
      for (const bool zero_points : {false, true})
        for (const auto& [dtype, out] :
             {std::pair{DType::bf16, DType::bf16}, {DType::f16, DType::f32}})
          for (const int m : {3, 16, 40})
            check(gpu, problem(m, 80, 640, bits, group_size, zero_points, dtype, out));
}

TEST_CASE("slices in every kind of cluster, with x held and staged, at layers of Llama-3-8B") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  const auto run = [&](const GemmWna16Problem& p, const std::vector<GemmWna16Config>& configs) {
    FamilyCheck options;
    options.max_candidates = 0;
    for (const GemmWna16Config& c : configs)
      if (!reject_reason(p, c, gpu.arch())) options.configs.push_back(to_params(c));
    if (!options.configs.empty())
      check_family(gpu, family, to_params(p), reference_gemm_wna16, options);
  };
  for (const int m : {1, 7, 13}) {
    const int tile = m == 1 ? 1 : m == 7 ? 8 : 16;
    const auto p = problem(m, 2128, 4096, 4, 128, true);
    run(p, {wna16_slices(p, tile, 16, 2, 3, 1), wna16_slices(p, tile, 8, 2, 4, 2, 2),
            wna16_slices(p, tile, 8, 1, 5, 4), wna16_slices(p, tile, 8, 2, 3, 2, 1, 2),
            wna16_slices(p, tile, 8, 2, 2, 2, 1, 2), wna16_slices(p, tile, 4, 1, 5, 8)});
    const auto long_k = problem(m, 272, 14336, 4, 128, false, DType::f16, DType::f32);
    run(long_k, {wna16_slices(long_k, tile, 14, 1, 3, 8), wna16_slices(long_k, tile, 14, 2, 2, 4),
                 wna16_slices(long_k, tile, 16, 1, 4, 1), wna16_slices(long_k, tile, 8, 1, 8, 2)});
  }
}

TEST_CASE("candidates of a layer of Llama-3-8B") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  FamilyCheck options;
  options.max_candidates = 20;
  for (const int m : {1, 16, 64, 255})
    check_family(gpu, family, to_params(problem(m, 1024, 4096, 4, 128, false)),
                 reference_gemm_wna16, options);
}

TEST_CASE("checkpoints of every source are repacked as loops on the CPU do it") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  const auto family = make_wna16_repack_family();
  for (const char* source : {"awq", "gptq", "gptq_v2", "packed", "int8"})
    for (const char* part : {"codes", "scales", "zeros"})
      for (const bool act_order : {false, true})
        for (const bool interleaved : {false, true})
          for (const auto& [n, k] : {std::pair{16, 64}, {272, 320}, {1024, 128}, {48, 4160}}) {
            Wna16RepackProblem p;
            p.source = source, p.part = part, p.act_order = act_order, p.n = n, p.k = k;
            p.interleaved = interleaved;
            if (!family->unsupported(to_params(p), gpu.arch()))
              check_family(gpu, *family, to_params(p));
          }
}
