#include "cache/record_store.h"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>
#include <utility>

#include "cache/fields.h"
#include "cache/files.h"
#include "cache/system_cache.h"
#include "cache/tuning_file.h"
#include "runtime/base/error.h"

namespace quern {
namespace fs = std::filesystem;
using namespace cache;
namespace {

constexpr std::string_view kRecord = "record";
constexpr std::string_view kDropped = "dropped";
constexpr const char* kSuffix = ".jsonl";

/// What a line that takes a record out of force names it by.
struct Dropped {
  std::string family;
  ordered_json problem, config;
  std::string template_hash;
  ordered_json fingerprint;
};
constexpr std::array<std::string_view, 5> kDroppedKeys{"family", "problem", "config",
                                                       "template_hash", "fingerprint"};

ordered_json encode_dropped(const TuningRecord& r) {
  return {{"family", r.family},
          {"problem", r.problem},
          {"config", r.config},
          {"template_hash", r.template_hash},
          {"fingerprint", r.fingerprint}};
}

Dropped decode_dropped(const ordered_json& value) {
  const Fields fields(value, "dropped record", kDroppedKeys);
  return {fields.identifier("family"), fields.flat_object("problem"), fields.flat_object("config"),
          fields.hash("template_hash"), fields.flat_object("fingerprint")};
}

using Records = std::map<std::string, TuningRecord>;  // by family and canonical problem

struct Contents {
  Records records;
  std::set<std::string> dropped;  // by family, problem, config and template
  std::size_t num_damaged = 0;
};

std::string key_of(const TuningRecord& r) { return problem_key(r.family, r.problem); }

std::string candidate_of(const TuningRecord& r) {
  return candidate_key(r.family, r.problem, r.config, r.template_hash);
}

/// Throws InputError for what no writer here can have written.
bool take_line(Contents& contents, const std::string& hash, std::string_view name,
               const ordered_json& value) {
  // A file put under another device's name must not pass for this device's.
  if (name == kRecord) {
    TuningRecord record = tuning_record_from_json(value);
    if (fingerprint_hash(record.fingerprint) != hash) return false;
    contents.dropped.erase(candidate_of(record));  // measured again, and right this time
    std::string key = key_of(record);
    contents.records.insert_or_assign(std::move(key), std::move(record));
    return true;
  }
  if (name != kDropped) return false;
  const Dropped dropped = decode_dropped(value);
  if (fingerprint_hash(dropped.fingerprint) != hash) return false;
  std::string candidate =
      candidate_key(dropped.family, dropped.problem, dropped.config, dropped.template_hash);
  const auto found = contents.records.find(problem_key(dropped.family, dropped.problem));
  if (found != contents.records.end() && candidate_of(found->second) == candidate)
    contents.records.erase(found);
  contents.dropped.insert(std::move(candidate));
  return true;
}

Contents read_file_of(const fs::path& root, const std::string& hash) {
  Contents contents;
  const JsonLines file(tuning_file(root, hash, kSuffix));
  contents.num_damaged = file.read([&](std::string_view name, const ordered_json& value) {
    try {
      return take_line(contents, hash, name, value);
    } catch (const InputError&) {
      return false;
    }
  });
  return contents;
}

bool is_readable(const fs::path& system_root) {
  return !system_root.empty() && !system_cache_problem(system_root);
}

/// What the system cache has and the user's neither has nor dropped.
Records read_system(const fs::path& system_root, const std::string& hash, const Contents& own) {
  if (foreign_writer(tuning_file(system_root, hash, kSuffix))) return {};
  Records records = read_file_of(system_root, hash).records;
  std::erase_if(records, [&](const auto& entry) {
    return own.records.contains(entry.first) || own.dropped.contains(candidate_of(entry.second));
  });
  return records;
}

void add_values(Records records, std::vector<TuningRecord>& out) {
  for (auto& [key, record] : records) out.push_back(std::move(record));
}

}  // namespace

RecordStore::RecordStore(const fs::path& root, ordered_json fingerprint,
                         const fs::path& system_root)
    : fingerprint_(std::move(fingerprint)),
      hash_(fingerprint_hash(fingerprint_)),
      file_(tuning_file(root, hash_, kSuffix)) {
  check_root(root);
  Contents own = read_file_of(root, hash_);
  num_damaged_ = own.num_damaged;
  Records system = is_readable(system_root) ? read_system(system_root, hash_, own) : Records();
  records_ = std::move(own.records);
  records_.merge(system);
}

std::optional<TuningRecord> RecordStore::find(const std::string& family,
                                              const ordered_json& problem) const {
  const auto found = records_.find(problem_key(family, problem));
  if (found == records_.end()) return std::nullopt;
  return found->second;
}

void RecordStore::note(const TuningRecord& record) {
  records_.insert_or_assign(key_of(record), record);
}

void RecordStore::append(std::span<const TuningRecord> records) {
  if (records.empty()) return;
  std::string lines;
  for (const TuningRecord& record : records) {
    const ordered_json value = to_json(record);
    tuning_record_from_json(value);  // what a reader would refuse is not written
    if (fingerprint_hash(record.fingerprint) != hash_)
      throw InputError("a tuning record belongs to another device than its file");
    lines += encode_line(kRecord, value);
  }
  file_.append(lines, JsonLines::Durability::power_cut);
  for (const TuningRecord& record : records) records_.insert_or_assign(key_of(record), record);
}

void RecordStore::drop(std::span<const TuningRecord> records) {
  if (records.empty()) return;
  std::string lines;
  for (const TuningRecord& record : records) lines += encode_line(kDropped, encode_dropped(record));
  file_.append(lines, JsonLines::Durability::power_cut);
  for (const TuningRecord& record : records) {
    const auto found = records_.find(key_of(record));
    if (found != records_.end() && candidate_of(found->second) == candidate_of(record))
      records_.erase(found);
  }
}

std::vector<TuningRecord> RecordStore::all() const {
  std::vector<TuningRecord> out;
  add_values(records_, out);
  return out;
}

std::vector<TuningRecord> all_records(const fs::path& root, std::size_t* num_damaged,
                                      const fs::path& system_root) {
  check_root(root);
  const bool layered = is_readable(system_root);
  std::vector<std::string> hashes = tuning_file_hashes(root, kSuffix);
  if (layered) {
    const auto others = tuning_file_hashes(system_root, kSuffix);
    hashes.insert(hashes.end(), others.begin(), others.end());
    std::sort(hashes.begin(), hashes.end());
    hashes.erase(std::unique(hashes.begin(), hashes.end()), hashes.end());
  }
  std::vector<TuningRecord> out;
  if (num_damaged) *num_damaged = 0;
  for (const std::string& hash : hashes) {
    Contents own = read_file_of(root, hash);
    if (num_damaged) *num_damaged += own.num_damaged;
    Records records = layered ? read_system(system_root, hash, own) : Records();
    records.merge(own.records);
    add_values(std::move(records), out);
  }
  return out;
}

std::vector<TuningRecord> system_records(const fs::path& root, const fs::path& system_root) {
  std::vector<TuningRecord> out;
  if (!is_readable(system_root)) return out;
  for (const std::string& hash : tuning_file_hashes(system_root, kSuffix))
    add_values(read_system(system_root, hash, read_file_of(root, hash)), out);
  return out;
}

}  // namespace quern
