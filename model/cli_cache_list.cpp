#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <memory>
#include <optional>

#include "autotune/fingerprint.h"
#include "cache/block_list.h"
#include "cache/record_store.h"
#include "cache/timestamp.h"
#include "model/cli_cache.h"
#include "model/table.h"
#include "runtime/base/error.h"

namespace quern::cli {
namespace {

using std::chrono::seconds;

/// Since a time of ours or of a machine whose clock is ahead.
std::optional<seconds> age_of(const std::string& time) {
  const auto at = parse_timestamp(time);
  if (!at) return std::nullopt;
  return std::max(seconds(0), wall_clock() - *at);
}

/// "5 s", "12 min", "7 h", "3 d", "2 y".
std::string age_text(std::optional<seconds> age) {
  if (!age) return "-";
  struct Unit {
    std::int64_t seconds;
    const char* name;
  };
  constexpr Unit kUnits[] = {{365 * 86400, "y"}, {86400, "d"}, {3600, "h"}, {60, "min"}, {0, "s"}};
  for (const Unit& unit : kUnits)
    if (age->count() >= unit.seconds)
      return fmt::format("{} {}", age->count() / std::max<std::int64_t>(unit.seconds, 1),
                         unit.name);
  return "-";
}

/// The least bytes that the problem has to move, against the memory's datasheet bandwidth; nothing
/// for a family or a GPU that tells neither.
std::optional<double> percent_of_peak(const TuningRecord& record, const FamilyRegistry& families) {
  const double peak = peak_bytes_per_s(record.fingerprint);
  if (peak <= 0 || record.median_us <= 0) return std::nullopt;
  try {
    const double bytes = families.at(record.family).cost(record.problem).bytes;
    const double percent = 100 * bytes / (record.median_us * 1e-6) / peak;
    if (std::isfinite(percent) && percent > 0) return percent;
  } catch (const InputError&) {
  }
  return std::nullopt;
}

std::optional<double> speedup(const TuningRecord& record) {
  if (record.median_us <= 0 || record.default_us <= 0) return std::nullopt;
  return record.default_us / record.median_us;
}

struct Row {
  const TuningRecord& record;
  const char* origin;
};

ordered_json to_json(const Row& row, const FamilyRegistry& families) {
  ordered_json value = quern::to_json(row.record);
  const auto percent = percent_of_peak(row.record, families);
  const auto gain = speedup(row.record);
  const auto age = age_of(row.record.measured_at);
  value["percent_of_peak"] = percent ? ordered_json(*percent) : ordered_json();
  value["speedup"] = gain ? ordered_json(*gain) : ordered_json();
  value["age_seconds"] = age ? ordered_json(age->count()) : ordered_json();
  value["origin"] = row.origin;
  return value;
}

void list_records(const Common& common) {
  const FamilyRegistry families = families_of(common);
  std::size_t damaged = 0;
  const auto own = all_records(cache_root(common), &damaged);
  const auto system = system_records(cache_root(common), common.system_cache);
  std::vector<Row> rows;
  for (const TuningRecord& record : own)
    rows.push_back({record, record.imported ? "imported" : "own"});
  for (const TuningRecord& record : system) rows.push_back({record, "system"});
  if (common.json) {
    ordered_json records = ordered_json::array();
    for (const Row& row : rows) records.push_back(to_json(row, families));
    print_json({{"records", std::move(records)}, {"damaged_lines", damaged}});
    return;
  }
  Table table(
      {"problem", "config", "device", "us", "% of peak GB/s", "over default", "age", "origin"});
  const auto number = [](std::optional<double> value, const char* unit) {
    return value ? fmt::format("{:.2f}{}", *value, unit) : "-";
  };
  for (const Row& row : rows) {
    const TuningRecord& r = row.record;
    const auto percent = percent_of_peak(r, families);
    table.add({r.family + " " + to_text(r.problem), to_text(r.config), device_name(r.fingerprint),
               fmt::format("{:.1f}", r.median_us), percent ? fmt::format("{:.1f}", *percent) : "-",
               number(speedup(r), "x"), age_text(age_of(r.measured_at)), row.origin});
  }
  fmt::print("{}{} records, {} damaged lines\n", table.text(), rows.size(), damaged);
}

void list_blocked(const Common& common) {
  std::size_t damaged = 0, count = 0;
  const auto lists = all_block_lists(cache_root(common), &damaged);
  ordered_json blocked = ordered_json::array();
  Table table({"problem", "config", "device", "status", "age", "reason"});
  for (const DeviceBlockList& list : lists)
    for (const BlockedCandidate& c : list.candidates) {
      ++count;
      const auto age = age_of(c.seen_at);
      table.add({c.family + " " + to_text(c.problem), to_text(c.config),
                 device_name(list.fingerprint), c.status, age_text(age), c.reason});
      blocked.push_back(quern::to_json(c));
      blocked.back()["fingerprint"] = list.fingerprint;
      blocked.back()["age_seconds"] = age ? ordered_json(age->count()) : ordered_json();
    }
  if (common.json)
    print_json({{"blocked", std::move(blocked)}, {"damaged_lines", damaged}});
  else
    fmt::print("{}{} blocked candidates, {} damaged lines\n", table.text(), count, damaged);
}

}  // namespace

void add_cache_list(CLI::App& cache, Common& common) {
  const auto blocked = std::make_shared<bool>(false);
  CLI::App* ls = cache.add_subcommand(
      "ls",
      "tuning records: time, share of the memory's peak bandwidth that the least possible traffic "
      "makes, speed-up over the default, age, and whether they are this machine's own");
  ls->add_flag("--blocked", *blocked, "instead, the candidates that broke something");
  ls->callback([&common, blocked] { *blocked ? list_blocked(common) : list_records(common); });
}

}  // namespace quern::cli
