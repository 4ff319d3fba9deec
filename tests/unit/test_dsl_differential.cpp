#include <fmt/format.h>

#include <cstdlib>

#include "compiler/dsl.h"
#include "runtime/base/error.h"
#include "tests/support/dsl_generator.h"
#include "tests/support/dsl_interpreter.h"
#include "tests/support/support.h"

using namespace quern;
using namespace quern::test;

namespace {

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

/// What is wrong with the LLVM build of a generated program, if anything.
std::optional<std::string> fault_of(std::uint64_t seed, std::size_t& num_checked,
                                    std::size_t& num_open) {
  const Program program = generate_program(seed);
  try {
    Case generated = prepare(program, seed);
    const Interpreted wanted = interpret(generated.kernel, generated.binding, generated.operands,
                                         generated.scalars, generated.extents);
    const dsl::CpuKernel built(generated.kernel, generated.binding);
    std::vector<void*> pointers;
    for (Tensor& operand : generated.operands) pointers.push_back(operand.bytes.data());
    built.run(pointers, generated.scalars, generated.extents);
    for (std::size_t o = 0; o < generated.operands.size(); ++o) {
      if (generated.kernel.operands()[o].role == dsl::OperandInfo::Role::in) continue;
      num_checked += wanted.error[o].size();
      for (const double error : wanted.error[o])
        if (error == std::numeric_limits<double>::infinity()) ++num_open;
    }
    const auto found = difference(generated.kernel, wanted, generated.operands);
    if (!found) return std::nullopt;
    return fmt::format("seed {}: {}\n{}", seed, *found, program.text);
  } catch (const CompileError& error) {
    return fmt::format("seed {} does not compile: {}\n{}\n{}", seed, error.what(), error.log(),
                       program.text);
  }
}

}  // namespace

TEST_CASE("generated kernels do what an interpreter of the language does") {
  const std::uint64_t first = from_environment("QUERN_DSL_SEED", 1);
  const std::uint64_t count = from_environment("QUERN_DSL_PROGRAMS", 2000);
  std::size_t num_checked = 0, num_open = 0, num_faults = 0;
  for (std::uint64_t seed = first; seed < first + count && num_faults < 5; ++seed) {
    const auto fault = fault_of(seed, num_checked, num_open);
    CHECK_MESSAGE(!fault, fault.value_or(""));
    if (fault) ++num_faults;
  }
  MESSAGE(fmt::format("{} elements checked, of {} more rounding decides", num_checked - num_open,
                      num_open));
  CHECK_LT(num_open, num_checked / 4);
}

TEST_CASE("damaged kernels are diagnosed or parse, and never crash") {
  const std::uint64_t count = 5 * from_environment("QUERN_DSL_PROGRAMS", 2000);
  std::size_t num_diagnosed = 0;
  for (std::uint64_t seed = 1; seed <= count; ++seed) {
    const std::string text = damage(generate_program(seed / 5).text, seed);
    try {
      dsl::parse(text, "damaged.qk");
    } catch (const CompileError& error) {
      CHECK_FALSE(error.log().empty());
      ++num_diagnosed;
    }
  }
  CHECK_GT(num_diagnosed, count / 2);
}
