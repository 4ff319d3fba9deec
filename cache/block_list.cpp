#include "cache/block_list.h"

#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include "cache/fields.h"
#include "cache/files.h"
#include "cache/record_store.h"
#include "cache/timestamp.h"
#include "cache/tuning_file.h"
#include "runtime/base/error.h"

namespace quern {
namespace fs = std::filesystem;
using namespace cache;
namespace {

constexpr std::string_view kName = "blocked";
constexpr const char* kSuffix = ".blocked.jsonl";
constexpr std::array<std::string_view, 8> kKeys{"family",      "problem", "config", "template_hash",
                                                "fingerprint", "status",  "reason", "seen_at"};

std::string key_of(const BlockedCandidate& c) {
  return candidate_key(c.family, c.problem, c.config, c.template_hash);
}

ordered_json encode(const BlockedCandidate& candidate, const ordered_json& fingerprint) {
  ordered_json value = to_json(candidate);
  value["fingerprint"] = fingerprint;
  return value;
}

struct Line {
  BlockedCandidate candidate;
  ordered_json fingerprint;
};

/// Throws InputError with a sentence for what append() cannot have written.
Line decode(const ordered_json& value) {
  const Fields fields(value, "blocked candidate", kKeys);
  Line line;
  line.candidate = {fields.identifier("family"),  fields.flat_object("problem"),
                    fields.flat_object("config"), fields.hash("template_hash"),
                    fields.identifier("status"),  fields.text("reason"),
                    fields.timestamp("seen_at")};
  line.fingerprint = fields.flat_object("fingerprint");
  return line;
}

struct Contents {
  std::map<std::string, BlockedCandidate> candidates;
  std::optional<ordered_json> fingerprint;  // of the last line
  std::size_t num_damaged = 0;
};

Contents read(const JsonLines& file, const std::string& hash) {
  Contents contents;
  contents.num_damaged = file.read([&](std::string_view name, const ordered_json& value) {
    if (name != kName) return false;
    try {
      Line line = decode(value);
      if (fingerprint_hash(line.fingerprint) != hash) return false;
      std::string key = key_of(line.candidate);
      contents.candidates.insert_or_assign(std::move(key), std::move(line.candidate));
      contents.fingerprint = std::move(line.fingerprint);
      return true;
    } catch (const InputError&) {
      return false;
    }
  });
  return contents;
}

std::vector<BlockedCandidate> values_of(const std::map<std::string, BlockedCandidate>& candidates) {
  std::vector<BlockedCandidate> out;
  for (const auto& [key, candidate] : candidates) out.push_back(candidate);
  return out;
}

}  // namespace

ordered_json to_json(const BlockedCandidate& c) {
  return {{"family", c.family},  {"problem", c.problem},
          {"config", c.config},  {"template_hash", c.template_hash},
          {"status", c.status},  {"reason", c.reason},
          {"seen_at", c.seen_at}};
}

BlockList::BlockList(const fs::path& root, ordered_json fingerprint)
    : fingerprint_(std::move(fingerprint)),
      file_(tuning_file(root, fingerprint_hash(fingerprint_), kSuffix)) {
  check_root(root);
  Contents contents = read(file_, fingerprint_hash(fingerprint_));
  candidates_ = std::move(contents.candidates);
  num_damaged_ = contents.num_damaged;
}

const BlockedCandidate* BlockList::find(const std::string& family, const ordered_json& problem,
                                        const ordered_json& config,
                                        const std::string& template_hash) const {
  const auto found = candidates_.find(candidate_key(family, problem, config, template_hash));
  return found == candidates_.end() ? nullptr : &found->second;
}

void BlockList::append(BlockedCandidate candidate) {
  candidate.reason = plain(candidate.reason);
  if (candidate.seen_at.empty()) candidate.seen_at = timestamp(wall_clock());
  const ordered_json value = encode(candidate, fingerprint_);
  decode(value);  // what a reader would refuse is not written
  file_.append(encode_line(kName, value), JsonLines::Durability::power_cut);
  std::string key = key_of(candidate);
  candidates_.insert_or_assign(std::move(key), std::move(candidate));
}

std::vector<BlockedCandidate> BlockList::all() const { return values_of(candidates_); }

std::vector<DeviceBlockList> all_block_lists(const fs::path& root, std::size_t* num_damaged) {
  check_root(root);
  std::vector<DeviceBlockList> lists;
  if (num_damaged) *num_damaged = 0;
  for (const std::string& hash : tuning_file_hashes(root, kSuffix)) {
    Contents contents = read(JsonLines(tuning_file(root, hash, kSuffix)), hash);
    if (num_damaged) *num_damaged += contents.num_damaged;
    if (contents.fingerprint)
      lists.push_back({*std::move(contents.fingerprint), values_of(contents.candidates)});
  }
  return lists;
}

}  // namespace quern
