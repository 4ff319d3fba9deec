#pragma once
#include <cstdint>
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

/// What a device has consumed, as it counts itself. The counter moves every 20 to 100 ms.
class EnergyCounter {
 public:
  /// `uuid` as above. Never throws: a device that cannot be found reads as nothing.
  explicit EnergyCounter(const std::string& uuid);
  /// Millijoules since the driver was loaded, of the whole board. Nothing where NVML is missing or
  /// the GPU (older than Volta, a MIG slice, a virtual one) does not count.
  std::optional<std::uint64_t> read_mj() const;

 private:
  void* device_ = nullptr;  // NVML's handle; null if there is none
};

}  // namespace quern
