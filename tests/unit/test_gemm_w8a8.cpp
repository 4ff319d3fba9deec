#include <algorithm>
#include <string>

#include "compiler/nvrtc.h"
#include "runtime/base/error.h"
#include "templates/common/workspace_args.h"
#include "templates/embedded.h"
#include "templates/gemm_w8a8/gemm_w8a8.h"
#include "tests/support/family_rules.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

const GemmW8A8Family family;

GemmW8A8Problem problem(int m, int n, int k, DType dtype = DType::i8, const char* x_scale = "token",
                        const char* w_scale = "channel") {
  GemmW8A8Problem p;
  p.m = m, p.n = n, p.k = k, p.dtype = dtype, p.x_scale = x_scale, p.w_scale = w_scale;
  return p;
}

GemmW8A8Problem blocks(int m, int n, int k) {
  return problem(m, n, k, DType::e4m3, "group", "block");
}

GemmW8A8Config legal_few_rows() {
  GemmW8A8Config c;
  c.kernel = "few_rows";
  c.tile_m = 8, c.warps_n = 1, c.warps_k = 8, c.unroll = 2, c.stages = 3, c.blocks_per_sm = 2;
  return c;
}

GemmW8A8Config legal_mma() {
  GemmW8A8Config c;
  c.tile_m = 64, c.tile_n = 64, c.tile_k = 128, c.warps_m = 2, c.warps_n = 2, c.stages = 4;
  c.split_k = 1, c.group_m = 8;
  return c;
}

GemmW8A8Config legal_wgmma() {
  GemmW8A8Config c;
  c.kernel = "wgmma";
  c.tile_m = 128, c.tile_n = 128, c.tile_k = 128, c.stages = 6, c.cluster = 2, c.group_m = 8;
  c.cluster_k = 1;
  return c;
}

bool mentions(const std::optional<std::string>& reason, const std::string& words) {
  return reason && reason->find(words) != std::string::npos;
}

}  // namespace

TEST_CASE("what holds of every family holds of gemm_w8a8 with integers") {
  for (const auto& p : {problem(1, 4096, 4096), problem(16, 512, 14336, DType::i8, "tensor"),
                        problem(64, 511, 172), problem(8192, 4096, 4096), problem(3, 33, 77)})
    test::check_family_rules(family, to_params(p));
}

TEST_CASE("candidates of e4m3 are legal where the architecture has its products") {
  for (const Arch& arch : known_archs())
    for (const int m : {1, 7, 16, 17, 2048})
      for (const auto& p : {problem(m, 4096, 4096, DType::e4m3, "tensor", "tensor"),
                            blocks(m, 4096, 14336), blocks(m, 300, 520)}) {
        const Params params = to_params(p);
        INFO(arch.name(), " ", to_text(params));
        if (!arch.has_fp8_mma()) {
          CHECK(mentions(family.unsupported(params, arch), "need sm_89 or later"));
          CHECK_THROWS_AS(family.source(params, to_params(legal_mma()), arch), InputError);
          continue;
        }
        const auto configs = family.candidates(params, arch);
        REQUIRE_FALSE(configs.empty());
        CHECK_LE(configs.size(), 1100);
        CHECK_EQ(configs.front(), family.default_config(params, arch));
        for (const Params& config : configs) {
          CHECK_FALSE(family.reject_reason(params, config, arch));
          CHECK_NE(config["kernel"], "reference");
          if (family.is_library(config)) continue;
          CHECK_LE(family.plan(params, config, arch).smem_bytes,
                   static_cast<unsigned>(arch.smem_per_block_bytes));
        }
      }
}

TEST_CASE("a problem of 8 bits that has no meaning is refused with its reason") {
  const Arch hopper = parse_arch("sm_90a");
  CHECK(mentions(unsupported(problem(1, 64, 64, DType::bf16), hopper), "i8 or e4m3"));
  CHECK(mentions(unsupported(problem(1, 64, 64, DType::i8, "group", "block"), hopper), "e4m3"));
  CHECK(mentions(unsupported(problem(1, 64, 64, DType::e4m3, "group", "channel"), hopper),
                 "group goes with w_scale block"));
  CHECK(mentions(unsupported(problem(1, 64, 64, DType::i8, "row"), hopper),
                 "tensor, token or group"));
  CHECK(mentions(unsupported(problem(1, 64, 64, DType::i8, "token", "row"), hopper),
                 "tensor, channel or block"));
  CHECK(mentions(unsupported(problem(1, 64, 1 << 17), hopper), "may not fit 32 bits"));
  GemmW8A8Problem p = problem(1, 64, 64);
  p.out_dtype = DType::i8;
  CHECK(mentions(unsupported(p, hopper), "bf16, f16 or f32"));
}

