#pragma once
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "autotune/search.h"
#include "compiler/compiled.h"
#include "templates/params.h"

namespace quern {

/// Where candidates are tried: one GPU, one problem at a time. What a tuner needs of a device, so
/// that the device may be in this process (DeviceBench), behind a process that can be lost
/// (RemoteBench), or made up (tests).
class TrialBench {
 public:
  virtual ~TrialBench() = default;
  /// Begins what takes long before anything can be opened: a process, a context of the device. May
  /// be left out; what fails here fails in open() again, which says why.
  virtual void start() {}
  /// Makes operands, and an oracle's answer to compare with; `configs` are the candidates by
  /// number. What was open before is closed. Throws Error with a sentence if the problem cannot be
  /// tried here: the oracle fails, or memory does not suffice.
  virtual void open(const std::string& family, const Params& problem,
                    std::span<const Params> configs) = 0;
  /// Before gate() and measure(), and without launching anything. `image` is null for a vendor
  /// library's routine.
  virtual Verdict load(std::size_t candidate, const CompiledKernel* image) = 0;
  /// Checks the outputs against the oracle's.
  virtual Verdict gate(std::size_t candidate) = 0;
  /// Appends times of one launch in microseconds: `num_samples` of them, or fewer where one is worth
  /// more.
  virtual Verdict measure(std::size_t candidate, int num_samples,
                          std::vector<double>& samples_us) = 0;
  /// Gives back the memory of what is open.
  virtual void close() = 0;
  /// Of the calls so far, how long they waited for their turn on a GPU that is shared.
  virtual double seconds_waited() const { return 0; }
};

}  // namespace quern
