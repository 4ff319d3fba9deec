#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "cache/json_lines.h"
#include "runtime/base/json.h"

namespace quern {

/// How one candidate of a tune under way fared.
struct TrialEntry {
  std::string family;
  ordered_json problem;  // flat parameters
  ordered_json config;   // flat parameters
  std::string template_hash;
  std::string status;              // identifier
  std::string reason;              // for people; text from outside, kept short and printable
  double error = 0;                // as a fraction of the tolerance; kept within 0 to 1e9
  std::vector<double> samples_us;  // at most 2048, kept to 0.001 us
};

/// Every finished measurement of tunes under way on one GPU, so that a killed tune resumes:
/// ROOT/tuning/<fingerprint hash>.trials.jsonl, with the newest entry of a candidate counting. A
/// trial is of use until its problem's record is written or a week has passed, and the file is
/// rewritten without those that are not when most of it is such. Not safe to use from several
/// threads; several processes may each have their own, and see what others appended before it was
/// made.
class TrialLog {
 public:
  static constexpr std::size_t kMaxSamples = 2048;
  static constexpr std::chrono::hours kMaxAge{7 * 24};

  /// Reads what is there, and compacts it where that pays. Throws InputError if `root` cannot serve
  /// as a cache (see ImageStore).
  TrialLog(const std::filesystem::path& root, const ordered_json& fingerprint);
  /// Null if there is none. Valid until the next append() or forget().
  const TrialEntry* find(const std::string& family, const ordered_json& problem,
                         const ordered_json& config, const std::string& template_hash) const;
  /// One write: survives the death of this process at any moment, not a power cut. Throws
  /// InputError if it cannot be written, or if a field is malformed.
  void append(TrialEntry entry);
  /// Drops the trials of a problem whose record is written. Throws InputError as append() does.
  void forget(const std::string& family, const ordered_json& problem);
  std::size_t size() const;
  /// Lines of the file that were skipped.
  std::size_t num_damaged() const { return num_damaged_; }

 private:
  struct Kept {
    TrialEntry entry;
    std::int64_t at = 0;  // seconds since 1970
  };
  /// By problem, then by candidate.
  using Contents = std::map<std::string, std::map<std::string, Kept>>;
  bool take(std::string_view name, const ordered_json& value, Contents& contents) const;
  std::string remaining(const Contents& contents) const;

  std::string hash_;  // of the fingerprint
  cache::JsonLines file_;
  Contents contents_;
  std::size_t num_damaged_ = 0;
};

}  // namespace quern
