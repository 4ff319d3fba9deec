#include "runtime/driver.h"
#include "templates/gemm/gemm.h"
#include "tests/reference/gemm.h"
#include "tests/support/family_check.h"

using namespace quern;
using namespace quern::test;

namespace {

const GemmFamily family;

Params problem(int m, int n, int k, DType dtype = DType::bf16, DType out = DType::bf16) {
  GemmProblem p;
  p.m = m, p.n = n, p.k = k, p.dtype = dtype, p.out_dtype = out;
  return to_params(p);
}

GemmConfig gemv(int tile_m, int warps_n, int warps_k, int rows, int unroll, int stages,
                bool async_copy) {
  GemmConfig c;
  c.kernel = "gemv";
  c.tile_m = tile_m, c.warps_n = warps_n, c.warps_k = warps_k, c.rows_per_warp = rows;
  c.unroll = unroll, c.stages = stages, c.async_copy = async_copy, c.blocks_per_sm = 2;
  return c;
}

GemmConfig mma(int tile_m, int tile_n, int tile_k, int warps_m, int warps_n, int stages,
               int split_k) {
  GemmConfig c;
  c.tile_m = tile_m, c.tile_n = tile_n, c.tile_k = tile_k, c.warps_m = warps_m;
  c.warps_n = warps_n, c.stages = stages, c.split_k = split_k, c.group_m = 4;
  return c;
}

GemmConfig wgmma(int tile_m, int tile_n, int stages, bool pingpong, int cluster, int split_k,
                 int group_m, int cluster_k = 1) {
  GemmConfig c;
  c.kernel = "wgmma", c.tile_k = 64;
  c.tile_m = tile_m, c.tile_n = tile_n, c.stages = stages, c.pingpong = pingpong;
  c.cluster = cluster, c.split_k = split_k, c.group_m = group_m, c.cluster_k = cluster_k;
  return c;
}

GemmConfig streamed(GemmConfig c) {
  c.stream_k = 1;
  return c;
}

/// Those of the given configs that can run the problem.
std::vector<Params> legal(const Params& p, const std::vector<GemmConfig>& configs,
                          const Arch& arch) {
  std::vector<Params> out;
  for (const GemmConfig& config : configs)
    if (!family.reject_reason(p, to_params(config), arch)) out.push_back(to_params(config));
  return out;
}

constexpr int kRows[] = {1, 2, 3, 7, 8, 15, 16, 17, 33, 64, 65, 129};

}  // namespace

TEST_CASE("every kernel of gemm agrees with loops on the CPU at odd shapes") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  // One of each kind, so that each kernel meets every tail: of rows, columns, chunks and splits.
  std::vector<GemmConfig> configs;
  for (const int tile_m : {1, 2, 4, 8, 16}) {
    configs.push_back(gemv(tile_m, 4, 1, 2, 1, 2, true));
    configs.push_back(gemv(tile_m, 2, 2, 4, 1, 3, false));
    configs.push_back(gemv(tile_m, 1, 1, 1, 1, 1, false));
  }
  configs.push_back(mma(16, 32, 32, 1, 2, 2, 1));
  configs.push_back(mma(32, 64, 64, 2, 2, 3, 2));
  configs.push_back(mma(64, 64, 128, 2, 4, 2, 1));
  configs.push_back(mma(128, 128, 32, 4, 2, 4, 3));
  for (const auto& [n, k] : {std::pair{512, 64}, {511, 172}, {193, 344}, {40, 1030}, {33, 77}})
    for (const int m : kRows) {
      const Params p = problem(m, n, k);
      FamilyCheck check;
      check.max_candidates = 1;
      check.configs = legal(p, configs, gpu.arch());
      check_family(gpu, family, p, reference_gemm, check);
    }
}

TEST_CASE("wgmma at odd shapes, with every schedule") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  QUERN_SKIP_IF(!gpu.arch().has_wgmma(), "the GPU has no wgmma");
  const std::vector<GemmConfig> configs = {
      wgmma(128, 256, 4, false, 1, 1, 8),    wgmma(128, 256, 3, false, 2, 2, 1),
      wgmma(256, 128, 4, false, 2, 1, 4),    wgmma(128, 128, 6, true, 1, 1, 8),
      wgmma(128, 64, 8, true, 2, 1, 1),      wgmma(64, 256, 5, true, 2, 1, 4),
      wgmma(64, 160, 3, true, 1, 1, 4),      wgmma(128, 96, 7, false, 1, 4, 16),
      wgmma(128, 224, 4, false, 1, 1, 4),    wgmma(256, 64, 5, false, 1, 3, 1),
      wgmma(128, 192, 5, true, 2, 1, 8),     wgmma(256, 192, 4, false, 2, 1, 8),
      wgmma(256, 160, 4, false, 1, 2, 4),    wgmma(128, 128, 4, false, 1, 1, 4, 2),
      wgmma(64, 64, 8, true, 1, 1, 1, 2),    wgmma(128, 64, 6, false, 1, 1, 1, 4),
      wgmma(256, 128, 3, false, 1, 1, 4, 2), wgmma(128, 96, 5, true, 1, 1, 4, 2),
      streamed(wgmma(128, 64, 6, false, 1, 1, 4)),
      streamed(wgmma(64, 64, 8, true, 2, 1, 4)),
      streamed(wgmma(128, 256, 4, false, 2, 1, 4)),
      streamed(wgmma(256, 160, 4, false, 1, 1, 4)),
      streamed(wgmma(128, 128, 6, true, 1, 1, 1))};
  // Tails of rows, columns and k; fewer tiles than SMs and more; k of one tile and less.
  for (const auto& [n, k] : {std::pair{512, 64}, {520, 264}, {8, 8}, {1000, 1032}, {2056, 512}})
    for (const int m : {1, 63, 64, 65, 129, 255, 256, 300, 1025})
      for (const DType out : {DType::bf16, DType::f32}) {
        const Params p = problem(m, n, k, DType::bf16, out);
        FamilyCheck check;
        check.max_candidates = 1;
        check.configs = legal(p, configs, gpu.arch());
        check_family(gpu, family, p, reference_gemm, check);
      }
}

TEST_CASE("f16 inputs and f32 outputs") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  FamilyCheck check;
  check.max_candidates = 6;
  for (const int m : {1, 3, 16, 33})
    for (const auto& [dtype, out] :
         {std::pair{DType::f16, DType::f16}, {DType::f16, DType::f32}, {DType::bf16, DType::f32}})
      for (const auto& [n, k] : {std::pair{192, 512}, {127, 132}})
        check_family(gpu, family, problem(m, n, k, dtype, out), reference_gemm, check);
}

TEST_CASE("all candidates of a layer of Llama-3-8B") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  for (const int m : {1, 4, 16, 129})
    check_family(gpu, family, problem(m, 4096, 4096), reference_gemm);
}

TEST_CASE("a long reduction") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  FamilyCheck check;
  check.max_candidates = 8;
  for (const int m : {1, 2, 16, 33})
    check_family(gpu, family, problem(m, 264, 14336, DType::bf16, DType::f32), reference_gemm,
                 check);
}
