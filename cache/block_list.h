#pragma once
#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "cache/json_lines.h"
#include "runtime/base/json.h"

namespace quern {

/// A config that broke something on one GPU: an illegal address, a hang, a trap.
struct BlockedCandidate {
  std::string family;
  ordered_json problem;       // flat parameters
  ordered_json config;        // flat parameters
  std::string template_hash;  // with other template text the candidate deserves another try
  std::string status;         // identifier: what happened
  std::string reason;         // for people; text from outside, kept short and printable
  std::string seen_at;        // UTC, "2026-01-31T12:00:00Z"; append() fills an empty one in
};
ordered_json to_json(const BlockedCandidate& candidate);

/// The candidates that later runs on one GPU skip: ROOT/tuning/<fingerprint hash>.blocked.jsonl,
/// append-only and damage-tolerant like the tuning records beside it. Another driver is another
/// fingerprint and starts with an empty list. Not safe to use from several threads; several
/// processes may each have their own, and see what others appended before it was made.
class BlockList {
 public:
  /// Reads what is there. Throws InputError if `root` cannot serve as a cache (see ImageStore).
  BlockList(const std::filesystem::path& root, ordered_json fingerprint);
  /// Null if the candidate is not blocked. Valid until the next append().
  const BlockedCandidate* find(const std::string& family, const ordered_json& problem,
                               const ordered_json& config, const std::string& template_hash) const;
  /// On disk (fsynced) when this returns. Throws InputError if it cannot be written or if a field
  /// other than the reason is malformed.
  void append(BlockedCandidate candidate);
  bool empty() const { return candidates_.empty(); }
  /// Each candidate once, as last seen, in order of family, problem and config.
  std::vector<BlockedCandidate> all() const;
  /// Lines of the file that were skipped.
  std::size_t num_damaged() const { return num_damaged_; }

 private:
  ordered_json fingerprint_;
  cache::JsonLines file_;
  std::map<std::string, BlockedCandidate> candidates_;
  std::size_t num_damaged_ = 0;
};

struct DeviceBlockList {
  ordered_json fingerprint;
  std::vector<BlockedCandidate> candidates;  // in order of family, problem and config
};
/// Those of every GPU that has one under `root`. `num_damaged`, if given, receives the number of
/// lines skipped. Throws InputError if `root` cannot be a cache.
std::vector<DeviceBlockList> all_block_lists(const std::filesystem::path& root,
                                             std::size_t* num_damaged = nullptr);

}  // namespace quern
