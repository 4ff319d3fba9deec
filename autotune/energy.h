#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>

#include "autotune/meter.h"
#include "autotune/tuner.h"
#include "runtime/nvml.h"

namespace quern {

/// What a measurement of energy needs from the world; in tests a fake.
class EnergyBench {
 public:
  virtual ~EnergyBench() = default;
  /// A counter of millijoules that moves now and then; nothing where there is none.
  virtual std::optional<std::uint64_t> counter_mj() = 0;
  /// Launches for a few milliseconds, finished on return; their number.
  virtual std::size_t run() = 0;
  /// A clock.
  virtual double seconds() = 0;
};

struct EnergyOptions {
  double settle_seconds = 0.2;    // of load before counting, for clocks and power to settle
  double least_seconds = 0.4;     // of load between the two readings
  double patience_seconds = 1.0;  // a counter that rests for longer under load does not count
};

/// Energy of one launch in millijoules: launches follow each other without a pause, and those
/// between two movements of the counter, at least `least_seconds` apart, share what it counted.
/// Both ends are off by one run() at most, which is a percent or so. It is the energy of the whole
/// board while the kernel runs back to back: the idle power is included, and a slow kernel pays
/// more of it. Nothing if the counter is missing, rests or goes backwards.
std::optional<double> energy_mj(EnergyBench& bench, const EnergyOptions& options = {});

/// Of a kernel as `meter` times it, its operands not in the L2 cache. `id` as for Meter::measure().
/// Throws CudaError.
std::optional<double> energy_mj(Meter& meter, std::size_t id, const ReadyKernel& kernel,
                                const EnergyCounter& counter);

/// Fills in energy_mj and default_energy_mj of every problem of the report that has a record, in
/// about two seconds each, and keeps the record with the winner's. False, at once, if the GPU does not
/// count energy. A problem that does not fit into memory stays without. `progress` is told of every
/// problem. Throws CudaError, and InputError if the cache cannot be written.
bool add_energy(KernelLibrary& library, TuneReport& report,
                const std::function<void(std::size_t done, std::size_t total)>& progress = {});

}  // namespace quern
