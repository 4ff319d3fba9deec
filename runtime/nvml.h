#pragma once
#include <optional>
#include <string>

namespace quern {

/// What NVML knows of a device; dlopen'd, and absent is an ordinary answer.
struct NvmlInfo {
  std::string driver_name;  // "580.95.05"
  int power_limit_w = 0;
};
/// `uuid` as DeviceInfo::uuid spells it ("GPU-....").
std::optional<NvmlInfo> nvml_info(const std::string& uuid);

}  // namespace quern
