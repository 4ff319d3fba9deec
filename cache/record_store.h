#pragma once
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cache/json_lines.h"
#include "runtime/base/json.h"

namespace quern {

/// The outcome of tuning one problem on one GPU. Its JSON form is documented in cache/README.md.
struct TuningRecord {
  std::string family;
  ordered_json problem;       // flat parameters
  ordered_json config;        // flat parameters; the winner
  std::string template_hash;  // a record made from other template text is out of date
  ordered_json fingerprint;   // of the device (runtime/device.h)
  double median_us = 0;       // winner, cold L2, graph replay
  double spread_us = 0;       // half of the interquartile range
  int num_samples = 0;
  double default_us = 0;    // the default config in the same race
  double error = 0;         // worst |out - ref| / (abs + rel |ref|), at most 1
  std::string measured_at;  // ISO 8601, UTC: "2026-01-31T12:00:00Z"
  bool imported = false;    // not yet gated on this machine
  std::string nvrtc;        // that built the kernel: "13.0.88"; empty where nobody said
  std::optional<double> energy_mj = std::nullopt;  // millijoule a launch, where it was measured
};
ordered_json to_json(const TuningRecord& record);
/// Throws InputError with a sentence for unknown keys, missing keys, wrong types and values that no
/// tuning can have produced (negative or infinite times, nested parameters, unprintable names).
TuningRecord tuning_record_from_json(const ordered_json& value);

/// Names the file of records of one device: hash of the fingerprint whatever the order of its keys.
std::string fingerprint_hash(const ordered_json& fingerprint);

/// Tuning records on disk: ROOT/tuning/<fingerprint hash>.jsonl, append-only under an advisory
/// lock. The newest record of a problem wins; where there is none, one under `system_root`
/// (cache/system_cache.h) counts, which is never written. A torn last line and damaged lines are
/// skipped and counted. Not safe to use from several threads; several processes may each have their
/// own. Records that other processes append after construction are seen by the next RecordStore.
class RecordStore {
 public:
  /// Reads what is there. Throws InputError if `root` cannot serve as a cache (see ImageStore).
  RecordStore(const std::filesystem::path& root, ordered_json fingerprint,
              const std::filesystem::path& system_root = {});
  std::optional<TuningRecord> find(const std::string& family, const ordered_json& problem) const;
  /// On disk (fsynced) when this returns. Throws InputError if it cannot be written, or if a record
  /// is malformed or of another fingerprint; then none is written.
  void append(const TuningRecord& record) { append(std::span(&record, 1)); }
  void append(std::span<const TuningRecord> records);
  /// Counts a record that another store of the same cache has written since.
  void note(const TuningRecord& record);
  /// Takes records that proved wrong out of force, those of the system cache too, until their
  /// problems are tuned again. Throws InputError as append() does.
  void drop(std::span<const TuningRecord> records);
  /// The newest record of every problem, in order of family and problem.
  std::vector<TuningRecord> all() const;
  /// Lines of the user's file that were skipped.
  std::size_t num_damaged() const { return num_damaged_; }
  const ordered_json& fingerprint() const { return fingerprint_; }

 private:
  ordered_json fingerprint_;
  std::string hash_;  // of the fingerprint
  cache::JsonLines file_;
  std::map<std::string, TuningRecord> records_;  // by family and canonical problem
  std::size_t num_damaged_ = 0;
};

/// Records of every fingerprint as RecordStore finds them. `num_damaged`, if given, receives the
/// number of lines of `root` that were skipped. Throws InputError if `root` cannot be a cache.
std::vector<TuningRecord> all_records(const std::filesystem::path& root,
                                      std::size_t* num_damaged = nullptr,
                                      const std::filesystem::path& system_root = {});
/// The part of them that only the system cache has.
std::vector<TuningRecord> system_records(const std::filesystem::path& root,
                                         const std::filesystem::path& system_root);

}  // namespace quern