TEST_CASE("a config of gemm_w8a8 that cannot run is refused with its reason") {
  const Arch ampere = parse_arch("sm_86"), hopper = parse_arch("sm_90a");
  const GemmW8A8Problem p = problem(1, 4096, 4096);
  REQUIRE_FALSE(reject_reason(p, legal_few_rows(), hopper));
  REQUIRE_FALSE(reject_reason(p, legal_mma(), hopper));

  GemmW8A8Config c = legal_few_rows();
  CHECK(mentions(reject_reason(problem(9, 64, 4096), c, hopper), "more than tile_m = 8"));
  CHECK(mentions(reject_reason(problem(1, 64, 4104), c, hopper), "not a multiple"));
  c.unroll = 1;
  CHECK(mentions(reject_reason(blocks(1, 4096, 4096), c, hopper), "unroll is even"));
  c = legal_few_rows();
  c.tile_m = 16;
  CHECK(mentions(reject_reason(problem(16, 4096, 1 << 14), c, hopper), "shared memory"));
  c.split_k = 2;
  CHECK(mentions(reject_reason(p, c, hopper), "has no tunable split_k"));

  c = legal_mma();
  c.tile_m = 128, c.tile_n = 128;
  CHECK(mentions(reject_reason(p, c, ampere), "131088 bytes of shared memory"));
  c = legal_mma();
  c.tile_k = 64;
  CHECK(mentions(reject_reason(blocks(1, 4096, 4096), c, hopper), "tile_k is 128"));
  c.tile_k = 48;
  CHECK(mentions(reject_reason(p, c, hopper), "tile_k = 48 is not in the space"));
  c = legal_mma();
  c.split_k = 8;
  CHECK(mentions(reject_reason(problem(1, 64, 64), c, hopper), "more than the 1 tiles of k"));
  c.kernel = "marlin";
  CHECK(mentions(reject_reason(p, c, hopper), "'marlin' is not a kernel of gemm_w8a8"));
}

TEST_CASE("a Hopper config of gemm_w8a8 that cannot run is refused with its reason") {
  const Arch hopper = parse_arch("sm_90a");
  const GemmW8A8Problem p = problem(2048, 4096, 4096);
  const GemmW8A8Problem f = problem(2048, 4096, 4096, DType::e4m3, "tensor", "tensor");
  const GemmW8A8Problem b = blocks(2048, 4096, 4096);
  REQUIRE_FALSE(reject_reason(p, legal_wgmma(), hopper));
  CHECK(mentions(reject_reason(p, legal_wgmma(), parse_arch("sm_120a")), "has no wgmma"));
  CHECK(mentions(reject_reason(problem(64, 511, 172), legal_wgmma(), hopper), "whole 16 bytes"));
  CHECK(mentions(reject_reason(b, legal_wgmma(), hopper), "promoted after every 128"));
  CHECK(mentions(reject_reason(problem(64, 4096, 28672, DType::e4m3, "tensor", "tensor"),
                               legal_wgmma(), hopper),
                 "28672 products of e4m3 need promotion"));
  GemmW8A8Config c = legal_wgmma();
  c.promote = 1;
  CHECK_FALSE(reject_reason(f, c, hopper));
  CHECK_FALSE(reject_reason(b, c, hopper));
  CHECK(mentions(reject_reason(p, c, hopper), "exact without promotion"));
  c.tile_n = 96;
  CHECK_FALSE(reject_reason(f, c, hopper));
  CHECK(mentions(reject_reason(b, c, hopper), "one block of scales"));
  c.tile_n = 192;
  CHECK(mentions(reject_reason(f, c, hopper), "288 sums of a thread"));
  c.tile_m = 256, c.tile_n = 64;
  CHECK(mentions(reject_reason(f, c, hopper), "64 rows of a warpgroup, not 128"));
  c = legal_wgmma();
  c.tile_m = 256, c.tile_n = 192, c.stages = 3;
  CHECK_FALSE(reject_reason(f, c, hopper));  // one scale: the epilogue needs few registers
  CHECK(mentions(reject_reason(p, c, hopper), "192 sums of a thread"));
  c = legal_wgmma();
  c.stages = 8;
  CHECK(mentions(reject_reason(p, c, hopper), "shared memory"));
  c = legal_wgmma();
  c.tile_m = 64;
  CHECK(mentions(reject_reason(p, c, hopper), "64 rows for each warpgroup"));
}

