#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "autotune/row_family.h"
#include "compiler/nvrtc.h"
#include "runtime/base/error.h"
#include "templates/embedded.h"
#include "tests/support/parallel.h"
#include "tests/support/row_problems.h"
#include "tests/support/spread.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

struct Build {
  Params problem, config;
  bool is_default;
  Arch arch;
};

/// Spills come of too few registers, and such configs should be no candidates. But in long unrolled
/// loops ptxas puts a word or two away before them and takes it back after, with registers to spare
/// that no option makes it use (softmax_causal, one element at a time): let pass where it is not
/// what runs untuned.
std::string spill_fault(const ResourceReport& report, const Build& build) {
  constexpr int kOwnAccord = 8;  // bytes
  const int threads = build.config.at("threads").get<int>() *
                      std::max(1, build.config.at("blocks_per_sm").get<int>());
  const int limit = std::min(255, build.arch.registers_per_sm / threads / 8 * 8);
  const bool near_limit = report.registers + 16 > limit;
  const int allowed = build.is_default || near_limit ? 0 : kOwnAccord;
  if (report.spill_store_bytes <= allowed) return {};
  return fmt::format("{} bytes are spilled, with {} of {} registers", report.spill_store_bytes,
                     report.registers, limit);
}

std::string fault_of(const Nvrtc& nvrtc, const RowFamily& family, const Build& build) {
  const KernelSource source = family.source(build.problem, build.config, build.arch);
  std::string fault;
  try {
    const KernelImage image = nvrtc.compile(
        {to_text(build.problem), source.source, source.entry, build.arch, source.options}, {});
    fault = spill_fault(image.report, build);
    if (image.log.find("warning") != std::string::npos) fault += image.log;
  } catch (const CompileError& error) {
    fault = error.log();
  }
  if (fault.empty()) return {};
  return fmt::format("{} on {} ({}): {}", to_text(build.problem), build.arch.name(),
                     to_text(build.config), fault);
}

}  // namespace

TEST_CASE("every row kernel compiles for every architecture, without warnings or spills") {
  std::unique_ptr<Nvrtc> nvrtc;
  try {
    nvrtc = std::make_unique<Nvrtc>();
  } catch (const DeviceError&) {
  }
  QUERN_SKIP_IF(!nvrtc, "NVRTC is not installed");
  const RowFamily family(embedded_templates());
  std::vector<Build> builds;
  for (const auto& [name, kernel] : family.kernels()) {
    // Walks through sizes, dtypes and configs, since all of them together would take minutes; from
    // where the kernel's name says, so that it does not matter which others there are.
    std::size_t turn = std::accumulate(name.begin(), name.end(), std::size_t{0});
    for (const Arch& arch : known_archs()) {
      ++turn;
      constexpr DType dtypes[] = {DType::bf16, DType::f16, DType::f32, DType::e4m3, DType::i8};
      constexpr std::int64_t cols[] = {172, 4096, 65536};
      const Params problem =
          test::row_problem(family, kernel, turn % 2 == 0 ? 16 : 4096, cols[turn % 3],
                            dtypes[turn % 5], dtypes[(turn + 1) % 5]);
      const std::vector<Params> few = test::spread(family.candidates(problem, arch), 24);
      builds.push_back({problem, few.front(), true, arch});
      const std::size_t other = turn / 2 % few.size();
      if (other != 0) builds.push_back({problem, few[other], false, arch});
    }
  }
  test::check_in_parallel(builds.size(),
                          [&](std::size_t i) { return fault_of(*nvrtc, family, builds[i]); });
  CHECK_GE(builds.size(), family.kernels().size() * known_archs().size());
}
