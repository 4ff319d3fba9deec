#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "compiler/nvrtc.h"
#include "runtime/base/error.h"
#include "templates/embedded.h"
#include "templates/gemm_wna16/gemm_wna16.h"
#include "templates/gemm_wna16/gemm_wna16_args.h"
#include "templates/gemm_wna16/repack.h"
#include "tests/support/family_rules.h"
#include "tests/support/spread.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

const GemmWna16Family family;

GemmWna16Problem problem(int m, int n, int k, int bits = 4, int group_size = 128,
                         bool zero_points = false) {
  GemmWna16Problem p;
  p.m = m, p.n = n, p.k = k, p.bits = bits, p.group_size = group_size, p.zero_points = zero_points;
  return p;
}

GemmWna16Config slices(int tile_m, int warps_n, int warps_k, int units, int stages,
                       int blocks_per_sm, int cluster_k) {
  GemmWna16Config c;
  c.kernel = "slices";
  c.tile_m = tile_m, c.warps_n = warps_n, c.warps_k = warps_k, c.units = units;
  c.stages = stages, c.blocks_per_sm = blocks_per_sm, c.cluster_k = cluster_k;
  return c;
}

bool mentions(const std::optional<std::string>& reason, const std::string& words) {
  return reason && reason->find(words) != std::string::npos;
}

}  // namespace

TEST_CASE("gemm_wna16 keeps the rules of a family") {
  for (const int m : {3, 15, 17, 64, 8191})
    test::check_family_rules(family, to_params(problem(m, 4096, 4096)));
  test::check_family_rules(family, to_params(problem(5, 1280, 8192, 4, 32, true)));
  test::check_family_rules(family, to_params(problem(7, 4096, 11008, 8, 11008)));
  test::check_family_rules(family, to_params(problem(33, 16, 64, 8, 64, true)));
  test::check_family_refuses_nonsense(family, to_params(problem(16, 4096, 4096)));
}

TEST_CASE("gemm_wna16 has a legal space at every number of rows") {
  for (const Arch& arch : known_archs())
    for (const int m : {1, 8, 16}) {
      const Params p = to_params(problem(m, 4096, 4096));
      const RankedSpace ranked = family.ranked_space(p, arch);
      REQUIRE_FALSE(ranked.configs.empty());
      CHECK_LE(ranked.configs.size(), 1100);
      for (const Params& config : test::spread(ranked.configs, 20)) {
        INFO(arch.name(), " ", to_text(p), " ", to_text(config));
        CHECK_FALSE(family.reject_reason(p, config, arch));
        CHECK_GE(family.plan(p, config, arch).grid[0], 1);
      }
    }
}

TEST_CASE("gemm_wna16 compiles for every architecture without spilling") {
  for (const int m : {1, 16, 256})
    test::check_family_compiles(family, to_params(problem(m, 4096, 4096)), 1);
  test::check_family_compiles(family, to_params(problem(8, 208, 1088, 8, 64, true)), 0);
}

