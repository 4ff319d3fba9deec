#include <fmt/format.h>

#include <cstdlib>

#include "compiler/nvrtc.h"
#include "runtime/base/error.h"
#include "tests/support/dsl_generator.h"
#include "tests/support/dsl_schedules.h"
#include "tests/support/support.h"

using namespace quern;
using namespace quern::test;

TEST_CASE("the CUDA source of generated kernels compiles, for every architecture in turn") {
  std::unique_ptr<Nvrtc> nvrtc;
  try {
    nvrtc = std::make_unique<Nvrtc>();
  } catch (const DeviceError&) {
  }
  QUERN_SKIP_IF(!nvrtc, "NVRTC is not installed");
  const auto number = [](const char* name, std::uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text ? std::strtoull(text, nullptr, 10) : otherwise;
  };
  const std::uint64_t first = number("QUERN_DSL_SEED", 1);
  const std::uint64_t count = number("QUERN_DSL_PROGRAMS", 60);
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    const Program program = generate_program(seed);
    const Case generated = prepare(program, seed);
    if (std::find(generated.extents.begin(), generated.extents.end(), 0) != generated.extents.end())
      continue;
    const Arch& arch = known_archs()[seed % known_archs().size()];
    std::mt19937_64 random(seed);
    for (const dsl::Schedule& schedule :
         {dsl::default_schedule(generated.kernel, generated.binding),
          random_schedule(generated, arch, random)}) {
      std::string fault;
      try {
        nvrtc->compile({"generated",
                        dsl::emit_cuda(generated.kernel, generated.binding, schedule),
                        dsl::entry_name(generated.kernel),
                        arch,
                        {}},
                       {});
      } catch (const CompileError& error) {
        fault = error.log();
      }
      CHECK_MESSAGE(fault.empty(), fmt::format("seed {} on {} ({}): {}\n{}", seed, arch.name(),
                                               describe(schedule), fault, program.text));
    }
  }
}
