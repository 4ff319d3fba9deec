#include <algorithm>
#include <array>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "compiler/nvrtc.h"
#include "runtime/base/error.h"
#include "templates/common/workspace_args.h"
#include "templates/embedded.h"
#include "templates/gemm/gemm.h"
#include "templates/gemm/gemm_args.h"
#include "tests/support/spread.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

const GemmFamily family;

GemmProblem problem(int m, int n, int k) {
  GemmProblem p;
  p.m = m, p.n = n, p.k = k;
  return p;
}

GemmConfig legal_gemv() {
  GemmConfig c;
  c.kernel = "gemv";
  c.tile_m = 1, c.warps_n = 4, c.warps_k = 2, c.rows_per_warp = 2, c.unroll = 2, c.stages = 4;
  c.async_copy = true, c.blocks_per_sm = 2;
  return c;
}

GemmConfig legal_mma() {
  GemmConfig c;
  c.tile_m = 64, c.tile_n = 64, c.tile_k = 64, c.warps_m = 2, c.warps_n = 2, c.stages = 4;
  c.split_k = 1, c.group_m = 8;
  return c;
}

GemmConfig legal_wgmma() {
  GemmConfig c;
  c.kernel = "wgmma";
  c.tile_m = 128, c.tile_n = 128, c.tile_k = 64, c.stages = 6, c.split_k = 1, c.group_m = 8;
  c.cluster = 1, c.cluster_k = 1;
  return c;
}

bool mentions(const std::optional<std::string>& reason, const std::string& words) {
  return reason && reason->find(words) != std::string::npos;
}

}  // namespace

TEST_CASE("candidates are legal, in the declared space, and start with a kernel of ours") {
  for (const Arch& arch : known_archs())
    for (const auto& [n, k] :
         {std::pair{4096, 4096}, {4096, 14336}, {512, 64}, {511, 172}, {33, 77}, {1, 1}})
      for (const int m : {1, 2, 3, 7, 16, 17, 64, 8192}) {
        const Params p = to_params(problem(m, n, k));
        INFO(arch.name(), " ", to_text(p));
        const RankedSpace ranked = family.ranked_space(p, arch);
        REQUIRE_FALSE(ranked.configs.empty());
        CHECK_LE(ranked.configs.size(), 1500);
        CHECK_FALSE(family.is_library(ranked.configs.front()));
        CHECK_EQ(ranked.configs.front(), family.default_config(p, arch));
        std::size_t points = ranked.configs.size();
        for (const Pruned& pruned : ranked.pruned) points += pruned.count;
        CHECK_EQ(points, ranked.num_points);
        CHECK_FALSE(family.unsupported(p, arch));
        const auto space = family.space(p);
        for (const Params& config : test::spread(ranked.configs, 30)) {
          INFO(to_text(config));
          CHECK_FALSE(family.reject_reason(p, config, arch));
          CHECK_NE(config["kernel"], "reference");
          for (const Tunable& tunable : space)
            CHECK_NE(std::count(tunable.values.begin(), tunable.values.end(), config[tunable.name]),
                     0);
          if (family.is_library(config)) continue;
          const LaunchPlan plan = family.plan(p, config, arch);
          CHECK_GE(plan.grid[0], 1);
          CHECK_LE(plan.smem_bytes, static_cast<unsigned>(arch.smem_per_block_bytes));
          CHECK_EQ(plan.pdl, arch.has_pdl());
        }
      }
}

TEST_CASE("a space has a point once, and says what pruning took away") {
  const Arch arch = parse_arch("sm_90a");
  for (const int m : {1, 16, 64, 2048}) {
    CAPTURE(m);
    const Params p = to_params(problem(m, 4096, 4096));
    const RankedSpace ranked = family.ranked_space(p, arch);
    CHECK_GE(ranked.configs.size(), 100);
    CHECK_LE(ranked.configs.size(), 1500);
    std::set<std::string> keys;
    for (const Params& config : ranked.configs) keys.insert(to_key(config));
    CHECK_EQ(keys.size(), ranked.configs.size());
    CHECK(std::is_sorted(ranked.estimates_us.begin() + 1, ranked.estimates_us.end()));
    REQUIRE_GE(ranked.pruned.size(), 3);
    CHECK_GE(ranked.pruned[0].count, ranked.pruned[1].count);
    CHECK(std::any_of(ranked.pruned.begin(), ranked.pruned.end(), [](const Pruned& pruned) {
      return pruned.reason.find("shared memory") != std::string::npos && pruned.count > 1;
    }));
  }
}

