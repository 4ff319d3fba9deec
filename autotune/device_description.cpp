#include "autotune/device_description.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>

#include "autotune/fingerprint.h"
#include "cache/parse_json.h"
#include "runtime/base/error.h"

namespace quern {
namespace {

constexpr int kVersion = 1;
constexpr std::size_t kMaxText = 256;  // characters of a name

/// An integer member and the range that its value lies in on any GPU.
struct Number {
  std::string_view key;
  std::int64_t low, high;
};
constexpr std::int64_t kMany = std::int64_t{1} << 40;
constexpr std::array<Number, 5> kFingerprintNumbers{{{"num_sms", 1, 1 << 16},
                                                     {"l2_bytes", 0, kMany},
                                                     {"memory_clock_khz", 0, 1 << 30},
                                                     {"memory_bus_bits", 0, 1 << 24},
                                                     {"power_limit_w", 0, 1 << 20}}};
constexpr std::array<std::string_view, 3> kFingerprintTexts{"name", "compute_capability", "driver"};
constexpr std::array<Number, 4> kArchNumbers{{{"smem_per_block_bytes", 16 << 10, 16 << 20},
                                              {"smem_per_sm_bytes", 16 << 10, 16 << 20},
                                              {"max_threads_per_sm", 1024, 1 << 16},
                                              {"registers_per_sm", 1 << 14, 1 << 20}}};

[[noreturn]] void refuse(const std::string& reason) {
  throw InputError("the device description is refused: " + reason);
}

const ordered_json& member(const ordered_json& object, std::string_view key) {
  const auto found = object.find(key);
  if (found == object.end()) refuse(fmt::format("'{}' is missing", key));
  return *found;
}

std::int64_t number(const ordered_json& object, const Number& wanted) {
  const ordered_json& value = member(object, wanted.key);
  const bool fits = value.is_number_integer() &&
                    !(value.is_number_unsigned() &&
                      value.get<std::uint64_t>() > static_cast<std::uint64_t>(wanted.high)) &&
                    value.get<std::int64_t>() >= wanted.low &&
                    value.get<std::int64_t>() <= wanted.high;
  if (!fits)
    refuse(fmt::format("'{}' should be an integer from {} to {}", wanted.key, wanted.low,
                       wanted.high));
  return value.get<std::int64_t>();
}

/// Text that stays harmless in a log line, a table and a file.
std::string text(const ordered_json& object, std::string_view key) {
  const ordered_json& value = member(object, key);
  const bool plain = value.is_string() && !value.get_ref<const std::string&>().empty() &&
                     value.get_ref<const std::string&>().size() <= kMaxText &&
                     std::all_of(value.get_ref<const std::string&>().begin(),
                                 value.get_ref<const std::string&>().end(), [](char c) {
                                   return c >= ' ' && c <= '~' && c != '"' && c != '\\' && c != '#';
                                 });
  if (!plain) refuse(fmt::format("'{}' should be short printable text", key));
  return value.get<std::string>();
}

template <class IsKnown>
void refuse_unknown_keys(const ordered_json& object, IsKnown is_known) {
  for (const auto& [key, value] : object.items())
    if (!is_known(key)) refuse("it has a key that is not known in this version");
}

template <std::size_t N>
bool among(const std::array<Number, N>& numbers, std::string_view key) {
  return std::any_of(numbers.begin(), numbers.end(),
                     [&](const Number& known) { return known.key == key; });
}

ordered_json checked_fingerprint(const ordered_json& fingerprint) {
  if (!fingerprint.is_object()) refuse("'fingerprint' should be an object with every key once");
  refuse_unknown_keys(fingerprint, [](std::string_view key) {
    return among(kFingerprintNumbers, key) ||
           std::find(kFingerprintTexts.begin(), kFingerprintTexts.end(), key) !=
               kFingerprintTexts.end();
  });
  for (const Number& wanted : kFingerprintNumbers) number(fingerprint, wanted);
  for (const std::string_view key : kFingerprintTexts) text(fingerprint, key);
  return fingerprint;
}

}  // namespace

DeviceDescription describe(const DeviceInfo& device) {
  return {device.fingerprint(), device.arch()};
}

ordered_json to_json(const DeviceDescription& description) {
  const Arch& arch = description.arch;
  return {{"quern_device", kVersion},
          {"fingerprint", description.fingerprint},
          {"arch", arch.name()},
          {"smem_per_block_bytes", arch.smem_per_block_bytes},
          {"smem_per_sm_bytes", arch.smem_per_sm_bytes},
          {"max_threads_per_sm", arch.max_threads_per_sm},
          {"registers_per_sm", arch.registers_per_sm}};
}

DeviceDescription parse_device_description(const std::string& text_of_file) {
  const auto document = cache::parse_json(text_of_file);
  if (!document || !document->is_object() || !document->contains("quern_device"))
    throw InputError("this is no device description: `quern info --describe` writes one");
  if (document->at("quern_device") != kVersion)
    refuse(fmt::format("its version is not {}", kVersion));
  refuse_unknown_keys(*document, [](std::string_view key) {
    return key == "quern_device" || key == "fingerprint" || key == "arch" ||
           among(kArchNumbers, key);
  });
  DeviceDescription out;
  out.fingerprint = checked_fingerprint(member(*document, "fingerprint"));
  try {
    out.arch = arch_of_fingerprint(out.fingerprint);
  } catch (const InputError& error) {
    refuse(error.what());
  }
  if (text(*document, "arch") != out.arch.name())
    refuse(fmt::format("'arch' should be {}, for its compute capability", out.arch.name()));
  std::array<int, kArchNumbers.size()> values{};
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<int>(number(*document, kArchNumbers[i]));
  out.arch.smem_per_block_bytes = values[0];
  out.arch.smem_per_sm_bytes = values[1];
  out.arch.max_threads_per_sm = values[2];
  out.arch.registers_per_sm = values[3];
  if (out.arch.smem_per_block_bytes > out.arch.smem_per_sm_bytes)
    refuse("a block has more shared memory than its SM");
  return out;
}

}  // namespace quern
