#pragma once
#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "autotune/problem.h"
#include "autotune/registry.h"
#include "cache/block_list.h"
#include "cache/image_store.h"
#include "cache/record_store.h"
#include "compiler/compile_farm.h"
#include "compiler/nvrtc.h"

namespace quern {

/// One problem of one family.
struct KernelRequest {
  std::string family;
  Params problem;
  /// How often a step launches it: a tuner with little time begins with what takes the most of it.
  double launches = 1;
};

/// What a library has done so far.
struct KernelCounts {
  std::size_t compiled = 0;     // images built by NVRTC
  std::size_t image_hits = 0;   // images found in the cache
  std::size_t tuned = 0;        // problems served from a record
  std::size_t defaulted = 0;    // problems served by a default
  std::size_t gate_failed = 0;  // records of elsewhere that gave wrong results here
};

struct KernelLibraryOptions {
  std::filesystem::path cache_root;
  /// Searched first for libnvrtc and libcublasLt.
  std::vector<std::string> library_dirs;
  int compile_threads = 0;  // 0 = one per processor
  /// Starts a worker process once the kind of worker is appended, as in {"/path/to/quern", "worker"}.
  /// Empty: NVRTC runs in this process.
  std::vector<std::string> worker_command{};
  /// Only ever read (cache/system_cache.h); empty = none.
  std::filesystem::path system_cache_root = {};
};

/// What is known of kernels for one model of GPU: families, tuning records, images, compilers. Needs
/// no device, so that a tuner can keep its distance from the one that its candidates run on, and so
/// that it can be tested without one. Use it on one thread at a time.
class KernelCatalog {
 public:
  /// Throws DeviceError if NVRTC is missing, InputError if the cache folder cannot serve.
  KernelCatalog(const Arch& arch, const ordered_json& fingerprint, FamilyRegistry families,
                KernelLibraryOptions options);
  virtual ~KernelCatalog() = default;

  /// Why `config` cannot be used here, or nothing: the family's reasons, and what the device lacks
  /// where that is known.
  virtual std::optional<std::string> refusal(const Family& family, const Params& problem,
                                             const Params& config);
  /// Why this config must not be tried again on this GPU, or nothing: it took a process down.
  std::optional<std::string> blocked(const Family& family, const Params& problem,
                                     const Params& config) const;
  void block(const BlockedCandidate& candidate);
  /// The family's first candidate that can be used here. Throws InputError if there is none.
  Params default_config(const Family& family, const Params& problem);
  /// A record that can be used without a further look: of this GPU, up to date, gated.
  std::optional<TuningRecord> valid_record(const Family& family, const Params& problem);
  /// Configs recorded for this problem that are no valid record: of other GPUs of the same architecture, of
  /// older templates, imported. Starting points for the tuner; legal here, most trusted first.
  std::vector<Params> seeds(const Family& family, const Params& problem);
  /// Keeps a result on disk.
  virtual void record(const TuningRecord& record);
  /// Hash behind a record of this config (autotune/problem.h).
  std::string template_hash_of(const Family& family, const Params& problem,
                               const Params& config) const;

  const Arch& arch() const { return arch_; }
  const ordered_json& fingerprint() const { return records_.fingerprint(); }
  const FamilyRegistry& families() const { return families_; }
  const Nvrtc& nvrtc() const { return nvrtc_; }
  ImageStore& images() { return images_; }
  const RecordStore& records() const { return records_; }
  const KernelLibraryOptions& options() const { return options_; }
  const KernelCounts& counts() const { return counts_; }
  /// Notes what a compile farm of the caller's did.
  void count(const CompiledKernel& compiled);
  /// A farm on this catalog's NVRTC and image store.
  CompileFarm make_farm() const;

 protected:
  static std::string key_of(std::string_view family, const Params& problem);

  Arch arch_;
  FamilyRegistry families_;
  KernelLibraryOptions options_;
  Nvrtc nvrtc_;
  mutable ImageStore images_;
  RecordStore records_;
  BlockList blocked_;
  std::multimap<std::string, TuningRecord> foreign_;  // of other GPUs, by family and problem
  KernelCounts counts_;
};

}  // namespace quern
