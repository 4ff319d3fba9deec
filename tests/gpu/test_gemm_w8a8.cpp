#include <cmath>
#include <string>
#include <vector>

#include "autotune/launch_args.h"
#include "autotune/operands.h"
#include "autotune/row_family.h"
#include "runtime/driver.h"
#include "templates/embedded.h"
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

GemmW8A8Config wgmma(int tile_m, int tile_n, int stages, bool pingpong, int cluster, int promote,
                     int cluster_k = 1) {
  GemmW8A8Config c;
  c.kernel = "wgmma";
  c.tile_m = tile_m, c.tile_n = tile_n, c.tile_k = 128, c.stages = stages, c.pingpong = pingpong;
  c.cluster = cluster, c.promote = promote, c.group_m = 4, c.cluster_k = cluster_k;
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
    for (const auto& [n, k] : {std::pair{511, 172}, {193, 400}, {40, 1040}, {33, 77}})
      for (const int m : kRows) {
        const Params p = problem(m, n, k, scheme);
        if (!can_run(p, gpu)) continue;
        FamilyCheck check;
        check.max_candidates = 1;
        check.configs = legal(p, configs, gpu.arch());
        check_family(gpu, family, p, reference_gemm_w8a8, check);
      }
}

TEST_CASE("Hopper's kernel of gemm_w8a8 and cuBLASLt agree with loops on the CPU at odd shapes") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  std::vector<GemmW8A8Config> configs;
  for (const int promote : {0, 1}) {
    configs.push_back(wgmma(128, 128, 6, false, 1, promote));
    configs.push_back(wgmma(128, 64, 5, false, 2, promote));
    configs.push_back(wgmma(64, 32, 8, true, 2, promote));
    configs.push_back(wgmma(128, 96, 4, false, 2, promote));
    configs.push_back(wgmma(128, 64, 4, false, 1, promote, 2));
    configs.push_back(wgmma(64, 64, 6, true, 1, promote, 2));
  }
  configs.push_back(wgmma(256, 64, 5, false, 2, 0));
  configs.push_back(wgmma(128, 192, 4, false, 2, 0));
  configs.push_back(wgmma(128, 128, 4, true, 1, 0));
  GemmW8A8Config library;
  library.kernel = "cublaslt";
  for (library.algorithm = 0; library.algorithm < 3; ++library.algorithm)
    configs.push_back(library);
  for (const Scheme& scheme : kSchemes)
    // One stage; two; 13, whose scales are not aligned; 36, which is more than are promoted at
    // once; 8 and more tiles than clusters, whose blocks take them in turns.
    for (const auto& [n, k] :
         {std::pair{512, 64}, {504, 176}, {264, 1552}, {136, 4608}, {1032, 1024}})
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
      if (const Params p = problem(m, 1024, 4096, scheme); can_run(p, gpu))
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

namespace {

/// Runs a problem's default kernel and waits.
void run_default(const GpuFixture& gpu, const Family& of, const Params& p,
                 const std::vector<std::uint64_t>& addresses) {
  const Params config = of.default_config(p, gpu.arch());
  const KernelSource source = of.source(p, config, gpu.arch());
  const Module module(
      compile(source.source, source.entry, gpu.arch(), embedded_templates(), source.options).cubin);
  const LaunchPlan plan = of.plan(p, config, gpu.arch());
  Buffer workspace;
  if (plan.workspace_bytes > 0) {
    workspace = Buffer(plan.workspace_bytes);
    fill_bytes(workspace.address(), 0, plan.workspace_bytes, gpu.stream);
  }
  const auto args = launch_args(of, p, config, addresses, workspace.address());
  launch(gpu.stream, module.function(source.entry), plan, args.data(), args.size());
  gpu.stream.synchronize();
}

}  // namespace

