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
  int (*power_limit)(Device, unsigned*) = nullptr;             // milliwatts
  int (*total_energy)(Device, unsigned long long*) = nullptr;  // millijoules; may be absent
  bool ready = false;

  Nvml() {
    const Library library({"libnvidia-ml.so.1"}, {});
    ready = library.load(init, "nvmlInit_v2") &&
            library.load(driver_version, "nvmlSystemGetDriverVersion") &&
            library.load(device_by_uuid, "nvmlDeviceGetHandleByUUID") &&
            library.load(power_limit, "nvmlDeviceGetEnforcedPowerLimit") && init() == 0;
    library.load(total_energy, "nvmlDeviceGetTotalEnergyConsumption");
  }
};

const Nvml& loaded_nvml() {
  static const Nvml nvml;
  return nvml;
}

}  // namespace

std::optional<NvmlInfo> nvml_info(const std::string& uuid) {
  const Nvml& nvml = loaded_nvml();
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

EnergyCounter::EnergyCounter(const std::string& uuid) {
  const Nvml& nvml = loaded_nvml();
  Nvml::Device device = nullptr;
  if (nvml.ready && nvml.total_energy && nvml.device_by_uuid(uuid.c_str(), &device) == 0)
    device_ = device;
}

std::optional<std::uint64_t> EnergyCounter::read_mj() const {
  unsigned long long millijoules = 0;
  if (!device_ ||
      loaded_nvml().total_energy(static_cast<Nvml::Device>(device_), &millijoules) != 0)
    return std::nullopt;
  return millijoules;
}

}  // namespace quern
