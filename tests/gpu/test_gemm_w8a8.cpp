#include <string>
#include <vector>

#include "runtime/driver.h"
#include "templates/gemm_w8a8/gemm_w8a8.h"
#include "tests/reference/gemm_w8a8.h"
#include "tests/support/family_check.h"

using namespace quern;
using namespace quern::test;

namespace {

const GemmW8A8Family family;

struct Scheme {
  DType dtype;
  const char *x_scale, *w_scale;
};
const Scheme kSchemes[] = {{DType::i8, "token", "channel"},   {DType::i8, "tensor", "tensor"},
                           {DType::e4m3, "tensor", "tensor"}, {DType::e4m3, "token", "channel"},
                           {DType::e4m3, "group", "block"},   {DType::i8, "tensor", "channel"}};

Params problem(int m, int n, int k, const Scheme& scheme, DType out = DType::bf16) {
  GemmW8A8Problem p;
  p.m = m, p.n = n, p.k = k, p.dtype = scheme.dtype, p.out_dtype = out;
  p.x_scale = scheme.x_scale, p.w_scale = scheme.w_scale;
  return to_params(p);
}

GemmW8A8Config few_rows(int tile_m, int warps_n, int warps_k, int unroll, int stages) {
  GemmW8A8Config c;
  c.kernel = "few_rows";
  c.tile_m = tile_m, c.warps_n = warps_n, c.warps_k = warps_k, c.unroll = unroll;
  c.stages = stages, c.blocks_per_sm = 1;
  return c;
}

GemmW8A8Config mma(int tile_m, int tile_n, int tile_k, int warps_m, int warps_n, int stages,
                   int split_k) {
  GemmW8A8Config c;
  c.tile_m = tile_m, c.tile_n = tile_n, c.tile_k = tile_k, c.warps_m = warps_m;
  c.warps_n = warps_n, c.stages = stages, c.split_k = split_k, c.group_m = 4;
  return c;
}

GemmW8A8Config wgmma(int tile_m, int tile_n, int stages, bool pingpong, int cluster, int promote) {
  GemmW8A8Config c;
  c.kernel = "wgmma";
  c.tile_m = tile_m, c.tile_n = tile_n, c.tile_k = 128, c.stages = stages, c.pingpong = pingpong;
  c.cluster = cluster, c.promote = promote, c.group_m = 4;
  return c;
}

/// Those of the given configs that can run the problem.
std::vector<Params> legal(const Params& p, const std::vector<GemmW8A8Config>& configs,
                          const Arch& arch) {
  std::vector<Params> out;
  for (const GemmW8A8Config& config : configs)
    if (!family.reject_reason(p, to_params(config), arch)) out.push_back(to_params(config));
  return out;
}

bool can_run(const Params& p, const GpuFixture& gpu) { return !family.unsupported(p, gpu.arch()); }

constexpr int kRows[] = {1, 2, 3, 7, 8, 15, 16, 17, 33, 64, 65, 129};

}  // namespace

TEST_CASE("every kernel of gemm_w8a8 agrees with loops on the CPU at odd shapes") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  // Each kernel meets every tail: of rows, columns, chunks, blocks of scales and splits.
  std::vector<GemmW8A8Config> configs;
  for (const int tile_m : {8, 16}) {
    configs.push_back(few_rows(tile_m, 4, 1, 2, 2));
    configs.push_back(few_rows(tile_m, 2, 2, 2, 3));
    configs.push_back(few_rows(tile_m, 1, 4, 1, 4));
  }
  configs.push_back(mma(16, 32, 64, 1, 2, 2, 1));
  configs.push_back(mma(32, 64, 128, 2, 2, 3, 2));
  configs.push_back(mma(64, 64, 128, 2, 4, 2, 1));
  configs.push_back(mma(64, 128, 64, 4, 2, 4, 3));
  for (const Scheme& scheme : kSchemes)
    for (const auto& [n, k] :
         {std::pair{512, 64}, {511, 172}, {193, 400}, {40, 1040}, {33, 77}, {300, 520}})
      for (const int m : kRows) {
        const Params p = problem(m, n, k, scheme);
        if (!can_run(p, gpu)) continue;
        FamilyCheck check;
        check.max_candidates = 1;
        check.configs = legal(p, configs, gpu.arch());
        check_family(gpu, family, p, reference_gemm_w8a8, check);
      }
}

TEST_CASE("Hopper's kernel of gemm_w8a8 agrees with loops on the CPU at odd shapes") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  std::vector<GemmW8A8Config> configs;
  for (const bool pingpong : {false, true})
    for (const int cluster : {1, 2})
      for (const int promote : {0, 1, 4}) {
        configs.push_back(wgmma(128, 128, 4, pingpong, cluster, promote));
        configs.push_back(wgmma(pingpong ? 64 : 256, 64, 5, pingpong, cluster, promote));
        configs.push_back(wgmma(128, 192, 4, false, cluster, promote));
      }
  for (const Scheme& scheme : kSchemes)
    for (const auto& [n, k] : {std::pair{512, 64}, {504, 176}, {264, 1552}, {40, 1040}})
      for (const int m : {17, 64, 129, 300}) {
        const Params p = problem(m, n, k, scheme, m == 64 ? DType::f32 : DType::bf16);
        if (!can_run(p, gpu)) continue;
        FamilyCheck check;
        check.max_candidates = 1;
        check.configs = legal(p, configs, gpu.arch());
        check_family(gpu, family, p, reference_gemm_w8a8, check);
      }
}

TEST_CASE("outputs of gemm_w8a8 in every dtype") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  FamilyCheck check;
  check.max_candidates = 5;
  for (const Scheme& scheme : kSchemes)
    for (const DType out : {DType::f16, DType::f32})
      for (const int m : {1, 16, 33})
        for (const auto& [n, k] : {std::pair{192, 512}, {127, 132}})
          if (const Params p = problem(m, n, k, scheme, out); can_run(p, gpu))
            check_family(gpu, family, p, reference_gemm_w8a8, check);
}

TEST_CASE("candidates of gemm_w8a8 for a layer of Llama-3-8B") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  FamilyCheck check;
  check.max_candidates = 12;
  for (const Scheme& scheme : {kSchemes[0], kSchemes[3], kSchemes[4]})
    for (const int m : {1, 16, 129})
      if (const Params p = problem(m, 4096, 4096, scheme); can_run(p, gpu))
        check_family(gpu, family, p, reference_gemm_w8a8, check);
}

TEST_CASE("a long reduction of 8-bit products") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  FamilyCheck check;
  check.max_candidates = 6;
  for (const Scheme& scheme : kSchemes)
    for (const int m : {1, 16, 33})
      if (const Params p = problem(m, 264, 14336, scheme, DType::f32); can_run(p, gpu))
        check_family(gpu, family, p, reference_gemm_w8a8, check);
}