TEST_CASE("the kernel of Hopper for 8 bits gets its operands as tensor maps") {
  const auto maps =
      family.tensor_maps(to_params(problem(100, 4096, 1024)), to_params(legal_wgmma()));
  REQUIRE_EQ(maps.size(), 2);
  CHECK_EQ(maps[0].operand, 0);
  CHECK_EQ(maps[0].rows, 100);
  CHECK_EQ(maps[0].columns, 512);  // pairs of elements
  CHECK_EQ(maps[1].offset, 128);
  CHECK_EQ(maps[1].box_rows, 64);  // a block of a cluster fetches half of w
  CHECK(family.tensor_maps(to_params(problem(100, 64, 64)), to_params(legal_mma())).empty());
}

TEST_CASE("cuBLASLt serves e4m3 with a scale for each tensor, and nothing else of 8 bits") {
  const Arch hopper = parse_arch("sm_90a");
  GemmW8A8Config c;
  c.kernel = "cublaslt";
  c.algorithm = 3;
  const auto p = problem(64, 4096, 4096, DType::e4m3, "tensor", "tensor");
  CHECK_FALSE(reject_reason(p, c, hopper));
  CHECK(family.is_library(to_params(c)));
  const LibraryMatmul matmul = family.library_matmul(to_params(p), to_params(c));
  CHECK(matmul.scaled);
  CHECK_EQ(matmul.rank, 3);
  CHECK(mentions(reject_reason(problem(64, 4096, 4096), c, hopper), "scales of tensors"));
  CHECK(mentions(reject_reason(blocks(64, 4096, 4096), c, hopper), "scales of tensors"));
  CHECK(mentions(reject_reason(problem(64, 4088, 4096, DType::e4m3, "tensor", "tensor"), c, hopper),
                 "multiples of 16"));
  c.algorithm = 8;
  CHECK(mentions(reject_reason(p, c, hopper), "not between 0 and 7"));
}

TEST_CASE("absurd numbers are refused by gemm_w8a8, not computed with") {
  test::check_family_refuses_nonsense(family, to_params(problem(1, 4096, 4096)));
  test::check_family_refuses_nonsense(family, to_params(problem(64, 511, 172)));
}

TEST_CASE("operands of 8-bit products: scales have the shape of their scheme") {
  const auto shape = [&](const GemmW8A8Problem& p, std::size_t operand) {
    return family.operands(to_params(p)).at(operand).shape;
  };
  using Shape = std::vector<std::int64_t>;
  CHECK_EQ(shape(problem(5, 300, 520), 2), Shape{5});
  CHECK_EQ(shape(problem(5, 300, 520), 3), Shape{300});
  CHECK_EQ(shape(problem(5, 300, 520, DType::i8, "tensor", "tensor"), 2), Shape{1});
  CHECK_EQ(shape(problem(5, 300, 520, DType::i8, "tensor", "tensor"), 3), Shape{1});
  CHECK_EQ(shape(blocks(5, 300, 520), 2), Shape{5, 5});
  CHECK_EQ(shape(blocks(5, 300, 520), 3), Shape{3, 5});
}

TEST_CASE("split sums of 8-bit products get counters and room") {
  const Arch arch = parse_arch("sm_90a");
  GemmW8A8Config c = legal_mma();
  c.split_k = 4;
  const LaunchPlan split = plan(problem(3, 4096, 4096), c, arch);
  CHECK_EQ(split.grid[0], 64u * 4);
  CHECK_EQ(split.workspace_bytes, kCounterBytes + std::size_t{64} * 4 * 64 * 64 * 4);
}

