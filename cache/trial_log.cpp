#include "cache/trial_log.h"

#include <algorithm>
#include <array>
#include <cmath>
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

constexpr std::string_view kTrial = "trial";
constexpr std::string_view kForgotten = "forgotten";
constexpr const char* kSuffix = ".trials.jsonl";
constexpr double kMaxError = 1e9;
constexpr std::size_t kMinDeadLines = 256;  // fewer are not worth a rewrite

constexpr std::array<std::string_view, 10> kTrialKeys{
    "device",        "at",     "family", "problem", "config",
    "template_hash", "status", "reason", "error",   "samples_us"};
constexpr std::array<std::string_view, 4> kForgottenKeys{"device", "at", "family", "problem"};

std::int64_t seconds_now() { return wall_clock().time_since_epoch().count(); }

/// Also for a time that lies in the future: the clock was wrong then or is now.
bool is_expired(std::int64_t at) {
  const std::int64_t max_age = std::chrono::seconds(TrialLog::kMaxAge).count();
  return std::abs(seconds_now() - at) > max_age;
}

ordered_json encode(const TrialEntry& e, const std::string& device, std::int64_t at) {
  return {{"device", device},          {"at", at},           {"family", e.family},
          {"problem", e.problem},      {"config", e.config}, {"template_hash", e.template_hash},
          {"status", e.status},        {"reason", e.reason}, {"error", e.error},
          {"samples_us", e.samples_us}};
}

std::int64_t time_of(const Fields& fields) {
  constexpr double kMaxSeconds = 1e11;  // the year 5138
  if (!fields.at("at").is_number_integer()) fields.wrong("at", "an integer");
  return static_cast<std::int64_t>(fields.real("at", kMaxSeconds));
}

TrialEntry decode(const Fields& fields) {
  const ordered_json& samples = fields.at("samples_us");
  if (!samples.is_array() || samples.size() > TrialLog::kMaxSamples)
    fields.wrong("samples_us", "a list of at most 2048 times");
  TrialEntry entry{fields.identifier("family"),     fields.flat_object("problem"),
                   fields.flat_object("config"),    fields.hash("template_hash"),
                   fields.identifier("status"),     fields.text("reason"),
                   fields.real("error", kMaxError), {}};
  for (const ordered_json& sample : samples) {
    const double us = sample.is_number() ? sample.get<double>() : -1.0;
    if (!(us >= 0 && us <= kMaxUs)) fields.wrong("samples_us", "a list of times in microseconds");
    entry.samples_us.push_back(us);
  }
  return entry;
}

/// As it will be read back.
void normalise(TrialEntry& entry) {
  entry.reason = plain(entry.reason);
  entry.error = entry.error >= 0 && entry.error <= kMaxError ? entry.error : kMaxError;
  for (double& us : entry.samples_us) us = std::round(us * 1000) / 1000;
}

}  // namespace

TrialLog::TrialLog(const fs::path& root, const ordered_json& fingerprint)
    : hash_(fingerprint_hash(fingerprint)), file_(tuning_file(root, hash_, kSuffix)) {
  check_root(root);
  std::size_t num_lines = 0;
  num_damaged_ = file_.read([&](std::string_view name, const ordered_json& value) {
    ++num_lines;
    return take(name, value, contents_);
  });
  const std::size_t num_dead = num_lines - std::min(num_lines, size());
  if (num_dead < std::max(kMinDeadLines, size())) return;
  Contents now;  // what others appended since included
  file_.compact(
      [&](std::string_view name, const ordered_json& value) { return take(name, value, now); },
      [&] { return remaining(now); });
}

bool TrialLog::take(std::string_view name, const ordered_json& value, Contents& contents) const {
  try {
    if (name == kForgotten) {
      const Fields fields(value, "forgotten problem", kForgottenKeys);
      if (fields.hash("device") != hash_) return false;
      contents.erase(problem_key(fields.identifier("family"), fields.flat_object("problem")));
      return true;
    }
    if (name != kTrial) return false;
    const Fields fields(value, "trial", kTrialKeys);
    // A file put under another device's name must not pass for this device's.
    if (fields.hash("device") != hash_) return false;
    const std::int64_t at = time_of(fields);
    TrialEntry entry = decode(fields);
    if (is_expired(at)) return true;
    const std::string problem = problem_key(entry.family, entry.problem);
    std::string key = candidate_key(entry.family, entry.problem, entry.config, entry.template_hash);
    contents[problem].insert_or_assign(std::move(key), Kept{std::move(entry), at});
    return true;
  } catch (const InputError&) {
    return false;
  }
}

std::string TrialLog::remaining(const Contents& contents) const {
  std::string lines;
  for (const auto& [problem, candidates] : contents)
    for (const auto& [key, kept] : candidates)
      lines += encode_line(kTrial, encode(kept.entry, hash_, kept.at));
  return lines;
}

const TrialEntry* TrialLog::find(const std::string& family, const ordered_json& problem,
                                 const ordered_json& config,
                                 const std::string& template_hash) const {
  const auto candidates = contents_.find(problem_key(family, problem));
  if (candidates == contents_.end()) return nullptr;
  const auto found = candidates->second.find(candidate_key(family, problem, config, template_hash));
  return found == candidates->second.end() ? nullptr : &found->second.entry;
}

void TrialLog::append(TrialEntry entry) {
  normalise(entry);
  const std::int64_t at = seconds_now();
  const ordered_json value = encode(entry, hash_, at);
  decode(Fields(value, "trial", kTrialKeys));  // what a reader would refuse is not written
  file_.append(encode_line(kTrial, value), JsonLines::Durability::process_crash);
  std::string key = candidate_key(entry.family, entry.problem, entry.config, entry.template_hash);
  contents_[problem_key(entry.family, entry.problem)].insert_or_assign(std::move(key),
                                                                       Kept{std::move(entry), at});
}

void TrialLog::forget(const std::string& family, const ordered_json& problem) {
  const std::string key = problem_key(family, problem);
  if (!contents_.contains(key)) return;
  const ordered_json value = {
      {"device", hash_}, {"at", seconds_now()}, {"family", family}, {"problem", problem}};
  file_.append(encode_line(kForgotten, value), JsonLines::Durability::process_crash);
  contents_.erase(key);
}

std::size_t TrialLog::size() const {
  std::size_t count = 0;
  for (const auto& [problem, candidates] : contents_) count += candidates.size();
  return count;
}

}  // namespace quern
