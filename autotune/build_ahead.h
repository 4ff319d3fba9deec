#pragma once
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "autotune/kernel_library.h"

namespace quern {

struct BuildReport {
  std::size_t images = 0;           // now in the cache
  std::size_t compiled = 0;         // of these, built by this call
  std::vector<std::string> failed;  // one sentence each
  std::size_t unsupported = 0;      // of these, problems that the architecture cannot serve at all
};

/// Builds images for a GPU that need not be here: for every problem the config recorded for such a
/// GPU (any fingerprint of the architecture) and the default, or with `all_candidates` also what a
/// tuner there would try first. Library routines need none. `progress` is told of every image that
/// is ready or has failed. Throws InputError for an unknown family.
BuildReport build_ahead(
    const FamilyRegistry& families, const Nvrtc& nvrtc, ImageStore& images,
    std::span<const KernelRequest> requests, const Arch& arch, bool all_candidates,
    int compile_threads = 0,
    const std::function<void(std::size_t done, std::size_t total)>& progress = {});

}  // namespace quern