TEST_CASE("gemm_wna16's wgmma says why a config cannot run") {
  const Arch arch = parse_arch("sm_90a");
  GemmWna16Config good;
  good.kernel = "wgmma";
  good.tile_m = 64, good.tile_n = 128, good.warps_n = 8, good.warps_k = 1, good.units = 4;
  good.stages = 3, good.split_k = 1, good.group_m = 1;
  good.cluster_m = good.cluster_n = good.cluster_k = 1;
  const GemmWna16Problem p = problem(64, 4096, 4096);
  REQUIRE_FALSE(reject_reason(p, good, arch));
  const auto why = [&](auto&& change) {
    GemmWna16Config c = good;
    change(c);
    return reject_reason(p, c, arch);
  };
  CHECK(mentions(reject_reason(p, good, parse_arch("sm_80")), "sm_80 has no wgmma"));
  CHECK(mentions(why([](auto& c) { c.warps_n = 4; }), "not two to four warpgroups"));
  CHECK(mentions(why([](auto& c) { c.warps_k = 4; }), "two along k at most"));
  CHECK(mentions(why([](auto& c) { c.warps_k = 2, c.units = 1; }), "do not share 64 columns"));
  CHECK(mentions(why([](auto& c) { c.tile_n = 192; }), "not whole 64 rows for each of 2"));
  CHECK(mentions(why([](auto& c) { c.tile_n = 256, c.tile_m = 256, c.units = 1; }),
                 "256 sums of a thread are more than 128"));
  CHECK(mentions(why([](auto& c) { c.cluster_k = 4, c.cluster_n = 4; }), "at most 8 blocks"));
  CHECK(mentions(why([](auto& c) { c.tile_m = 16, c.cluster_n = 4; }), "share 16 tokens"));
  CHECK(mentions(why([](auto& c) { c.tile_m = 16, c.cluster_k = 4; }), "do not add 16 tokens"));
  CHECK(mentions(why([](auto& c) { c.cluster_k = 2, c.split_k = 2; }), "not in both"));
  CHECK(mentions(why([](auto& c) { c.cluster_k = 2, c.stream_k = 1; }), "in another way"));
  CHECK(mentions(why([](auto& c) { c.cluster_k = 2, c.tma_store = 1; }), "from registers"));
  CHECK(mentions(why([](auto& c) { c.stages = 6; }), "bytes of shared memory"));
  CHECK(mentions(why([](auto& c) { c.cluster_m = 0; }), "cluster_m = 0 is not in the space"));
  GemmWna16Config stream = good;
  stream.kernel = "mma";
  CHECK(mentions(reject_reason(p, stream, arch), "mma has no tunable"));
}

TEST_CASE("gemm_wna16's wgmma launches whole clusters and describes its boxes") {
  const Arch arch = parse_arch("sm_90a");
  GemmWna16Config c;
  c.kernel = "wgmma";
  c.tile_m = 64, c.tile_n = 64, c.warps_n = 4, c.warps_k = 2, c.units = 4, c.stages = 3;
  c.split_k = 1, c.cluster_m = c.cluster_n = 1, c.cluster_k = 2, c.group_m = 1;
  const GemmWna16Problem p = problem(64, 4096, 4096);
  REQUIRE_FALSE(reject_reason(p, c, arch));
  CHECK_EQ(plan(p, c, arch).grid[0], 128);
  CHECK_EQ(plan(p, c, arch).cluster, 2);
  CHECK_EQ(plan(p, c, arch).block[0], 384);
  CHECK_EQ(plan(p, c, arch).workspace_bytes, 0);
  REQUIRE_EQ(family.tensor_maps(to_params(p), to_params(c)).size(), 1);
  c.cluster_k = 1, c.stream_k = 1;
  REQUIRE_FALSE(reject_reason(p, c, arch));
  CHECK_EQ(plan(p, c, arch).workspace_bytes, 65536 + 64 * 64 * 64 * 4);
  c.stream_k = 0, c.cluster_n = 2, c.tma_store = 1;
  REQUIRE_FALSE(reject_reason(p, c, arch));
  CHECK_EQ(plan(p, c, arch).grid[0], 64);
  const auto maps = family.tensor_maps(to_params(p), to_params(c));
  REQUIRE_EQ(maps.size(), 2);
  CHECK_EQ(maps[0].box_rows, 32);
  CHECK_EQ(maps[1].operand, 3);
  CHECK_EQ(maps[1].box_rows, 64);
  CHECK_EQ(maps[1].box_columns, 64);
}

TEST_CASE("shapes that kernel order cannot hold are refused with a sentence") {
  const Arch arch = parse_arch("sm_90a");
  CHECK(mentions(unsupported(problem(1, 100, 4096), arch), "n = 100 is not a multiple of 16"));
  CHECK(mentions(unsupported(problem(1, 64, 4128), arch), "k = 4128 is not a multiple of 64"));
  CHECK(mentions(unsupported(problem(1, 64, 4096, 3), arch), "4 or 8 bits, not 3"));
  CHECK(mentions(unsupported(problem(1, 64, 4096, 4, 256), arch), "not 256"));
  CHECK(mentions(unsupported(problem(1, 64, 4160, 4, 128), arch),
                 "not a multiple of the group size 128"));
  CHECK_FALSE(unsupported(problem(1, 64, 4160, 4, 4160), arch));
}

