#include "runtime/base/arch.h"

#include <fmt/format.h>

#include "runtime/base/error.h"

namespace quern {

std::string Arch::name() const { return fmt::format("sm_{}{}", cc(), suffix); }

double Arch::tensor_flops_per_sm_clock() const {
  if (major == 10) return 8192;
  if (major == 9) return 4096;
  return cc() == 80 ? 2048 : 1024;
}

const std::vector<Arch>& known_archs() {
  constexpr int kib = 1024, regs = 65536;
  constexpr long mib = 1024 * 1024;
  static const std::vector<Arch> archs = {
      {8, 0, "", 108, 40 * mib, 163 * kib, 164 * kib, 2048, regs, 2039, 312, 1.41},     // A100
      {8, 6, "", 84, 6 * mib, 99 * kib, 100 * kib, 1536, regs, 936, 71, 1.70},          // RTX 3090
      {8, 9, "", 128, 72 * mib, 99 * kib, 100 * kib, 1536, regs, 1008, 165, 2.52},      // RTX 4090
      {9, 0, "a", 132, 50 * mib, 227 * kib, 228 * kib, 2048, regs, 4900, 989, 1.83},    // H200
      {10, 0, "a", 148, 126 * mib, 227 * kib, 228 * kib, 2048, regs, 8000, 2250, 1.9},  // B200
      {12, 0, "a", 170, 96 * mib, 99 * kib, 100 * kib, 1536, regs, 1792, 209, 2.41},    // RTX 5090
  };
  return archs;
}

Arch parse_arch(std::string_view name) {
  const std::string wanted =
      name.substr(0, 3) == "sm_" ? std::string(name) : fmt::format("sm_{}", name);
  std::string names;
  for (const Arch& arch : known_archs()) {
    if (arch.name() == wanted) return arch;
    names += (names.empty() ? "" : ", ") + arch.name();
  }
  throw InputError(fmt::format("unknown architecture '{}': known are {}", name, names));
}

Arch arch_for_device(int major, int minor) {
  const Arch* best = nullptr;
  for (const Arch& arch : known_archs()) {
    if (arch.major == major && arch.minor == minor) return arch;
    // A cubin without suffix runs on later minors of its major; one with a suffix does not.
    if (arch.major == major && arch.minor < minor && arch.suffix.empty()) best = &arch;
  }
  if (best) return *best;
  if (major > 8 || (major == 8 && minor > 0)) {  // e.g. sm_103, sm_121: build plainly for itself
    for (const Arch& arch : known_archs())
      if (arch.major == major) {
        Arch plain = arch;
        plain.minor = minor;
        plain.suffix.clear();
        return plain;
      }
  }
  throw DeviceError(fmt::format(
      "GPUs of compute capability {}.{} are not supported: 8.0 or newer is needed", major, minor));
}

}  // namespace quern
