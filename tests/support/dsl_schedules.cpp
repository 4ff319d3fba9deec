#include "tests/support/dsl_schedules.h"

#include <fmt/format.h>

#include <algorithm>

namespace quern::test {

dsl::Schedule random_schedule(const Case& of, const Arch& arch, std::mt19937_64& random) {
  const auto pick = [&](std::initializer_list<int> from) {
    return from.begin()[random() % from.size()];
  };
  for (int attempt = 0; attempt < 40; ++attempt) {
    dsl::Schedule schedule;
    schedule.threads = pick({32, 64, 96, 128, 256, 512});
    schedule.threads_per_row = std::min(schedule.threads, pick({1, 8, 32, 64, 128, 512}));
    schedule.vector = pick({1, 2, 4, 8});
    schedule.keep = static_cast<dsl::Keep>(pick({0, 1, 2, 3}));
    schedule.cluster = pick({1, 1, 1, 2, 4});
    schedule.pdl = pick({0, 1}) == 1;
    schedule.turns = pick({1, 1, 2, 4});
    schedule.blocks_per_sm = pick({0, 0, 1, 2});
    if (!dsl::reject_reason(of.kernel, of.binding, schedule, arch)) return schedule;
  }
  return dsl::default_schedule(of.kernel, of.binding);
}

std::string describe(const dsl::Schedule& schedule) {
  return fmt::format("threads {} per row {} vector {} keep {} cluster {} turns {}",
                     schedule.threads, schedule.threads_per_row, schedule.vector,
                     dsl::name(schedule.keep), schedule.cluster, schedule.turns);
}

}  // namespace quern::test
