#pragma once
#include <string>
#include <vector>

#include "runtime/base/arch.h"
#include "runtime/base/json.h"
#include "runtime/driver.h"
#include "runtime/handle.h"

namespace quern {

/// What is known of one GPU without creating a context on it.
struct DeviceInfo {
  int ordinal = 0;
  std::string name;  // "NVIDIA H200"
  std::string uuid;
  int compute_major = 0, compute_minor = 0;
  int num_sms = 0;
  long l2_bytes = 0;
  std::size_t memory_bytes = 0;
  int sm_clock_khz = 0;  // the highest
  int memory_clock_khz = 0;
  int memory_bus_bits = 0;
  int smem_per_block_bytes = 0, smem_per_sm_bytes = 0, max_threads_per_sm = 0, registers_per_sm = 0;
  int power_limit_w = 0;    // from NVML; 0 where NVML is missing
  int driver_version = 0;   // 13000 = CUDA 13.0
  std::string driver_name;  // "580.95.05" from NVML; empty where NVML is missing

  /// The architecture to compile for, with this device's own numbers filled in.
  Arch arch() const;
  /// Datasheet memory bandwidth from clock and bus width, in bytes per second.
  double peak_bytes_per_s() const;
  /// Dense tensor-core peak for 16-bit inputs and f32 sums at the highest clock, in operations per
  /// second (a multiply-add is two).
  double peak_tensor_flops_per_s() const;
  /// What tuning results depend on, as people read it: name, compute capability, SM count, L2,
  /// memory clock and bus, power limit, driver.
  ordered_json fingerprint() const;
};

/// All GPUs of this machine. Throws DeviceError if there is no driver or no GPU.
std::vector<DeviceInfo> devices();

/// The primary context of one GPU, current on the constructing thread. Every other runtime object
/// must be used on a thread where it is current (see make_current) and destroyed before it.
class Context {
 public:
  /// Throws DeviceError if `ordinal` does not exist.
  explicit Context(int ordinal = 0);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  const DeviceInfo& device() const { return info_; }
  void make_current() const;
  void synchronize() const;
  std::size_t free_bytes() const;

 private:
  DeviceInfo info_;
  CUdevice device_{};
  CUcontext context_{};
};

}  // namespace quern