TEST_CASE("what the quantising norms write is what gemm_w8a8 reads") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  const RowFamily rows(embedded_templates());
  constexpr std::size_t n = 200, k = 512;
  constexpr double eps = 1e-5;
  struct Pair {
    const char* kernel;
    Scheme scheme;
    double bound;  // of the error, six standard deviations of that of a code
  };
  for (const Pair& pair :
       {Pair{"rmsnorm_quantise_int8", {DType::i8, "token", "channel"}, 0.06},
        Pair{"rmsnorm_quantise_fp8", {DType::e4m3, "token", "channel"}, 0.2},
        Pair{"rmsnorm_quantise_fp8_static", {DType::e4m3, "tensor", "tensor"}, 0.2},
        Pair{"rmsnorm_quantise_fp8_group", {DType::e4m3, "group", "block"}, 0.2}})
    for (const std::size_t m : {1u, 5u, 40u}) {
      const Params p = problem(static_cast<int>(m), n, k, pair.scheme, DType::f32);
      if (!can_run(p, gpu)) continue;
      INFO(pair.kernel, " ", to_text(p));
      const auto specs = family.operands(p);
      const HostTensor w = random_tensor(specs[1], 7), w_scales = random_tensor(specs[3], 8);
      const auto x = rounded(random_values(m * k, 9), DType::bf16);
      const auto gamma = rounded(random_values(k, 10), DType::bf16);
      const bool is_static = pair.scheme.x_scale == std::string("tensor");
      const bool grouped = pair.scheme.x_scale == std::string("group");
      constexpr float kStatic = 1.0f / 128;
      RowValues values;
      values.axes = {{"rows", static_cast<std::int64_t>(m)}};
      if (grouped)
        values.axes["groups"] = k / 128, values.axes["lanes"] = 128;
      else
        values.axes["cols"] = k;
      values.dtypes["T"] = DType::bf16;
      values.scalars["eps"] = eps;
      if (is_static) values.scalars["scale"] = kStatic;

      const Buffer x_in = upload(encode(x, DType::bf16), gpu.stream);
      const Buffer gamma_in = upload(encode(gamma, DType::bf16), gpu.stream);
      const Buffer w_in = upload(w.data, gpu.stream), sw_in = upload(w_scales.data, gpu.stream);
      const GuardedBuffer codes(m * k, gpu.stream), y(m * n * 4, gpu.stream);
      const GuardedBuffer scales(specs[2].size_bytes(), gpu.stream);
      std::vector<std::uint64_t> of_norm = {x_in.address(), gamma_in.address(), codes.address()};
      if (is_static)
        copy_to_device(scales.address(), &kStatic, sizeof kStatic, gpu.stream);
      else
        of_norm.push_back(scales.address());
      run_default(gpu, rows, rows.problem(pair.kernel, values), of_norm);
      run_default(
          gpu, family, p,
          {codes.address(), w_in.address(), scales.address(), sw_in.address(), y.address()});

      std::vector<float> wanted(m * n);
      for (std::size_t i = 0; i < m; ++i) {
        double square = 0;
        for (std::size_t l = 0; l < k; ++l) square += std::pow(x[i * k + l], 2);
        const double inverse = 1 / std::sqrt(square / k + eps);
        for (std::size_t j = 0; j < n; ++j) {
          double sum = 0;
          for (std::size_t l = 0; l < k; ++l) {
            const std::size_t at = grouped ? j / 128 * (k / 128) + l / 128 : is_static ? 0 : j;
            sum += x[i * k + l] * inverse * gamma[l] *
                   element(pair.scheme.dtype, w.data.data(), j * k + l) *
                   element(DType::f32, w_scales.data.data(), at);
          }
          wanted[i * n + j] = static_cast<float>(sum);
        }
      }
      CHECK(codes.intact(gpu.stream));
      CHECK(scales.intact(gpu.stream));
      QUERN_CHECK_CLOSE(y.download<float>(gpu.stream), wanted, pair.bound, 0.02);
    }
}
