#pragma once
#include <random>
#include <string>

#include "compiler/dsl.h"
#include "tests/support/dsl_generator.h"

namespace quern::test {

/// Any schedule that can serve the kernel, if a few tries find one; else the default.
dsl::Schedule random_schedule(const Case& of, const Arch& arch, std::mt19937_64& random);

/// "threads 256 per row 32 vector 8 keep registers cluster 1 turns 1".
std::string describe(const dsl::Schedule& schedule);

}  // namespace quern::test
