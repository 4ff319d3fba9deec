#include "runtime/nvml.h"

#include "runtime/library.h"

namespace quern {
namespace {

// NVML's header is not part of every toolkit; these are its published signatures (NVML API
// reference), where every function returns 0 for success.
struct Nvml {
  using Device = struct nvmlDevice_st*;
  int (*init)() = nullptr;
  int (*driver_version)(char*, unsigned) = nullptr;
  int (*device_by_uuid)(const char*, Device*) = nullptr;
  int (*power_limit)(Device, unsigned*) = nullptr;  // milliwatts
  bool ready = false;

  Nvml() {
    const Library library({"libnvidia-ml.so.1"}, {});
    ready = library.load(init, "nvmlInit_v2") &&
            library.load(driver_version, "nvmlSystemGetDriverVersion") &&
            library.load(device_by_uuid, "nvmlDeviceGetHandleByUUID") &&
            library.load(power_limit, "nvmlDeviceGetEnforcedPowerLimit") && init() == 0;
  }
};

}  // namespace

std::optional<NvmlInfo> nvml_info(const std::string& uuid) {
  static const Nvml nvml;
  if (!nvml.ready) return std::nullopt;
  NvmlInfo info;
  char text[81] = {};
  if (nvml.driver_version(text, sizeof text - 1) == 0) info.driver_name = text;
  Nvml::Device device = nullptr;
  unsigned milliwatts = 0;
  if (nvml.device_by_uuid(uuid.c_str(), &device) == 0 && nvml.power_limit(device, &milliwatts) == 0)
    info.power_limit_w = static_cast<int>(milliwatts / 1000);
  return info;
}

}  // namespace quern
