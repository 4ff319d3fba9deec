#include <map>
#include <string>
#include <vector>

#include "autotune/gate.h"
#include "autotune/kernel_library.h"
#include "autotune/registry.h"
#include "templates/embedded.h"
#include "templates/gemm/gemm.h"
#include "tests/support/gpu.h"
#include "tests/support/support.h"

// The products of real models' layers at every number of rows that matters, against the naive
// kernel on the device, which tests/gpu/test_gemm.cpp holds against loops on the CPU.

using namespace quern;
using namespace quern::test;

namespace {

struct Shape {
  int n, k;
};

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

void check_layers(const std::vector<Shape>& shapes) {
  const GpuFixture gpu;
  const TemporaryFolder folder;
  KernelLibrary library(gpu.context, FamilyRegistry::shipped(embedded_templates()),
                        {folder.path(), {}, 0});
  const Family& family = library.families().at("gemm");
  for (const Shape& shape : shapes)
    for (const int m : kRows) {
      GemmProblem p;
      p.m = m, p.n = shape.n, p.k = shape.k;
      const Params problem = to_params(p);
      Gate gate(library, family, problem, gpu.stream);
      for (const Params& config : configs_of(family, problem, library.arch())) {
        const Verdict verdict = gate.check(library.load(family, problem, config));
        INFO(to_text(problem), " | ", to_text(config), ": ", verdict.reason);
        CHECK_EQ(name(verdict.status), name(TrialStatus::ok));
      }
    }
}

}  // namespace

TEST_CASE("products of Llama-2-7B") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  check_layers({{12288, 4096}, {4096, 4096}, {22016, 4096}, {4096, 11008}, {32000, 4096}});
}

TEST_CASE("products of Llama-3-8B") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  check_layers({{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}});
}

TEST_CASE("products of an eighth of Llama-3-70B") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  check_layers({{1280, 8192}, {8192, 1024}, {7168, 8192}, {8192, 3584}, {16032, 8192}});
}

TEST_CASE("products of Llama-3.2-1B, and odd ones") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  check_layers(
      {{3072, 2048}, {2048, 2048}, {16384, 2048}, {2048, 8192}, {1001, 1003}, {4104, 264}});
}
