#include "cache/merge.h"

#include <charconv>
#include <limits>
#include <map>
#include <string>
#include <utility>

#include "cache/tuning_file.h"

namespace quern {
namespace {

/// "13.0.88" as {13, 0, 88}; numbers too large to hold as the largest.
std::vector<long> numbers_of(const std::string& version) {
  std::vector<long> numbers;
  const char* at = version.data();
  const char* const end = at + version.size();
  while (at < end) {
    long number = 0;
    const auto [next, error] = std::from_chars(at, end, number);
    if (error == std::errc::invalid_argument) break;
    numbers.push_back(error == std::errc() ? number : std::numeric_limits<long>::max());
    at = next < end ? next + 1 : end;
  }
  return numbers;
}

double relative_spread(const TuningRecord& r) {
  return r.median_us > 0 ? r.spread_us / r.median_us : std::numeric_limits<double>::infinity();
}

}  // namespace

bool is_better(const TuningRecord& a, const TuningRecord& b) {
  const auto version_a = numbers_of(a.nvrtc), version_b = numbers_of(b.nvrtc);
  if (version_a != version_b) return version_a > version_b;
  const double spread_a = relative_spread(a), spread_b = relative_spread(b);
  if (spread_a != spread_b) return spread_a < spread_b;
  if (a.median_us != b.median_us) return a.median_us < b.median_us;
  return to_json(a).dump() < to_json(b).dump();
}

std::vector<TuningRecord> merge_records(std::vector<TuningRecord> records) {
  std::map<std::string, TuningRecord> best;
  for (TuningRecord& record : records) {
    std::string key = fingerprint_hash(record.fingerprint) + " " +
                      cache::problem_key(record.family, record.problem);
    const auto [found, added] = best.try_emplace(std::move(key), record);
    if (!added && is_better(record, found->second)) found->second = std::move(record);
  }
  std::vector<TuningRecord> out;
  for (auto& [key, record] : best) out.push_back(std::move(record));
  return out;
}

}  // namespace quern
