#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <thread>

#include "compiler/dsl.h"
#include "runtime/base/error.h"
#include "templates/embedded.h"
#include "tests/support/dsl_generator.h"
#include "tests/support/dsl_interpreter.h"
#include "tests/support/support.h"

using namespace quern;
using namespace quern::test;

namespace {

/// How tightly the elements that kernels wrote could be checked.
struct Tally {
  std::size_t exact = 0, close = 0, loose = 0, open = 0;
  Tally& operator+=(const Tally& other) {
    exact += other.exact;
    close += other.close;
    loose += other.loose;
    open += other.open;
    return *this;
  }
};

void count(const dsl::Kernel& kernel, const Interpreted& wanted, Tally& tally) {
  for (std::size_t o = 0; o < wanted.error.size(); ++o) {
    if (kernel.operands()[o].role == dsl::OperandInfo::Role::in) continue;
    for (std::size_t i = 0; i < wanted.error[o].size(); ++i) {
      const double error = wanted.error[o][i], value = wanted.operands[o].get(i);
      ++(error == 0                                         ? tally.exact
         : error == std::numeric_limits<double>::infinity() ? tally.open
         : error < 1e-3 * std::max(std::fabs(value), 1.0)   ? tally.close
                                                            : tally.loose);
    }
  }
}

/// What is wrong with the LLVM build of a kernel, if anything.
std::optional<std::string> fault_of(Case& of, Tally& tally) {
  const Interpreted wanted = interpret(of.kernel, of.binding, of.operands, of.scalars, of.extents);
  count(of.kernel, wanted, tally);
  const dsl::CpuKernel built(of.kernel, of.binding);
  std::vector<void*> pointers;
  for (Tensor& operand : of.operands) pointers.push_back(operand.bytes.data());
  built.run(pointers, of.scalars, of.extents);
  return difference(of.kernel, wanted, of.operands);
}

std::optional<std::string> fault_of(std::uint64_t seed, Tally& tally) {
  const Program program = generate_program(seed);
  try {
    Case generated = prepare(program, seed);
    const auto found = fault_of(generated, tally);
    if (!found) return std::nullopt;
    return fmt::format("seed {}: {}\n{}", seed, *found, program.text);
  } catch (const CompileError& error) {
    return fmt::format("seed {} does not compile: {}\n{}\n{}", seed, error.what(), error.log(),
                       program.text);
  }
}

}  // namespace

// QUERN_DSL_PROGRAMS: how many; QUERN_DSL_SEED: the first one's seed, which a failure names.
TEST_CASE("generated kernels do what an interpreter of the language does") {
  const std::uint64_t first = from_environment("QUERN_DSL_SEED", 1);
  const std::uint64_t count = from_environment("QUERN_DSL_PROGRAMS", 2000);
  std::atomic<std::uint64_t> next = first;
  std::mutex mutex;
  Tally tally;
  std::vector<std::string> faults;
  const auto work = [&] {
    for (std::uint64_t seed; (seed = next++) < first + count;) {
      Tally own;
      const auto fault = fault_of(seed, own);
      const std::lock_guard lock(mutex);
      tally += own;
      if (fault) faults.push_back(*fault);
      if (faults.size() >= 5) return;
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < std::clamp(std::thread::hardware_concurrency(), 1u, 8u); ++i)
    threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  for (const std::string& fault : faults) FAIL_CHECK(fault);
  MESSAGE(fmt::format("elements: {} exact, {} within 1e-3, {} further, {} that rounding decides",
                      tally.exact, tally.close, tally.loose, tally.open));
  CHECK_LT(tally.loose + tally.open, (tally.exact + tally.close) / 4);
}

TEST_CASE("shipped kernels do what an interpreter of the language does") {
  Tally tally;
  for (const auto& [path, text] : embedded_templates()) {
    if (!path.starts_with("row/") || !path.ends_with(".qk") ||
        text.find("kernel ") == std::string::npos)
      continue;
    const auto kernels = dsl::parse(text, path, dsl::includes_from(embedded_templates(), "row"));
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
      for (const std::int64_t last : {2, 8, 26}) {
        Program program;
        for (const std::string& param : kernels.at(0).dtype_params())
          program.dtypes[param] = param == "R" ? DType::f32 : dtype;
        for (const dsl::ScalarInfo& scalar : kernels.at(0).scalars())
          program.scalars[scalar.name] = scalar.dtype == DType::i32 ? 1 : 0.25;
        for (const std::string& axis : kernels.at(0).axes()) program.extents[axis] = 3;
        program.extents[kernels.at(0).axes()[static_cast<std::size_t>(
            kernels.at(0).num_iterated_axes() - 1)]] = last;
        Case shipped = prepare(program, kernels.at(0), static_cast<std::uint64_t>(last));
        const auto fault = fault_of(shipped, tally);
        CHECK_MESSAGE(!fault, fmt::format("{}: {}", path, fault.value_or("")));
      }
  }
  CHECK_EQ(tally.open, 0);
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