TEST_CASE("kernels of gemm_w8a8 compile for every architecture without spilling") {
  const Nvrtc nvrtc;
  for (const Arch& arch : known_archs())
    for (const auto& p : {problem(1, 4096, 4096), problem(512, 511, 172),
                          problem(16, 4096, 4096, DType::e4m3, "tensor", "tensor"),
                          blocks(8, 4096, 4096), blocks(512, 511, 172)}) {
      if (unsupported(p, arch)) continue;
      const Params params = to_params(p);
      std::vector<Params> configs = {family.default_config(params, arch)};
      if (arch.cc() == 80 || arch.cc() == 90) configs.push_back(family.reference_config(params));
      for (const Params& config : configs) {
        INFO(arch.name(), " ", to_text(params), " ", to_text(config));
        const KernelSource source = family.source(params, config, arch);
        const KernelImage image = nvrtc.compile(
            {"gemm_w8a8", source.source, source.entry, arch, source.options}, embedded_templates());
        CHECK_FALSE(image.cubin.empty());
        CHECK_EQ(image.report.spill_store_bytes + image.report.spill_load_bytes, 0);
        CHECK_EQ(image.report.stack_bytes, 0);
      }
    }
}

TEST_CASE("kernels of Hopper for 8 bits compile without spilling or waits of the compiler's") {
  const Nvrtc nvrtc;
  const Arch arch = parse_arch("sm_90a");
  const auto check = [&](const GemmW8A8Problem& p, int tile_m, int tile_n, bool pingpong,
                         int promote, int cluster_k = 1) {
    GemmW8A8Config c = legal_wgmma();
    if (cluster_k > 1) c.cluster = 1, c.cluster_k = cluster_k;
    c.tile_m = tile_m, c.tile_n = tile_n, c.stages = 4, c.pingpong = pingpong, c.promote = promote;
    const Params params = to_params(p), config = to_params(c);
    INFO(to_text(params), " ", to_text(config));
    const KernelSource source = family.source(params, config, arch);
    const KernelImage image = nvrtc.compile(
        {"gemm_w8a8", source.source, source.entry, arch, source.options}, embedded_templates());
    CHECK_EQ(image.report.spill_store_bytes + image.report.spill_load_bytes, 0);
    CHECK_EQ(image.report.stack_bytes, 0);
    CHECK_FALSE(image.report.pipeline_warning);
  };
  const auto tensor = problem(2048, 4096, 4096, DType::e4m3, "tensor", "tensor");
  check(problem(2048, 4096, 4096), 128, 256, false, 0);
  check(problem(2048, 4096, 4096), 128, 128, true, 0);
  check(tensor, 128, 256, false, 0);
  check(tensor, 128, 128, false, 1);
  check(tensor, 128, 96, false, 1);
  check(tensor, 64, 128, true, 1);
  auto rows = problem(8192, 28672, 4096, DType::e4m3, "token", "channel");
  check(rows, 128, 256, false, 0);
  check(rows, 128, 128, true, 0);
  check(rows, 128, 128, false, 1);
  rows.k = 14336, rows.out_dtype = DType::f32;
  check(rows, 128, 256, false, 0);
  check(rows, 128, 128, true, 0);
  check(rows, 128, 128, false, 1);
  check(blocks(2048, 4096, 4096), 128, 128, false, 1);
  check(problem(64, 4096, 4096), 128, 64, false, 0, 2);
  check(blocks(64, 4096, 14336), 64, 64, true, 1, 2);
  check(blocks(2048, 4096, 2192), 128, 128, false, 1);
  check(blocks(64, 4096, 4096), 64, 64, true, 1);
}

TEST_CASE("blocks of a cluster share the k of a tile evenly, and scales of four blocks whole") {
  const Arch arch = parse_arch("sm_90a");
  const auto reason = [&](const GemmW8A8Problem& p, int cluster, int tile_n) {
    GemmW8A8Config c = legal_wgmma();
    c.cluster = cluster, c.cluster_k = 2, c.tile_n = tile_n, c.stages = 4, c.promote = 1;
    if (p.dtype == DType::i8) c.promote = 0;
    return family.reject_reason(to_params(p), to_params(c), arch);
  };
  CHECK_FALSE(reason(problem(64, 4096, 256), 1, 64));
  CHECK_FALSE(reason(blocks(64, 4096, 1024), 1, 64));
  CHECK(mentions(reason(problem(64, 4096, 256), 2, 64), "not both"));
  CHECK(mentions(reason(problem(64, 4096, 384), 1, 64), "3 steps of k evenly"));
  CHECK(mentions(reason(blocks(64, 4096, 1536), 1, 64), "12 steps of k evenly"));
}
