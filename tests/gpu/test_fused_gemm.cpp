#include <string>
#include <vector>

#include "runtime/driver.h"
#include "templates/embedded.h"
#include "tests/reference/fused_gemm.h"
#include "tests/support/family_check.h"

using namespace quern;
using namespace quern::test;

namespace {

const FusedGemmFamily& family() {
  static const FusedGemmFamily shipped(embedded_templates());
  return shipped;
}

/// Dtypes of the epilogue's parameters: B of biases, R of residuals, Q of codes, Y of results.
Params problem(const std::string& epilogue, int m, int n, int k, DType y = DType::bf16,
               DType q = DType::e4m3, bool normalised = false) {
  Params out = {{"m", m},
                {"n", n},
                {"k", k},
                {"dtype", y == DType::f16 ? "f16" : "bf16"},
                {"prologue", normalised ? "rmsnorm" : ""},
                {"epilogue", epilogue}};
  if (normalised) {
    out["eps"] = 1e-5;
    out["stream"] = "bf16";
  }
  for (const std::string& param : family().epilogues().at(epilogue).kernel().dtype_params())
    out[param] = std::string(name(param == "Q" ? q : param == "B" ? DType::bf16 : y));
  return out;
}

void check(GpuFixture& gpu, const Params& p, const std::vector<GemmConfig>& configs) {
  FamilyCheck options;
  options.max_candidates = 1;
  for (const GemmConfig& config : configs)
    if (!family().reject_reason(p, to_params(config), gpu.arch()))
      options.configs.push_back(to_params(config));
  check_family(
      gpu, family(), p,
      [](const Params& problem, std::span<HostTensor> operands) {
        reference_fused_gemm(family(), problem, operands);
      },
      options);
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
                 int cluster_k = 1) {
  GemmConfig c;
  c.kernel = "wgmma", c.tile_k = 64, c.group_m = 4;
  c.tile_m = tile_m, c.tile_n = tile_n, c.stages = stages, c.pingpong = pingpong;
  c.cluster = cluster, c.split_k = split_k, c.cluster_k = cluster_k;
  return c;
}

/// One of each kind, so that every way to the epilogue is taken: sums in one lane and in several,
/// of one warp and of several, tails of rows and of columns, splits of k.
std::vector<GemmConfig> kinds() {
  std::vector<GemmConfig> out;
  for (const int tile_m : {1, 4, 16}) {
    out.push_back(gemv(tile_m, 4, 1, 2, 1, 2, true));
    out.push_back(gemv(tile_m, 2, 2, 4, 1, 3, false));
    out.push_back(gemv(tile_m, 1, 4, 8, 1, 2, true));
  }
  out.push_back(gemv(16, 4, 1, 4, 1, 2, true));
  out.push_back(gemv(1, 4, 1, 1, 1, 2, false));
  out.push_back(mma(16, 32, 32, 1, 2, 2, 1));
  out.push_back(mma(16, 64, 64, 1, 2, 3, 2));
  out.push_back(mma(64, 64, 64, 2, 2, 3, 1));
  out.push_back(mma(64, 64, 32, 2, 2, 2, 2));
  out.push_back(wgmma(128, 128, 4, false, 1, 1));
  out.push_back(wgmma(128, 96, 4, true, 1, 1));
  out.push_back(wgmma(128, 224, 3, false, 2, 1));
  out.push_back(wgmma(128, 64, 4, false, 1, 2));
  out.push_back(wgmma(128, 128, 4, false, 1, 1, 2));
  out.push_back(wgmma(64, 64, 8, true, 1, 1, 2));
  return out;
}

}  // namespace

TEST_CASE("every epilogue in every kernel agrees with its CPU build") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  for (const auto& [name, epilogue] : family().epilogues())
    for (const int m : {1, 7, 16, 65, 200}) {
      check(gpu, problem(name, m, 528, 264), kinds());
      if (epilogue.kernel().name().find("quantise") != std::string::npos)
        check(gpu, problem(name, m, 528, 264, DType::bf16, DType::i8), kinds());
    }
}

TEST_CASE("epilogues at odd shapes and of other dtypes") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  for (const int m : {1, 3, 17, 66}) {
    for (const auto& [n, k] : {std::pair{511, 172}, {33, 77}, {8, 8}})
      for (const std::string epilogue : {"bias_gelu", "add", "quantise"})
        check(gpu, problem(epilogue, m, n, k), kinds());
    for (const auto& [n, k] : {std::pair{16, 64}, {48, 132}, {2064, 72}})
      check(gpu, problem("swiglu", m, n, k), kinds());
    for (const DType y : {DType::f16, DType::f32})
      for (const std::string epilogue : {"swiglu", "bias_silu", "add"})
        check(gpu, problem(epilogue, m, 272, 136, y), kinds());
  }
}

TEST_CASE("x is normalised on its way") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  for (const int m : {1, 2, 7, 16})
    for (const auto& [n, k] : {std::pair{528, 264}, {48, 132}, {272, 4096}})
      for (const std::string epilogue : {"swiglu", "cast", "bias"}) {
        Params p = problem(epilogue, m, n, k, DType::bf16, DType::e4m3, true);
        check(gpu, p, kinds());
        p["stream"] = "f32";
        check(gpu, p, kinds());
      }
}

TEST_CASE("candidates for gate and up of a feed-forward layer") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  FamilyCheck options;
  options.max_candidates = 12;
  for (const int m : {1, 16, 130})
    check_family(
        gpu, family(), problem("swiglu", m, 2048, 1024),
        [](const Params& p, std::span<HostTensor> operands) {
          reference_fused_gemm(family(), p, operands);
        },
        options);
}
