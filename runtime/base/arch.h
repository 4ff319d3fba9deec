#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace quern {

/// A GPU architecture as the compiler and the config spaces need it. The per-device numbers
/// (num_sms, l2_bytes, dram_gbps) are those of a usual product; a real device overwrites them.
/// Sources: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; the
/// products' datasheets for clocks and rates, which only serve to rank configs before measurement.
struct Arch {
  int major = 0, minor = 0;
  /// "a": the target whose features are not forward compatible (wgmma, setmaxnreg, tcgen05).
  std::string suffix;
  int num_sms = 0;
  long l2_bytes = 0;
  int smem_per_block_bytes = 0;  // opt-in maximum
  int smem_per_sm_bytes = 0;
  int max_threads_per_sm = 0;
  int registers_per_sm = 65536;
  double dram_gbps = 2000;     // peak, 1e9 bytes per second
  double tensor_tflops = 300;  // peak of dense 16-bit products with fp32 sums
  double clock_ghz = 1.5;      // boost clock of the SMs

  int cc() const { return major * 10 + minor; }
  /// "sm_90a"
  std::string name() const;
  bool has_bf16_mma() const { return cc() >= 80; }
  bool has_fp8_mma() const { return cc() >= 89; }
  bool has_tma() const { return cc() >= 90; }
  /// Programmatic dependent launch (griddepcontrol).
  bool has_pdl() const { return cc() >= 90; }
  /// Operations (a multiply-add is two) that the tensor cores of one SM do in a clock: dense, 16-bit
  /// inputs, f32 sums. Source: NVIDIA's architecture white papers. GeForce products do half.
  double tensor_flops_per_sm_clock() const;
  bool has_wgmma() const { return major == 9 && suffix == "a"; }
};

/// The six that every template is compiled for: sm_80, sm_86, sm_89, sm_90a, sm_100a, sm_120a.
const std::vector<Arch>& known_archs();

/// "sm_90a" or "90a". Throws InputError listing the known names.
Arch parse_arch(std::string_view name);

/// The best target for a device of this compute capability: the known one it equals, else the
/// newest known one of the same major that it can run. Throws DeviceError if there is none.
Arch arch_for_device(int major, int minor);

}  // namespace quern
