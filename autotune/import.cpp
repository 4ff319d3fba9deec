#include "autotune/import.h"

#include <fmt/format.h>

#include <charconv>
#include <map>
#include <optional>
#include <string_view>

#include "autotune/problem.h"
#include "runtime/base/error.h"

namespace quern {
namespace {

std::optional<int> parse_int(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

/// Why the record is not believed, or nothing.
std::optional<std::string> refusal_of(const TuningRecord& record, const FamilyRegistry& families) {
  try {
    const Family& family = families.at(record.family);
    const Arch arch = arch_of_fingerprint(record.fingerprint);
    if (auto reason = outside_space(family, record.problem, record.config)) return reason;
    return refusal(family, record.problem, record.config, arch);
  } catch (const InputError& error) {
    return error.what();
  }
}

}  // namespace

Arch arch_of_fingerprint(const ordered_json& fingerprint) {
  const auto field = fingerprint.find("compute_capability");
  if (field == fingerprint.end() || !field->is_string())
    throw InputError("the fingerprint lacks 'compute_capability'");
  const std::string text = field->get<std::string>();
  const std::size_t dot = text.find('.');
  const auto major = parse_int(std::string_view(text).substr(0, dot));
  const auto minor =
      dot == text.npos ? std::nullopt : parse_int(std::string_view(text).substr(dot + 1));
  if (!major || !minor) throw InputError(fmt::format("'{}' is not a compute capability", text));
  Arch arch;
  try {
    arch = arch_for_device(*major, *minor);
  } catch (const DeviceError& error) {
    throw InputError(error.what());
  }
  const auto number = [&](const char* key, std::int64_t max) -> std::int64_t {
    const auto found = fingerprint.find(key);
    if (found == fingerprint.end() || !found->is_number_integer()) return 0;
    const auto value = found->get<std::int64_t>();
    return value > 0 && value <= max ? value : 0;
  };
  if (const auto sms = number("num_sms", 1 << 16)) arch.num_sms = static_cast<int>(sms);
  if (const auto l2 = number("l2_bytes", std::int64_t{1} << 40)) arch.l2_bytes = l2;
  return arch;
}

ImportReport import_records(const std::string& text, const FamilyRegistry& families,
                            const std::filesystem::path& root) {
  ImportResult parsed = parse_import(text);
  ImportReport report;
  report.refused = std::move(parsed.refused);
  std::map<std::string, std::vector<TuningRecord>> by_device;
  for (TuningRecord& record : parsed.accepted) {
    if (auto reason = refusal_of(record, families))
      report.refused.push_back(fmt::format("the record of {} {} is refused: {}", record.family,
                                           to_text(record.problem), *reason));
    else
      by_device[fingerprint_hash(record.fingerprint)].push_back(std::move(record));
  }
  for (auto& [hash, records] : by_device) {
    RecordStore store(root, records.front().fingerprint);
    report.kept += std::erase_if(records, [&](const TuningRecord& record) {
      const auto own = store.find(record.family, record.problem);
      return own && !own->imported && own->template_hash == record.template_hash;
    });
    store.append(records);
    report.accepted += records.size();
  }
  return report;
}

}  // namespace quern
