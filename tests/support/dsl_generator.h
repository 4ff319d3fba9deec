#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "compiler/dsl.h"
#include "tests/support/dsl_tensor.h"

namespace quern::test {

/// A well-formed kernel as text, and what it can be run with.
struct Program {
  std::string text;
  std::map<std::string, DType> dtypes;
  std::map<std::string, double> scalars;
  std::map<std::string, std::int64_t> extents;
  std::vector<std::string> bound_axes;  // whose extents are known when it is built
  bool has_special_values = false;      // its inputs contain NaN, infinities and signed zeros
};

/// A program that uses much of the language, the same for the same seed on every machine.
Program generate_program(std::uint64_t seed);

/// A program that parsed, with operands: inputs filled, outputs all 0xff bytes.
struct Case {
  dsl::Kernel kernel;
  dsl::Binding binding;
  std::vector<double> scalars;
  std::vector<std::int64_t> extents;
  std::vector<Tensor> operands;
};
Case prepare(const Program& program, std::uint64_t seed);
/// The same of a kernel that has been parsed already; the program's text does not matter.
Case prepare(const Program& program, const dsl::Kernel& kernel, std::uint64_t seed);

/// Some axis has no elements: there is nothing to launch.
bool is_empty(const Case& of);

/// Which programs a test generates can be said from outside: the number in this environment
/// variable (QUERN_DSL_SEED, QUERN_DSL_PROGRAMS), or another one where it is not set.
std::uint64_t from_environment(const char* name, std::uint64_t otherwise);

/// The text with a few faults: tokens deleted, doubled and swapped, bytes changed, the end cut off.
std::string damage(const std::string& text, std::uint64_t seed);

}  // namespace quern::test
