#include "cache/record_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>
#include <utility>

#include "cache/files.h"
#include "cache/parse_json.h"
#include "runtime/base/error.h"
#include "runtime/base/hash.h"

namespace quern {
namespace fs = std::filesystem;
using namespace cache;
namespace {

constexpr std::size_t kMaxLine = 64 << 10;  // bytes; a record has some hundreds

/// One line: {"checksum":"<32 hex>","record":{...}}. The checksum covers the record's text, so a
/// flipped digit is noticed although the line is still JSON.
constexpr std::string_view kBeforeSum = "{\"checksum\":\"";
constexpr std::string_view kBeforeRecord = "\",\"record\":";

std::string encode(const TuningRecord& record) {
  const std::string text = to_json(record).dump();
  return fmt::format("{}{}{}{}}}\n", kBeforeSum, content_hash(text), kBeforeRecord, text);
}

std::optional<TuningRecord> decode(std::string_view line) {
  if (!line.starts_with(kBeforeSum)) return std::nullopt;
  line.remove_prefix(kBeforeSum.size());
  const std::string_view sum = line.substr(0, 32);
  if (!line.substr(sum.size()).starts_with(kBeforeRecord) || !line.ends_with('}'))
    return std::nullopt;
  line.remove_prefix(sum.size() + kBeforeRecord.size());
  line.remove_suffix(1);
  if (content_hash(line) != sum) return std::nullopt;
  const auto value = parse_json(line);
  if (!value) return std::nullopt;
  try {
    return tuning_record_from_json(*value);
  } catch (const InputError&) {
    return std::nullopt;
  }
}

std::string key_of(const std::string& family, const ordered_json& problem) {
  return family + " " + json(problem).dump();
}

fs::path file_of(const fs::path& root, const std::string& hash) {
  return root / "tuning" / (hash + ".jsonl");
}

struct Contents {
  std::map<std::string, TuningRecord> records;
  std::size_t num_damaged = 0;
};

/// Calls `take` for every line, the last with or without its newline. Lines longer than kMaxLine
/// are cut there, which no record survives.
template <class Take>
void for_each_line(int fd, Take take) {
  std::array<char, 64 << 10> block;
  std::string line;
  for (;;) {
    const ssize_t count = ::read(fd, block.data(), block.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    std::string_view rest(block.data(), static_cast<std::size_t>(count));
    for (;;) {
      const std::size_t end = rest.find('\n');
      const std::string_view piece = rest.substr(0, end);
      line.append(piece.substr(0, kMaxLine - std::min(kMaxLine, line.size())));
      if (end == rest.npos) break;
      take(std::string_view(line));
      line.clear();
      rest.remove_prefix(end + 1);
    }
  }
  if (!line.empty()) take(std::string_view(line));
}

Contents read_records(const fs::path& path, const std::string& hash) {
  Contents contents;
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat status {};
  if (!file || ::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) return contents;
  lock(file, /*exclusive=*/false);
  for_each_line(file.get(), [&](std::string_view line) {
    if (line.empty()) return;  // left by the repair of a torn line
    auto record = decode(line);
    // A file put under another device's name must not pass for this device's.
    if (!record || fingerprint_hash(record->fingerprint) != hash) {
      ++contents.num_damaged;
      return;
    }
    std::string key = key_of(record->family, record->problem);
    contents.records.insert_or_assign(std::move(key), *std::move(record));
  });
  return contents;
}

void append_text(const fs::path& path, std::string text) {
  const Descriptor file(
      ::open(path.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) fail_on_file("write", path);
  lock(file, /*exclusive=*/true);
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail_on_file("write", path);
  char last = '\n';
  if (status.st_size > 0 && ::pread(file.get(), &last, 1, status.st_size - 1) != 1)
    fail_on_file("read", path);
  // A writer that was killed left half a line: end it, or it would swallow this record too.
  if (last != '\n') text = std::string(1, '\n').append(text);
  if (!write_all(file.get(), text) || ::fsync(file.get()) != 0) {
    const int error = errno;
    // Disk full: take back the half that was written; a reader would skip it in any case.
    [[maybe_unused]] const int ignored = ::ftruncate(file.get(), status.st_size);
    errno = error;
    fail_on_file("write", path);
  }
  if (status.st_size == 0) sync_folder(path.parent_path());
}

}  // namespace

RecordStore::RecordStore(fs::path root, ordered_json fingerprint)
    : root_(std::move(root)), fingerprint_(std::move(fingerprint)) {
  check_root(root_);
  const std::string hash = fingerprint_hash(fingerprint_);
  Contents contents = read_records(file_of(root_, hash), hash);
  records_ = std::move(contents.records);
  num_damaged_ = contents.num_damaged;
}

std::optional<TuningRecord> RecordStore::find(const std::string& family,
                                              const ordered_json& problem) const {
  const auto found = records_.find(key_of(family, problem));
  if (found == records_.end()) return std::nullopt;
  return found->second;
}

void RecordStore::append(std::span<const TuningRecord> records) {
  if (records.empty()) return;
  const std::string hash = fingerprint_hash(fingerprint_);
  std::string text;
  for (const TuningRecord& record : records) {
    tuning_record_from_json(to_json(record));  // what a reader would refuse is not written
    if (fingerprint_hash(record.fingerprint) != hash)
      throw InputError("a tuning record belongs to another device than its file");
    text += encode(record);
  }
  const fs::path path = file_of(root_, hash);
  make_private_folder(path.parent_path());
  append_text(path, std::move(text));
  for (const TuningRecord& record : records)
    records_.insert_or_assign(key_of(record.family, record.problem), record);
}

std::vector<TuningRecord> RecordStore::all() const {
  std::vector<TuningRecord> out;
  for (const auto& [key, record] : records_) out.push_back(record);
  return out;
}

std::vector<TuningRecord> all_records(const fs::path& root, std::size_t* num_damaged) {
  check_root(root);
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root / "tuning", error))
    if (entry.path().extension() == ".jsonl" && is_hash(entry.path().stem().string()))
      files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<TuningRecord> out;
  if (num_damaged) *num_damaged = 0;
  for (const fs::path& file : files) {
    Contents contents = read_records(file, file.stem().string());
    for (auto& [key, record] : contents.records) out.push_back(std::move(record));
    if (num_damaged) *num_damaged += contents.num_damaged;
  }
  return out;
}

}  // namespace quern