TEST_CASE("the model knows which kernel suits how many rows") {
  const Arch arch = parse_arch("sm_90a");
  const auto first = [&](int m) {
    const RankedSpace ranked = family.ranked_space(to_params(problem(m, 4096, 4096)), arch);
    const auto least = std::min_element(ranked.estimates_us.begin(), ranked.estimates_us.end());
    return ranked.configs[static_cast<std::size_t>(least - ranked.estimates_us.begin())]
        .at("kernel")
        .get<std::string>();
  };
  CHECK_EQ(first(1), "gemv");
  CHECK_EQ(first(16), "mma");
  CHECK_NE(first(2048), "mma");  // cuBLASLt and we have wgmma
  CHECK_EQ(family.default_config(to_params(problem(2048, 4096, 4096)), arch)["kernel"], "wgmma");
}

TEST_CASE("a config that cannot run is refused with its reason") {
  const Arch ampere = parse_arch("sm_86"), hopper = parse_arch("sm_90a");
  const GemmProblem p = problem(1, 4096, 4096);
  REQUIRE_FALSE(reject_reason(p, legal_gemv(), hopper));
  REQUIRE_FALSE(reject_reason(p, legal_mma(), hopper));

  GemmConfig c = legal_gemv();
  CHECK(mentions(reject_reason(problem(2, 64, 64), c, hopper), "m = 2 is more than tile_m = 1"));
  c.unroll = 8, c.rows_per_warp = 1, c.warps_k = 4;
  CHECK(mentions(reject_reason(p, c, hopper), "more than the 16 chunks"));
  c = legal_gemv();
  CHECK(mentions(reject_reason(problem(1, 64, 77), c, hopper), "cp.async"));
  c.split_k = 2;
  CHECK(mentions(reject_reason(p, c, hopper), "has no tunable split_k"));

  c = legal_mma();
  c.tile_m = 128, c.tile_n = 128;
  CHECK(mentions(reject_reason(p, c, ampere), "131088 bytes of shared memory"));
  CHECK(mentions(reject_reason(p, c, ampere), "101376"));
  c = legal_mma();
  c.tile_k = 48;
  CHECK(mentions(reject_reason(p, c, hopper), "tile_k = 48 is not in the space"));
  c = legal_mma();
  c.warps_m = 4, c.tile_m = 32;
  CHECK(mentions(reject_reason(p, c, hopper), "not a multiple of 16"));
  c = legal_mma();
  c.split_k = 8;
  CHECK(mentions(reject_reason(problem(1, 64, 64), c, hopper), "more than the 1 tiles of k"));
  CHECK(mentions(reject_reason(problem(1 << 18, 1 << 18, 4096), c, hopper), "counters"));
  c = legal_mma();
  c.kernel = "marlin";
  CHECK(mentions(reject_reason(p, c, hopper), "'marlin' is not a kernel of gemm"));

  REQUIRE_FALSE(reject_reason(problem(2048, 4096, 4096), legal_wgmma(), hopper));
  CHECK(mentions(reject_reason(p, legal_wgmma(), ampere), "sm_86 has no wgmma"));
  CHECK(mentions(reject_reason(problem(64, 4096, 4100), legal_wgmma(), hopper), "multiples of 8"));
  c = legal_wgmma();
  c.pingpong = true, c.tile_n = 256;
  CHECK(mentions(reject_reason(p, c, hopper), "256 sums of a thread"));
  c.tile_m = 64, c.split_k = 2, c.stages = 5;
  CHECK(mentions(reject_reason(p, c, hopper), "pingpong does not split k"));
  c.pingpong = false;
  CHECK(mentions(reject_reason(p, c, hopper), "64 rows for each warpgroup"));
  c = legal_wgmma();
  c.stages = 8;
  CHECK(mentions(reject_reason(p, c, hopper), "bytes of shared memory"));

  GemmConfig library;
  library.kernel = "cublaslt";
  CHECK_FALSE(reject_reason(p, library, hopper));
  CHECK(mentions(reject_reason(problem(4, 511, 172), library, hopper), "multiples of 8"));
}

TEST_CASE("absurd numbers are refused, not computed with") {
  const Arch arch = parse_arch("sm_90a");
  constexpr int most = std::numeric_limits<int>::max(), least = std::numeric_limits<int>::min();
  const Params names = to_params(GemmConfig{});
  for (const int value : {most, least, -1, 1 << 20}) {
    CHECK(unsupported(problem(value, most, 8), arch));
    Params p = to_params(problem(16, 64, 64));
    for (const std::string kernel : {"gemv", "mma", "wgmma", "cublaslt", "reference"})
      for (const auto& [key, unused] : names.items()) {
        if (key == "kernel" || key == "async_copy" || key == "pingpong") continue;
        Params config = to_params(kernel == "gemv"    ? legal_gemv()
                                  : kernel == "wgmma" ? legal_wgmma()
                                                      : legal_mma());
        config["kernel"] = kernel;
        config[key] = value;
        CHECK(family.reject_reason(p, config, arch));
        CHECK_THROWS_AS(family.source(p, config, arch), InputError);
        CHECK_THROWS_AS(family.plan(p, config, arch), InputError);
      }
  }
  Params wrong = to_params(problem(1, 64, 64));
  wrong["dtype"] = "f32";
  CHECK(mentions(family.unsupported(wrong, arch), "bf16 or f16"));
  wrong.erase("n");
  CHECK_THROWS_AS(family.candidates(wrong, arch), InputError);
}

