#include "autotune/energy.h"

#include <chrono>

#include "runtime/base/error.h"

namespace quern {
namespace {

constexpr double kRunUs = 4000;  // short against the counter's period, long against a host's pause

class MeterBench : public EnergyBench {
 public:
  MeterBench(Meter& meter, std::size_t id, const ReadyKernel& kernel, const EnergyCounter& counter)
      : meter_(meter), id_(id), kernel_(kernel), counter_(counter) {}
  std::optional<std::uint64_t> counter_mj() override { return counter_.read_mj(); }
  std::size_t run() override { return meter_.run(id_, kernel_, kRunUs); }
  double seconds() override {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration<double>(now).count();
  }

 private:
  Meter& meter_;
  std::size_t id_;
  const ReadyKernel& kernel_;
  const EnergyCounter& counter_;
};

void add_energy(KernelLibrary& library, const EnergyCounter& counter, ProblemReport& problem) {
  const Family& family = library.families().at(problem.family);
  const Stream stream;
  Gate operands(library, family, problem.problem, stream, Gate::Use::operands_only);
  Meter meter(library.context(), operands, stream);
  const Params default_config = library.default_config(family, problem.problem);
  const auto measure = [&](std::size_t id, const Params& config) {
    return energy_mj(meter, id, library.load(family, problem.problem, config), counter);
  };
  problem.energy_mj = measure(0, problem.record.config);
  problem.default_energy_mj =
      problem.record.config == default_config ? problem.energy_mj : measure(1, default_config);
  if (!problem.energy_mj || problem.energy_mj == problem.record.energy_mj) return;
  problem.record.energy_mj = problem.energy_mj;
  library.record(problem.record);
}

}  // namespace

std::optional<double> energy_mj(EnergyBench& bench, const EnergyOptions& options) {
  const auto first = bench.counter_mj();
  if (!first) return std::nullopt;
  const double begin = bench.seconds();
  std::uint64_t last = *first, from = 0;
  double moved = begin, start = 0;  // when the counter moved last, and when counting began
  bool counting = false;
  for (std::size_t launches = 0;;) {
    launches += bench.run();
    const auto counter = bench.counter_mj();
    const double now = bench.seconds();
    if (!counter || *counter < last) return std::nullopt;
    if (*counter == last) {
      if (now - moved > options.patience_seconds) return std::nullopt;
      continue;
    }
    last = *counter;
    moved = now;
    if (!counting && now - begin >= options.settle_seconds) {
      counting = true;
      from = last;
      start = now;
      launches = 0;
    } else if (counting && now - start >= options.least_seconds) {
      if (launches == 0) return std::nullopt;
      return static_cast<double>(last - from) / static_cast<double>(launches);
    }
  }
}

std::optional<double> energy_mj(Meter& meter, std::size_t id, const ReadyKernel& kernel,
                                const EnergyCounter& counter) {
  MeterBench bench(meter, id, kernel, counter);
  return energy_mj(bench);
}

bool add_energy(KernelLibrary& library, TuneReport& report,
                const std::function<void(std::size_t done, std::size_t total)>& progress) {
  const EnergyCounter counter(library.context().device().uuid);
  if (!counter.read_mj()) return false;
  std::size_t done = 0;
  for (ProblemReport& problem : report.problems) {
    if (progress) progress(done++, report.problems.size());
    if (problem.outcome != ProblemReport::Outcome::tuned &&
        problem.outcome != ProblemReport::Outcome::recorded)
      continue;
    try {
      add_energy(library, counter, problem);
    } catch (const OutOfMemoryError&) {
      continue;
    }
  }
  return true;
}

}  // namespace quern
