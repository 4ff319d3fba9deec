#include "autotune/fingerprint.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/base/error.h"

namespace quern {
namespace {

std::optional<int> parse_int(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

/// A field that is a whole number from 1 to `max`, else 0.
std::int64_t positive(const ordered_json& fingerprint, const char* key, std::int64_t max) {
  const auto found = fingerprint.find(key);
  if (found == fingerprint.end() || !found->is_number_integer()) return 0;
  const auto value = found->get<std::int64_t>();
  return value > 0 && value <= max ? value : 0;
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
  if (const auto sms = positive(fingerprint, "num_sms", 1 << 16))
    arch.num_sms = static_cast<int>(sms);
  if (const auto l2 = positive(fingerprint, "l2_bytes", std::int64_t{1} << 40)) arch.l2_bytes = l2;
  return arch;
}

double peak_bytes_per_s(const ordered_json& fingerprint) {
  const auto khz = positive(fingerprint, "memory_clock_khz", std::int64_t{1} << 31);
  const auto bits = positive(fingerprint, "memory_bus_bits", 1 << 20);
  // Two transfers per clock, as DeviceInfo::peak_bytes_per_s() has it.
  return 2.0 * static_cast<double>(khz) * 1000.0 * static_cast<double>(bits) / 8.0;
}

}  // namespace quern