TEST_CASE("m is no part of a kernel's source, and split sums get counters and room") {
  const Arch arch = parse_arch("sm_90a");
  const Params one = to_params(problem(3, 4096, 4096)), other = to_params(problem(7, 4096, 4096));
  GemmConfig c = legal_mma();
  c.split_k = 4;
  const Params config = to_params(c);
  CHECK_EQ(family.source(one, config, arch).source, family.source(other, config, arch).source);
  const LaunchPlan plan = family.plan(one, config, arch);
  CHECK_EQ(plan.grid[0], 64u * 4);
  CHECK_EQ(plan.workspace_bytes, kCounterBytes + std::size_t{64} * 4 * 64 * 64 * 4);
  const std::array<std::uint64_t, 3> addresses = {256, 512, 768};
  CHECK_EQ(family.pack_args(one, config, addresses, 1024).size(), sizeof(GemmArgs));
}

TEST_CASE("default kernels compile for every architecture without spilling") {
  const Nvrtc nvrtc;
  for (const Arch& arch : known_archs())
    for (const auto& p :
         {problem(1, 4096, 4096), problem(16, 4096, 4096), problem(512, 511, 172)}) {
      const Params params = to_params(p);
      const Params config = family.default_config(params, arch);
      INFO(arch.name(), " ", to_text(params), " ", to_text(config));
      const KernelSource source = family.source(params, config, arch);
      const KernelImage image = nvrtc.compile(
          {"gemm", source.source, source.entry, arch, source.options}, embedded_templates());
      CHECK_FALSE(image.cubin.empty());
      CHECK_EQ(image.report.spill_store_bytes + image.report.spill_load_bytes, 0);
      CHECK_EQ(image.report.stack_bytes, 0);
    }
}

TEST_CASE("wgmma kernels compile without spilling, and ptxas leaves their chains alone") {
  const Nvrtc nvrtc;
  const Arch arch = parse_arch("sm_90a");
  for (const bool pingpong : {false, true})
    for (const DType out : {DType::f16, DType::f32}) {
      GemmProblem p = problem(2048, 4104, 4096);
      p.dtype = DType::f16, p.out_dtype = out;
      GemmConfig c = legal_wgmma();
      c.pingpong = pingpong, c.cluster = 2, c.split_k = pingpong ? 1 : 2;
      if (!pingpong) c.tile_n = 192, c.stages = 5;
      const KernelSource source = family.source(to_params(p), to_params(c), arch);
      const KernelImage image = nvrtc.compile(
          {"gemm", source.source, source.entry, arch, source.options}, embedded_templates());
      CHECK_EQ(image.report.spill_store_bytes, 0);
      INFO(image.log);
      CHECK_EQ(image.log.find("C75"), std::string::npos);  // serialised wgmma, ignored setmaxnreg
      const auto maps = family.tensor_maps(to_params(p), to_params(c));
      REQUIRE_EQ(maps.size(), 2);
      CHECK_EQ(maps[1].box_rows, c.tile_n / 2);
      CHECK_EQ(maps[1].offset + TensorMapSpec::kBytes, offsetof(GemmTmaArgs, y));
      const LaunchPlan plan = family.plan(to_params(p), to_params(c), arch);
      CHECK_EQ(plan.grid[0] % plan.cluster, 0);
      CHECK_LE(plan.grid[0], 132u);
    }
}

