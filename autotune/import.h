#pragma once
#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "autotune/registry.h"
#include "cache/record_store.h"

namespace quern {

struct ImportReport {
  std::size_t accepted = 0;  // now in the cache, marked imported
  std::size_t kept = 0;      // well formed, but this cache has a measurement of its own already
  std::vector<std::string> refused;  // one sentence each
};

/// Brings tuning records of another machine into the cache at `root`. Every record is checked
/// against its family: the problem must be supported and the config lie in the declared space and
/// be legal, both for the GPU that the record names; what fails is refused with a sentence and the
/// rest kept. A record of a GPU like this one is gated before its first use (KernelLibrary::get),
/// one of another GPU becomes a candidate to try early (tune()). Nothing in an import is ever
/// executed or becomes source. Throws InputError if `text` is no export document or the cache
/// cannot be written.
ImportReport import_records(const std::string& text, const FamilyRegistry& families,
                            const std::filesystem::path& root);

/// The architecture of a device fingerprint, its SM count and L2 filled in. Throws InputError if
/// the fingerprint names none that Quern knows.
Arch arch_of_fingerprint(const ordered_json& fingerprint);

}  // namespace quern
