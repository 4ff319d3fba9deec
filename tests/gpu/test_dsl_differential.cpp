#include <fmt/format.h>

#include <cstdlib>
#include <random>

#include "compiler/dsl.h"
#include "runtime/driver.h"
#include "tests/support/dsl_generator.h"
#include "tests/support/dsl_interpreter.h"
#include "tests/support/dsl_schedules.h"
#include "tests/support/gpu.h"

using namespace quern;
using namespace quern::test;

namespace {

/// What is wrong with one CUDA build of a kernel, if anything.
std::optional<std::string> fault_of(const GpuFixture& gpu, const Case& of,
                                    const Interpreted& wanted, const dsl::Schedule& schedule) {
  const std::string source = dsl::emit_cuda(of.kernel, of.binding, schedule);
  const std::string entry = dsl::entry_name(of.kernel);
  const Module module(compile(source, entry, gpu.arch()).cubin);
  std::vector<std::unique_ptr<GuardedBuffer>> buffers;
  std::vector<std::uint64_t> addresses;
  for (const Tensor& operand : of.operands) {
    buffers.push_back(std::make_unique<GuardedBuffer>(operand.bytes.size(), gpu.stream));
    if (!operand.bytes.empty())
      copy_to_device(buffers.back()->address(), operand.bytes.data(), operand.bytes.size(),
                     gpu.stream);
    addresses.push_back(buffers.back()->address());
  }
  std::map<std::string, double> scalars;
  for (std::size_t i = 0; i < of.scalars.size(); ++i)
    scalars[of.kernel.scalars()[i].name] = of.scalars[i];
  std::map<std::string, std::int64_t> extents;
  for (std::size_t i = 0; i < of.extents.size(); ++i) extents[of.kernel.axes()[i]] = of.extents[i];
  const std::vector<std::byte> args = dsl::pack_args(of.kernel, addresses, scalars, extents);
  launch(gpu.stream, module.function(entry), dsl::plan(of.kernel, of.binding, schedule, extents),
         args.data(), args.size());
  std::vector<Tensor> got = of.operands;
  for (std::size_t o = 0; o < got.size(); ++o) {
    if (!buffers[o]->intact(gpu.stream))
      return fmt::format("writes outside of operand {}", of.kernel.operands()[o].name);
    if (!got[o].bytes.empty()) got[o].bytes = buffers[o]->download<std::byte>(gpu.stream);
  }
  return difference(of.kernel, wanted, got);
}

}  // namespace

TEST_CASE("generated kernels do on the GPU what an interpreter of the language does") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  const std::uint64_t first = from_environment("QUERN_DSL_SEED", 1);
  const std::uint64_t count = from_environment("QUERN_DSL_PROGRAMS", 200);
  std::size_t num_faults = 0, num_built = 0, num_refused = 0;
  for (std::uint64_t seed = first; seed < first + count && num_faults < 5; ++seed) {
    const Program program = generate_program(seed);
    const Case generated = prepare(program, seed);
    if (is_empty(generated)) continue;
    // Pairs of i4 that no thread writes together: a kernel for the CPU alone.
    if (dsl::reject_reason(generated.kernel, generated.binding,
                           dsl::default_schedule(generated.kernel, generated.binding),
                           gpu.arch())) {
      ++num_refused;
      continue;
    }
    ++num_built;
    const Interpreted wanted = interpret(generated.kernel, generated.binding, generated.operands,
                                         generated.scalars, generated.extents, {.contracts = true});
    std::mt19937_64 random(seed);
    for (const dsl::Schedule& schedule :
         {dsl::default_schedule(generated.kernel, generated.binding),
          random_schedule(generated, gpu.arch(), random)}) {
      const auto fault = fault_of(gpu, generated, wanted, schedule);
      CHECK_MESSAGE(!fault, fmt::format("seed {} ({}): {}\n{}", seed, describe(schedule),
                                        fault.value_or(""), program.text));
      if (fault) ++num_faults;
    }
  }
  MESSAGE(fmt::format("{} programs, {} that a GPU cannot run", num_built, num_refused));
  CHECK_LE(num_refused * 100, (num_built + num_refused) * 3);
}
