#include <fmt/format.h>

#include <algorithm>

#include "compiler/nvrtc.h"
#include "runtime/base/error.h"
#include "tests/support/dsl_generator.h"
#include "tests/support/dsl_schedules.h"
#include "tests/support/parallel.h"
#include "tests/support/support.h"

using namespace quern;
using namespace quern::test;

namespace {

/// What NVRTC has against the kernel of a seed, by its default schedule or by another one.
std::string fault_of(const Nvrtc& nvrtc, std::uint64_t seed) {
  const Program program = generate_program(seed);
  const Case generated = prepare(program, seed);
  if (is_empty(generated)) return {};
  const Arch& arch = known_archs()[seed % known_archs().size()];
  std::mt19937_64 random(seed);
  for (const dsl::Schedule& schedule : {dsl::default_schedule(generated.kernel, generated.binding),
                                        random_schedule(generated, arch, random)}) {
    if (dsl::reject_reason(generated.kernel, generated.binding, schedule, arch)) return {};
    try {
      nvrtc.compile({"generated",
                     dsl::emit_cuda(generated.kernel, generated.binding, schedule),
                     dsl::entry_name(generated.kernel),
                     arch,
                     {}},
                    {});
    } catch (const CompileError& error) {
      return fmt::format("seed {} on {} ({}): {}\n{}", seed, arch.name(), describe(schedule),
                         error.log(), program.text);
    }
  }
  return {};
}

}  // namespace

TEST_CASE("the CUDA source of generated kernels compiles, for every architecture in turn") {
  std::unique_ptr<Nvrtc> nvrtc;
  try {
    nvrtc = std::make_unique<Nvrtc>();
  } catch (const DeviceError&) {
  }
  QUERN_SKIP_IF(!nvrtc, "NVRTC is not installed");
  const std::uint64_t first = from_environment("QUERN_DSL_SEED", 1);
  const std::uint64_t count = from_environment("QUERN_DSL_PROGRAMS", 60);
  check_in_parallel(count, [&](std::size_t i) { return fault_of(*nvrtc, first + i); });
}

TEST_CASE("hardly any generated kernel is one for the CPU alone") {
  // What is refused are pairs of i4 that no thread of a GPU writes together.
  std::size_t num_refused = 0, num_other = 0, num_kernels = 0;
  for (std::uint64_t seed = 1; seed <= 2000; ++seed) {
    const Case generated = prepare(generate_program(seed), seed);
    if (is_empty(generated)) continue;
    ++num_kernels;
    const auto reason = dsl::reject_reason(
        generated.kernel, generated.binding,
        dsl::default_schedule(generated.kernel, generated.binding), parse_arch("sm_90a"));
    if (!reason) continue;
    ++num_refused;
    if (reason->find("which is i4, are not written together") == std::string::npos &&
        reason->find("is written in pairs") == std::string::npos)
      ++num_other;
  }
  CHECK_LE(num_refused * 100, num_kernels * 3);
  CHECK_EQ(num_other, 0);
}
