#include <map>
#include <string>
#include <vector>

#include "autotune/gate.h"
#include "autotune/kernel_library.h"
#include "autotune/registry.h"
#include "templates/embedded.h"
#include "tests/support/gpu.h"
#include "tests/support/support.h"

// The products of real models' layers at every number of rows that matters, against the naive
// kernels on the device, which the other tests of products hold against loops on the CPU. Minutes
// of a GPU, most of them for those naive kernels: run its cases and subcases side by side.

using namespace quern;
using namespace quern::test;

namespace {

struct Shape {
  int n, k;
};

constexpr int kPerChannel = -1;  // a group size: all of k
constexpr int kRows[] = {1, 2, 3, 7, 8, 15, 16, 17, 63, 64, 65, 255, 256, 2047, 2048, 8191};

/// The default, and of every kind of kernel that can serve the problem what its model likes best.
std::vector<Params> configs_of(const Family& family, const Params& problem, const Arch& arch) {
  std::vector<Params> out{family.default_config(problem, arch)};
  const RankedSpace ranked = family.ranked_space(problem, arch);
  std::map<std::string, std::size_t> best;  // of a kind
  for (std::size_t i = 0; i < ranked.configs.size(); ++i) {
    if (family.is_library(ranked.configs[i])) continue;
    const auto kind = ranked.configs[i].at("kernel").get<std::string>();
    const auto [place, is_new] = best.emplace(kind, i);
    if (!is_new && ranked.estimates_us[i] < ranked.estimates_us[place->second]) place->second = i;
  }
  for (const auto& [kind, i] : best)
    if (ranked.configs[i] != out.front()) out.push_back(ranked.configs[i]);
  return out;
}

/// `fields`: what a problem of the family has besides m, n and k. Shapes that the family refuses
/// are left out; tests of the CPU say with which sentence.
void check_layers(const std::string& name_of_family, const Params& fields,
                  const std::vector<Shape>& shapes) {
  const GpuFixture gpu;
  const TemporaryFolder folder;
  KernelLibrary library(gpu.context, FamilyRegistry::shipped(embedded_templates()),
                        {folder.path(), {}, 0});
  const Family& family = library.families().at(name_of_family);
  int checked = 0;
  for (const Shape& shape : shapes)
    for (const int m : kRows) {
      Params problem = {{"m", m}, {"n", shape.n}, {"k", shape.k}};
      problem.update(fields);
      if (fields.value("group_size", 0) == kPerChannel) problem["group_size"] = shape.k;
      if (family.unsupported(problem, library.arch())) continue;
      Gate gate(library, family, problem, gpu.stream);
      for (const Params& config : configs_of(family, problem, library.arch())) {
        const Verdict verdict = gate.check(library.load(family, problem, config));
        INFO(to_text(problem), " | ", to_text(config), ": ", verdict.reason);
        CHECK_EQ(name(verdict.status), name(TrialStatus::ok));
        ++checked;
      }
    }
  CHECK_GT(checked, 0);
}

const std::vector<Shape> kLlama3_8B{{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}};
const std::vector<Shape> kLlama32_1B{{3072, 2048}, {2048, 2048}, {16384, 2048}, {2048, 8192}};

/// Each model by itself, to be run side by side.
void check_models(const std::string& family, const Params& fields) {
  SUBCASE("Llama-2-7B") {
    check_layers(family, fields,
                 {{12288, 4096}, {4096, 4096}, {22016, 4096}, {4096, 11008}, {32000, 4096}});
  }
  SUBCASE("Llama-3-8B") { check_layers(family, fields, kLlama3_8B); }
  SUBCASE("an eighth of Llama-3-70B") {
    check_layers(family, fields,
                 {{1280, 8192}, {8192, 1024}, {7168, 8192}, {8192, 3584}, {16032, 8192}});
  }
  SUBCASE("Llama-3.2-1B") { check_layers(family, fields, kLlama32_1B); }
  SUBCASE("odd ones") {
    check_layers(family, fields, {{1001, 1003}, {4104, 264}, {208, 1152}, {336, 704}, {504, 176}});
  }
}

Params wna16(int bits, int group_size, bool zero_points, const char* dtype, const char* out) {
  return {{"dtype", dtype},
          {"out_dtype", out},
          {"bits", bits},
          {"group_size", group_size},
          {"zero_points", zero_points}};
}

Params w8a8(const char* dtype, const char* x_scale, const char* w_scale, const char* out) {
  return {{"dtype", dtype}, {"x_scale", x_scale}, {"w_scale", w_scale}, {"out_dtype", out}};
}

}  // namespace

TEST_CASE("layers: products of bf16") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  check_models("gemm", {{"dtype", "bf16"}, {"out_dtype", "bf16"}});
}

TEST_CASE("layers: products of f16 with f32 outputs") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  check_layers("gemm", {{"dtype", "f16"}, {"out_dtype", "f32"}}, kLlama32_1B);
}

TEST_CASE("layers: W4A16, groups of 128 with zero points") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  check_models("gemm_wna16", wna16(4, 128, true, "f16", "f16"));
}

TEST_CASE("layers: weights of 4 and 8 bits, of every group size") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  for (const int bits : {4, 8})
    for (const int group_size : {32, 64, 128, kPerChannel})
      for (const bool zero_points : {false, true}) {
        const bool bf16 = zero_points == (bits == 8);
        check_layers("gemm_wna16",
                     wna16(bits, group_size, zero_points, bf16 ? "bf16" : "f16", "f32"),
                     {{3072, 2048}, {2048, 8192}});
      }
}

TEST_CASE("layers: W8A8 of INT8, per token and channel") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  check_models("gemm_w8a8", w8a8("i8", "token", "channel", "bf16"));
}

TEST_CASE("layers: W8A8 of FP8, per token and channel") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  check_models("gemm_w8a8", w8a8("e4m3", "token", "channel", "bf16"));
}

TEST_CASE("layers: W8A8 of FP8, per tensor and in blocks") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  SUBCASE("per tensor") {
    check_layers("gemm_w8a8", w8a8("e4m3", "tensor", "tensor", "f32"), kLlama3_8B);
  }
  SUBCASE("blocks") {
    check_layers("gemm_w8a8", w8a8("e4m3", "group", "block", "f32"), kLlama3_8B);
  }
}

TEST_CASE("layers: SwiGLU and residuals in products") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  const auto fused = [](const char* epilogue, const char* param, const char* dtype) {
    return Params{{"dtype", "bf16"}, {"prologue", ""}, {"epilogue", epilogue}, {param, dtype}};
  };
  SUBCASE("SwiGLU") {
    check_layers("fused_gemm", fused("swiglu", "Y", "bf16"), {{28672, 4096}, {16384, 2048}});
  }
  SUBCASE("residuals") {
    check_layers("fused_gemm", fused("add", "R", "f32"), {{4096, 14336}, {2048, 2048}});
  }
  SUBCASE("SwiGLU, 4 bits") {
    Params fields = wna16(4, 128, true, "f16", "f16");
    fields.erase("out_dtype");
    fields.update(Params{{"prologue", ""}, {"epilogue", "swiglu"}, {"Y", "f16"}});
    check_layers("fused_gemm_wna16", fields, {{28672, 4096}, {16384, 2048}});
  }
  SUBCASE("residuals, 4 bits") {
    Params fields = wna16(4, 128, true, "f16", "f16");
    fields.erase("out_dtype");
    fields.update(Params{{"prologue", ""}, {"epilogue", "add"}, {"R", "f32"}});
    check_layers("fused_gemm_wna16", fields, {{4096, 14336}, {2048, 2048}});
  }
}
