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

/// The GPU to build for.
struct BuildTarget {
  Arch arch;                 // of a known device, or with the numbers of a usual product
  ordered_json fingerprint;  // of a known device; null stands for any of the architecture
};

struct BuildOptions {
  bool all_candidates = false;  // what a tuner there would try, and not only what would run
  CompileFarmOptions farm{};
  /// Told of every image that is ready or has failed.
  std::function<void(std::size_t done, std::size_t total)> progress = {};
};

/// Builds images for a GPU that need not be here: for every problem the default and what was
/// recorded on such a GPU. That is the record of the very fingerprint, else those of its model
/// under another driver or power limit, else those of any GPU of the architecture. With
/// `all_candidates` also what a tuner there would try first, its reference kernel and every recorded config
/// that is legal there. Library routines need no image. Throws InputError for an unknown family.
BuildReport build_ahead(const FamilyRegistry& families, const Nvrtc& nvrtc, ImageStore& images,
                        std::span<const KernelRequest> requests, const BuildTarget& target,
                        const BuildOptions& options = {});

}  // namespace quern
