#include "runtime/device.h"

#include <fmt/format.h>

#include "runtime/base/error.h"
#include "runtime/nvml.h"

namespace quern {
namespace {

int attribute(CUdevice device, CUdevice_attribute which) {
  int value = 0;
  check(driver().DeviceGetAttribute(&value, which, device));
  return value;
}

/// "GPU-8a4e4c1e-...": the spelling of nvidia-smi and NVML.
std::string uuid_text(const CUuuid& uuid) {
  std::string text = "GPU-";
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", static_cast<unsigned char>(uuid.bytes[i]));
  }
  return text;
}

int device_count() {
  int count = 0;
  check(driver().DeviceGetCount(&count));
  return count;
}

DeviceInfo describe(int ordinal) {
  const Driver& cuda = driver();
  CUdevice device{};
  check(cuda.DeviceGet(&device, ordinal));
  DeviceInfo info;
  info.ordinal = ordinal;
  char name[256] = {};
  check(cuda.DeviceGetName(name, sizeof name - 1, device));
  info.name = name;
  CUuuid uuid{};
  check(cuda.DeviceGetUuid(&uuid, device));
  info.uuid = uuid_text(uuid);
  info.compute_major = attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
  info.compute_minor = attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  info.num_sms = attribute(device, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  info.l2_bytes = attribute(device, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
  check(cuda.DeviceTotalMem(&info.memory_bytes, device));
  info.sm_clock_khz = attribute(device, CU_DEVICE_ATTRIBUTE_CLOCK_RATE);
  info.memory_clock_khz = attribute(device, CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE);
  info.memory_bus_bits = attribute(device, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH);
  info.smem_per_block_bytes =
      attribute(device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
  info.smem_per_sm_bytes =
      attribute(device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR);
  info.max_threads_per_sm = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR);
  info.registers_per_sm = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR);
  check(cuda.DriverGetVersion(&info.driver_version));
  if (const auto nvml = nvml_info(info.uuid)) {
    info.power_limit_w = nvml->power_limit_w;
    info.driver_name = nvml->driver_name;
  }
  return info;
}

DeviceInfo describe_existing(int ordinal) {
  const int count = device_count();
  if (ordinal < 0 || ordinal >= count)
    throw DeviceError(
        fmt::format("there is no GPU {}: this machine has {}, numbered from 0", ordinal, count));
  return describe(ordinal);
}

}  // namespace

Arch DeviceInfo::arch() const {
  Arch result = arch_for_device(compute_major, compute_minor);
  result.num_sms = num_sms;
  result.l2_bytes = l2_bytes;
  result.smem_per_block_bytes = smem_per_block_bytes;
  result.smem_per_sm_bytes = smem_per_sm_bytes;
  result.max_threads_per_sm = max_threads_per_sm;
  result.registers_per_sm = registers_per_sm;
  if (peak_bytes_per_s() > 0) result.dram_gbps = peak_bytes_per_s() * 1e-9;
  return result;
}

double DeviceInfo::peak_bytes_per_s() const {
  // Two transfers per clock: GDDR and HBM are both double data rate.
  return 2.0 * memory_clock_khz * 1000.0 * memory_bus_bits / 8.0;
}

double DeviceInfo::peak_tensor_flops_per_s() const {
  const double share = name.find("GeForce") == name.npos ? 1 : 0.5;
  return share * arch().tensor_flops_per_sm_clock() * num_sms * sm_clock_khz * 1000.0;
}

ordered_json DeviceInfo::fingerprint() const {
  return {{"name", name},
          {"compute_capability", fmt::format("{}.{}", compute_major, compute_minor)},
          {"num_sms", num_sms},
          {"l2_bytes", l2_bytes},
          {"memory_clock_khz", memory_clock_khz},
          {"memory_bus_bits", memory_bus_bits},
          {"power_limit_w", power_limit_w},
          {"driver", driver_name.empty() ? fmt::format("CUDA {}.{}", driver_version / 1000,
                                                       driver_version % 1000 / 10)
                                         : driver_name}};
}

std::vector<DeviceInfo> devices() {
  std::vector<DeviceInfo> all;
  const int count = device_count();
  for (int ordinal = 0; ordinal < count; ++ordinal) all.push_back(describe(ordinal));
  return all;
}

Context::Context(int ordinal) : info_(describe_existing(ordinal)) {
  check(driver().DeviceGet(&device_, ordinal));
  check(driver().DevicePrimaryCtxRetain(&context_, device_));
  if (const CUresult status = driver().CtxSetCurrent(context_); status != CUDA_SUCCESS) {
    driver().DevicePrimaryCtxRelease(device_);
    check(status);
  }
}

Context::~Context() { driver().DevicePrimaryCtxRelease(device_); }

void Context::make_current() const { check(driver().CtxSetCurrent(context_)); }
void Context::synchronize() const { check(driver().CtxSynchronize()); }

std::size_t Context::free_bytes() const {
  std::size_t free = 0, total = 0;
  check(driver().MemGetInfo(&free, &total));
  return free;
}

}  // namespace quern
