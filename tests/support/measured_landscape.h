#pragma once
#include <filesystem>
#include <vector>

#include "autotune/registry.h"
#include "tests/support/landscape.h"

namespace quern::test {

/// A landscape that a GPU was found to have: an exhaustive tune, kept as JSON
///
///   {"family": ..., "problem": {...}, "device": ..., "keys": [tunables...],
///    "us_and_values": [[us, values of the tunables...], ...]}
///
/// with the default first. Its times are taken for the truth; the estimates are what the family's
/// model says today for `arch`, and the order is a tuner's: the default, then by estimate.
Landscape measured_landscape(const std::filesystem::path& file, const FamilyRegistry& families,
                             const Arch& arch);

/// Those of tests/data/landscapes, with the estimates for the H200 that they were measured on, in
/// order of their files' names.
std::vector<Landscape> measured_landscapes();

}  // namespace quern::test
