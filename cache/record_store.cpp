#include "cache/record_store.h"

#include <string_view>
#include <utility>

#include "cache/files.h"
#include "cache/tuning_file.h"
#include "runtime/base/error.h"

namespace quern {
namespace fs = std::filesystem;
using namespace cache;
namespace {

constexpr std::string_view kName = "record";

constexpr const char* kSuffix = ".jsonl";

struct Contents {
  std::map<std::string, TuningRecord> records;
  std::size_t num_damaged = 0;
};

Contents read_records(const JsonLines& file, const std::string& hash) {
  Contents contents;
  contents.num_damaged = file.read([&](std::string_view name, const ordered_json& value) {
    if (name != kName) return false;
    try {
      TuningRecord record = tuning_record_from_json(value);
      // A file put under another device's name must not pass for this device's.
      if (fingerprint_hash(record.fingerprint) != hash) return false;
      std::string key = problem_key(record.family, record.problem);
      contents.records.insert_or_assign(std::move(key), std::move(record));
      return true;
    } catch (const InputError&) {
      return false;
    }
  });
  return contents;
}

}  // namespace

RecordStore::RecordStore(fs::path root, ordered_json fingerprint)
    : fingerprint_(std::move(fingerprint)),
      hash_(fingerprint_hash(fingerprint_)),
      file_(tuning_file(root, hash_, kSuffix)) {
  check_root(root);
  Contents contents = read_records(file_, hash_);
  records_ = std::move(contents.records);
  num_damaged_ = contents.num_damaged;
}

std::optional<TuningRecord> RecordStore::find(const std::string& family,
                                              const ordered_json& problem) const {
  const auto found = records_.find(problem_key(family, problem));
  if (found == records_.end()) return std::nullopt;
  return found->second;
}

void RecordStore::append(std::span<const TuningRecord> records) {
  if (records.empty()) return;
  std::string lines;
  for (const TuningRecord& record : records) {
    tuning_record_from_json(to_json(record));  // what a reader would refuse is not written
    if (fingerprint_hash(record.fingerprint) != hash_)
      throw InputError("a tuning record belongs to another device than its file");
    lines += encode_line(kName, to_json(record));
  }
  file_.append(lines, JsonLines::Durability::power_cut);
  for (const TuningRecord& record : records)
    records_.insert_or_assign(problem_key(record.family, record.problem), record);
}

std::vector<TuningRecord> RecordStore::all() const {
  std::vector<TuningRecord> out;
  for (const auto& [key, record] : records_) out.push_back(record);
  return out;
}

std::vector<TuningRecord> all_records(const fs::path& root, std::size_t* num_damaged) {
  check_root(root);
  std::vector<TuningRecord> out;
  if (num_damaged) *num_damaged = 0;
  for (const std::string& hash : tuning_file_hashes(root, kSuffix)) {
    Contents contents = read_records(JsonLines(tuning_file(root, hash, kSuffix)), hash);
    for (auto& [key, record] : contents.records) out.push_back(std::move(record));
    if (num_damaged) *num_damaged += contents.num_damaged;
  }
  return out;
}

}  // namespace quern
