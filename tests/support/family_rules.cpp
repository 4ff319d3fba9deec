#include "tests/support/family_rules.h"

#include <algorithm>
#include <limits>

#include "compiler/nvrtc.h"
#include "runtime/base/error.h"
#include "templates/embedded.h"
#include "tests/support/spread.h"
#include "tests/support/support.h"

namespace quern::test {

void check_family_rules(const Family& family, const Params& problem) {
  for (const OperandSpec& spec : family.operands(problem))
    if (!spec.values.empty()) CHECK_EQ(spec.values.size(), spec.num_elements());
  const std::vector<std::uint64_t> addresses(family.operands(problem).size(), 4096);
  CHECK_GT(family.cost(problem).bytes, 0);
  const auto space = family.space(problem);
  for (const Arch& arch : known_archs()) {
    INFO(family.name(), " ", arch.name(), " ", to_text(problem));
    CHECK_FALSE(family.unsupported(problem, arch));
    const RankedSpace ranked = family.ranked_space(problem, arch);
    auto configs = ranked.configs;
    REQUIRE_FALSE(configs.empty());
    CHECK_LE(configs.size(), 1100);
    std::size_t points = configs.size();
    for (const Pruned& pruned : ranked.pruned) points += pruned.count;
    CHECK_EQ(points, ranked.num_points);
    CHECK_EQ(configs.front(), family.default_config(problem, arch));
    REQUIRE_EQ(ranked.estimates_us.size(), configs.size());
    CHECK(std::all_of(ranked.estimates_us.begin(), ranked.estimates_us.end(),
                      [](double us) { return us > 0 && us < 1e9; }));
    CHECK(std::is_sorted(ranked.estimates_us.begin() + 1, ranked.estimates_us.end()));
    CHECK_EQ(family.estimate_us(problem, configs.back(), arch), ranked.estimates_us.back());
    configs = spread(std::move(configs), 40);
    if (!family.reference_config(problem).is_null())
      configs.push_back(family.reference_config(problem));
    for (const Params& config : configs) {
      INFO(to_text(config));
      CHECK_FALSE(family.reject_reason(problem, config, arch));
      for (const Tunable& tunable : space)
        CHECK_NE(std::count(tunable.values.begin(), tunable.values.end(), config[tunable.name]), 0);
      const LaunchPlan plan = family.plan(problem, config, arch);
      for (const unsigned extent : plan.grid) CHECK_GE(extent, 1);
      CHECK_LE(plan.grid[1], 65535);
      CHECK_LE(plan.grid[2], 65535);
      CHECK_LE(plan.block[0], 1024);
      CHECK_LE(plan.smem_bytes, static_cast<unsigned>(arch.smem_per_block_bytes));
      CHECK_FALSE(family.pack_args(problem, config, addresses, 4096).empty());
      CHECK_THROWS_AS(family.pack_args(problem, config, {}, 4096), InputError);
      Params other = problem;
      for (const std::string& field : family.dynamic_fields_of(problem))
        other[field] = problem[field].get<int>() + 1;
      if (!family.unsupported(other, arch))
        CHECK_EQ(family.source(other, config, arch).source,
                 family.source(problem, config, arch).source);
    }
  }
}

void check_family_compiles(const Family& family, const Params& problem, std::size_t more) {
  static const Nvrtc nvrtc;
  for (const Arch& arch : known_archs()) {
    const std::size_t count = arch.cc() == 80 || arch.cc() == 90 ? 1 + more : 1;
    for (const Params& config : spread(family.candidates(problem, arch), count)) {
      if (family.is_library(config)) continue;
      INFO(family.name(), " ", arch.name(), " ", to_text(problem), " ", to_text(config));
      const KernelSource source = family.source(problem, config, arch);
      const KernelImage image = nvrtc.compile(
          {std::string(family.name()), source.source, source.entry, arch, source.options},
          embedded_templates());
      CHECK_FALSE(image.cubin.empty());
      CHECK_EQ(image.report.spill_store_bytes + image.report.spill_load_bytes, 0);
      CHECK_EQ(image.report.stack_bytes, 0);
    }
  }
}

void check_family_refuses_nonsense(const Family& family, const Params& problem) {
  const Arch arch = parse_arch("sm_90a");
  const Params config = family.default_config(problem, arch);
  for (const int value : {std::numeric_limits<int>::max(), std::numeric_limits<int>::min(), -1}) {
    for (const auto& [key, original] : problem.items()) {
      if (!original.is_number_integer()) continue;
      Params wrong = problem;
      wrong[key] = value;
      INFO(to_text(wrong));
      CHECK(family.unsupported(wrong, arch));
      CHECK_THROWS_AS(family.plan(wrong, config, arch), InputError);
      CHECK_THROWS_AS(family.operands(wrong), InputError);
    }
    for (const auto& [key, original] : config.items()) {
      if (!original.is_number_integer()) continue;
      Params wrong = config;
      wrong[key] = value;
      INFO(to_text(wrong));
      CHECK(family.reject_reason(problem, wrong, arch));
      CHECK_THROWS_AS(family.plan(problem, wrong, arch), InputError);
      CHECK_THROWS_AS(family.source(problem, wrong, arch), InputError);
    }
  }
  Params missing = problem;
  missing.erase(missing.begin());
  CHECK_THROWS_AS(family.candidates(missing, arch), InputError);
}

}  // namespace quern::test