TEST_CASE(
    "blocks of a cluster that share a tile's k compile without spilling, two or four of them") {
  const Nvrtc nvrtc;
  const Arch arch = parse_arch("sm_90a");
  for (const int cluster_k : {2, 4}) {
    GemmProblem p = problem(128, 4096, 14336);
    p.out_dtype = cluster_k == 2 ? DType::f32 : p.dtype;
    GemmConfig c = legal_wgmma();
    c.cluster_k = cluster_k, c.pingpong = cluster_k == 4, c.stages = 4;
    const KernelSource source = family.source(to_params(p), to_params(c), arch);
    const KernelImage image = nvrtc.compile(
        {"gemm", source.source, source.entry, arch, source.options}, embedded_templates());
    CHECK_EQ(image.report.spill_store_bytes + image.report.stack_bytes, 0);
    CHECK_FALSE(image.report.pipeline_warning);
    const LaunchPlan plan = family.plan(to_params(p), to_params(c), arch);
    CHECK_EQ(plan.cluster, static_cast<unsigned>(cluster_k));
    CHECK_EQ(plan.grid[0] % plan.cluster, 0);
    CHECK_EQ(plan.workspace_bytes, 0);
  }
  const auto reason = [&](const auto& change) {
    GemmConfig c = legal_wgmma();
    c.cluster_k = 2, c.stages = 4;
    change(c);
    return family.reject_reason(to_params(problem(128, 4096, 64 * 3)), to_params(c), arch);
  };
  CHECK_FALSE(reason([](GemmConfig&) {}));
  CHECK(mentions(reason([](GemmConfig& c) { c.split_k = 2; }), "in one way"));
  CHECK(mentions(reason([](GemmConfig& c) { c.cluster = 2; }), "in one way"));
  CHECK(mentions(reason([](GemmConfig& c) { c.tile_n = 96, c.cluster_k = 4; }), "groups of 16"));
  CHECK(mentions(reason([](GemmConfig& c) { c.cluster_k = 4; }), "3 tiles of k"));
  CHECK(mentions(reason([](GemmConfig& c) { c.cluster_k = 0; }), "cluster_k"));
}

TEST_CASE("tiles that all blocks share evenly: kernels compile without spilling") {
  const Nvrtc nvrtc;
  const Arch arch = parse_arch("sm_90a");
  GemmProblem p = problem(512, 28672, 4096);
  GemmConfig c = legal_wgmma();
  c.stream_k = 1;
  struct Shape {
    int tile_m, tile_n, stages, cluster;
    bool pingpong;
  };
  for (const Shape& s :
       {Shape{128, 256, 4, 1, false}, Shape{256, 160, 3, 2, false}, Shape{128, 128, 6, 2, true}})
    for (const DType out : {DType::bf16, DType::f32}) {
      c.tile_m = s.tile_m, c.tile_n = s.tile_n, c.stages = s.stages;
      c.cluster = s.cluster, c.pingpong = s.pingpong, p.out_dtype = out;
      const KernelSource source = family.source(to_params(p), to_params(c), arch);
      const KernelImage image = nvrtc.compile(
          {"gemm", source.source, source.entry, arch, source.options}, embedded_templates());
      CHECK_EQ(image.report.spill_store_bytes + image.report.stack_bytes, 0);
      CHECK_FALSE(image.report.pipeline_warning);
      // A block has room for the sums of one tile.
      const LaunchPlan plan = family.plan(to_params(p), to_params(c), arch);
      CHECK_EQ(plan.grid[0], 132);
      CHECK_EQ(plan.workspace_bytes, 65536 + 132 * std::size_t{4} * c.tile_m * c.tile_n);
    }
  const auto reason = [&](const auto& change) {
    GemmConfig config = legal_wgmma();
    config.stream_k = 1;
    change(config);
    return family.reject_reason(to_params(p), to_params(config), arch);
  };
  CHECK_FALSE(reason([](GemmConfig&) {}));
  CHECK(mentions(reason([](GemmConfig& g) { g.split_k = 2; }), "in another way"));
  CHECK(mentions(reason([](GemmConfig& g) { g.tile_m = 128, g.tile_n = 192, g.pingpong = true; }),
                 "192 sums of a thread are more than 128"));
  CHECK(mentions(reason([](GemmConfig& g) { g.stream_k = 2; }), "stream_k = 2"));
  // Tried where a round stays incomplete, after the same tiles without.
  const auto streamed = [&](int m, int n) {
    const auto configs = family.candidates(to_params(problem(m, n, 4096)), arch);
    return std::ranges::count_if(configs, [](const Params& g) { return g.at("stream_k") == 1; });
  };
  CHECK_GT(streamed(512, 28672), 0);
  CHECK_EQ(streamed(64, 28672), 0);
}

TEST_CASE("each kind of kernel compiles, at odd k and for other dtypes") {
  const Nvrtc nvrtc;
  const Arch arch = parse_arch("sm_80");
  const auto compile = [&](const GemmProblem& p, const GemmConfig& c) {
    const Params params = to_params(p), config = to_params(c);
    INFO(to_text(params), " ", to_text(config));
    const KernelSource source = family.source(params, config, arch);
    const KernelImage image = nvrtc.compile(
        {"gemm", source.source, source.entry, arch, source.options}, embedded_templates());
    CHECK_EQ(image.report.stack_bytes, 0);
  };
  GemmProblem p = problem(3, 33, 77);
  GemmConfig reference;
  reference.kernel = "reference";
  compile(p, reference);
  p.dtype = DType::f16, p.out_dtype = DType::f32;
  GemmConfig c = legal_gemv();
  c.async_copy = false, c.stages = 2, c.tile_m = 4, c.unroll = 1;
  compile(p, c);
  compile(p, legal_mma());
}
