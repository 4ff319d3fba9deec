#pragma once
// What the parts of `quern cache` share.
#include <string>

#include "autotune/registry.h"
#include "model/cli.h"

namespace quern::cli {

/// The families that records are checked against.
FamilyRegistry families_of(const Common& common);
/// The GPU's name in a fingerprint from anywhere, or "?".
std::string device_name(const ordered_json& fingerprint);

/// Each adds its subcommands to `cache`.
void add_cache_list(CLI::App& cache, Common& common);
void add_cache_verify(CLI::App& cache, Common& common);
void add_cache_exchange(CLI::App& cache, Common& common);

}  // namespace quern::cli