TEST_CASE("slices refuses what its warps cannot hold or share") {
  const Arch arch = parse_arch("sm_90a");
  GemmWna16Config c = slices(16, 1, 16, 4, 3, 1, 1);
  const GemmWna16Problem p = problem(16, 4096, 4096);
  CHECK_FALSE(reject_reason(p, c, arch));
  CHECK(mentions(reject_reason(p, c, parse_arch("sm_80")), "sm_80 has no bulk copies"));
  CHECK(mentions(reject_reason(problem(16, 4096, 4096, 4, 4096), c, arch), "not 4096"));
  CHECK(mentions(reject_reason(problem(16, 4096, 4160, 4, 64), c, arch), "not a multiple of 128"));
  const auto with = [&](auto change) {
    GemmWna16Config other = c;
    change(other);
    return reject_reason(p, other, arch);
  };
  CHECK(mentions(with([](auto& o) { o.warps_n = 2; }), "32 warps are more than 16"));
  CHECK(mentions(with([](auto& o) { o.warps_n = 3; }), "not a power of two"));
  CHECK(mentions(with([](auto& o) { o.units = 1; }), "64 columns of a warp"));
  CHECK(mentions(with([](auto& o) { o.tile_m = 8; }), "m = 16 is more than tile_m = 8"));
  CHECK(mentions(with([](auto& o) { o.cluster_k = 2; }), "nothing for the last of 2 blocks"));
  CHECK(mentions(with([](auto& o) { o.blocks_per_sm = 2; }), "shared memory"));
  c.warps_k = 8, c.stages = 2, c.cluster_k = 2, c.blocks_per_sm = 2;
  CHECK_FALSE(reject_reason(p, c, arch));
  CHECK(mentions(reject_reason(problem(16, 4096, 4096, 4, 64), c, arch), "registers"));
  CHECK(mentions(with([](auto& o) { o.split_k = 2; }), "split_k"));
  CHECK(mentions(with([](auto& o) { o.stages = 8; }), "shared memory"));
}

TEST_CASE("slices gives each block of a cluster its part of k") {
  const Arch arch = parse_arch("sm_90a");
  const GemmWna16Config c = slices(16, 1, 8, 4, 4, 2, 2);
  const GemmWna16Problem p = problem(16, 6144, 4096);
  const LaunchPlan launch = plan(p, c, arch);
  CHECK_EQ(launch.cluster, 2);
  CHECK_EQ(launch.grid[0], 132);
  CHECK_EQ(launch.block[0], 12 * 32);
  CHECK_EQ(launch.workspace_bytes, 0);
  CHECK_EQ(plan(problem(16, 16, 4096), c, arch).grid[0], 2);

  const Wna16Slices s{6144, 4096, 4, 128, true, 16, 1, 8, 4, 4, 2, 2};
  CHECK_EQ(s.stage_bytes(), 16 * (1024 + 32 + 16));
  CHECK_EQ(s.slices(), 2);
  CHECK(s.holds_x());
  // Of 80 registers for each of 12 warps the four helpers keep 32, the others take the rest.
  CHECK_EQ(s.start_registers(), 80);
  CHECK_EQ(s.math_registers(), 104);
  CHECK_EQ(s.slots(66), 3);
}

TEST_CASE("slices compiles without spilling wherever there are bulk copies") {
  static const Nvrtc nvrtc;
  for (const char* arch_name : {"sm_90a", "sm_100a", "sm_120a"})
    for (const auto& [tile_m, warps_n, warps, spans, cluster, blocks] :
         {std::tuple{16, 1, 16, 2, 1, 1},
          {16, 1, 8, 2, 2, 2},
          {16, 2, 7, 2, 8, 1},
          {16, 1, 14, 1, 8, 1},
          {1, 1, 16, 1, 1, 2}})
      for (const int bits : {4, 8}) {
        const Arch arch = parse_arch(arch_name);
        const GemmWna16Config c =
            slices(tile_m, warps_n, warps, spans * bits / 2, 2, blocks, cluster);
        const auto p =
            problem(tile_m, 4096, tile_m == 16 && cluster < 8 ? 4096 : 14336, bits, 128, bits == 4);
        if (reject_reason(p, c, arch)) continue;
        INFO(arch.name(), " ", to_text(to_params(c)));
        const KernelSource source = family.source(to_params(p), to_params(c), arch);
        const KernelImage image = nvrtc.compile(
            {std::string(family.name()), source.source, source.entry, arch, source.options},
            embedded_templates());
        CHECK_EQ(image.report.spill_store_bytes + image.report.spill_load_bytes, 0);
        CHECK_EQ(image.report.stack_bytes, 0);
      }
}

