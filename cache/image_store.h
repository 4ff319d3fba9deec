#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "runtime/base/descriptor.h"
#include "runtime/base/json.h"

namespace quern {

/// $QUERN_CACHE, else $XDG_CACHE_HOME/quern, else ~/.cache/quern, from the given values of those
/// variables (nullptr = unset); the caller reads the environment. Empty counts as unset, and so
/// does a relative XDG_CACHE_HOME (XDG Base Directory Specification). Throws InputError if all are
/// unset.
std::filesystem::path cache_folder(const char* quern_cache, const char* xdg_cache_home,
                                   const char* home);

/// One compiled kernel with all that explains it.
struct StoredImage {
  std::string source;   // the stub or generated CUDA
  std::string image;    // cubin
  ordered_json report;  // registers, spills, ... (compiler/nvrtc.h)
  std::string log;
};

/// Compiled kernels on disk: one folder per key under ROOT/images, holding kernel.cu, kernel.cubin,
/// report.json and a checksum over all three; built aside, fsynced, renamed into place, so that
/// readers in other processes see a whole entry or none. Safe to use from many threads and
/// processes.
///
/// Keys are content hashes (32 lowercase hex digits); every function throws InputError for another.
class ImageStore {
 public:
  /// Creates ROOT (mode 0700) on first write. Throws InputError if ROOT exists and is not a folder
  /// that this user may write, or if others than this user and root may write it. What `root` lacks
  /// is looked for under `system_root` (cache/system_cache.h), which is never written.
  explicit ImageStore(std::filesystem::path root, const std::filesystem::path& system_root = {});
  /// A damaged entry is removed, counted and reported as absent; one of the system cache is only
  /// passed over. Notes the use for prune(), to the hour.
  std::optional<StoredImage> find(const std::string& key);
  /// Throws InputError if the entry cannot be written. Another process's intact entry is kept.
  void put(const std::string& key, const StoredImage& image);
  /// The right to build the image of `key`, so that processes which share the store do not all
  /// compile the same: it ends with the descriptor, or with a process that is killed. Nothing:
  /// somebody else, or another thread, has it. An empty descriptor where no claims can be kept.
  std::optional<Descriptor> try_claim(const std::string& key);
  struct Entry {
    std::string key;
    std::uintmax_t bytes = 0;
    bool intact = false;
  };
  /// Every entry, checked, in order of key. Removes nothing.
  std::vector<Entry> verify();

  struct Pruned {
    std::size_t entries = 0;
    std::uintmax_t bytes = 0;
  };
  /// Removes damaged entries, entries that nobody has found for `unused_for` or longer, and what
  /// killed writers left behind more than an hour ago; then trims.
  Pruned prune(std::chrono::seconds unused_for,
               std::uintmax_t max_bytes = std::numeric_limits<std::uintmax_t>::max());
  /// Removes the entries that were found longest ago until the rest takes at most `max_bytes`.
  /// Reads no entry, so that it may follow every command.
  Pruned trim(std::uintmax_t max_bytes);

  /// Damaged entries seen so far.
  std::size_t num_damaged() const { return num_damaged_; }
  const std::filesystem::path& root() const { return root_; }

 private:
  std::filesystem::path folder_of(const std::string& key) const;
  bool remove_if_damaged(const std::string& key);
  std::optional<StoredImage> find_in_system(const std::string& key) const;

  std::filesystem::path root_;
  std::filesystem::path images_;         // ROOT/images
  std::filesystem::path system_images_;  // SYSTEM_ROOT/images, or empty
  std::atomic<std::size_t> num_damaged_ = 0;
};

}  // namespace quern