TEST_CASE("operands say where zero points are") {
  const auto symmetric = family.operands(to_params(problem(3, 64, 256)));
  REQUIRE_EQ(symmetric.size(), 4);
  CHECK_EQ(symmetric[1].size_bytes(), 64 * 256 / 2);
  CHECK_EQ(symmetric[2].num_elements(), 64 * 2);
  const auto asymmetric = family.operands(to_params(problem(3, 64, 256, 8, 32, true)));
  REQUIRE_EQ(asymmetric.size(), 5);
  CHECK_EQ(asymmetric[1].size_bytes(), 64 * 256);
  CHECK_EQ(asymmetric[3].size_bytes(), 64 * 8);
}

TEST_CASE("reordered columns are repacked by whole rows where those fit") {
  const auto repack = make_wna16_repack_family();
  Wna16RepackProblem p;
  p.source = "gptq", p.n = 4096, p.act_order = true;
  const auto kernel = [&](int k, const char* arch) {
    p.k = k;
    return repack->default_config(to_params(p), parse_arch(arch)).at("kernel").get<std::string>();
  };
  CHECK_EQ(kernel(4096, "sm_86"), "rows");
  CHECK_EQ(kernel(14336, "sm_80"), "rows");
  CHECK_EQ(kernel(14336, "sm_86"), "tiles");
  CHECK_EQ(kernel(28672, "sm_90a"), "rows");
  CHECK_EQ(kernel(28672, "sm_80"), "tiles");
  p.source = "awq";  // its words hold a column each
  CHECK_EQ(kernel(4096, "sm_90a"), "tiles");
}

TEST_CASE("repacking keeps the rules of a family and compiles") {
  const auto repack = make_wna16_repack_family();
  const Arch arch = parse_arch("sm_90a");
  for (const char* source : {"awq", "gptq", "gptq_v2", "packed", "int8"})
    for (const char* part : {"codes", "scales", "zeros"})
      for (const bool interleaved : {false, true}) {
        Wna16RepackProblem p;
        p.source = source, p.part = part, p.n = 272, p.k = 320, p.interleaved = interleaved;
        if (repack->unsupported(to_params(p), arch)) continue;
        test::check_family_rules(*repack, to_params(p));
        p.act_order = true;
        if (!repack->unsupported(to_params(p), arch))
          test::check_family_rules(*repack, to_params(p));
      }
  for (const bool interleaved : {false, true}) {
    Wna16RepackProblem p;
    p.source = "gptq_v2", p.act_order = true, p.n = 272, p.k = 320, p.interleaved = interleaved;
    test::check_family_compiles(*repack, to_params(p), 3);
  }
  for (const char* part : {"codes", "zeros"})
    for (const bool interleaved : {false, true}) {
      Wna16RepackProblem p;
      p.part = part, p.interleaved = interleaved;
      test::check_family_compiles(*repack, to_params(p), 0);
    }
  test::check_family_refuses_nonsense(*repack, to_params(Wna16RepackProblem{}));
  Wna16RepackProblem p;
  p.part = "zeros", p.source = "int8";
  CHECK(mentions(repack->unsupported(to_params(p), arch), "no zero points"));
  p.part = "bytes";
  CHECK(mentions(repack->unsupported(to_params(p), arch), "not 'bytes'"));
  // Two matrices whose rows make no groups of 8.
  p.part = "codes", p.n = 24, p.interleaved = true;
  CHECK(mentions(repack->unsupported(to_params(p), arch), "not a multiple of 16"));
}
