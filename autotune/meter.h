#pragma once
#include <cstddef>
#include <map>
#include <span>
#include <vector>

#include "autotune/gate.h"
#include "runtime/graph.h"

namespace quern {

/// Times kernels of one problem as they run in a model: as nodes of a replayed graph, operands not
/// in the L2 cache. The nodes go round enough operand sets that everybody else's bytes between two
/// uses of a set exceed twice the L2, or as many as memory and kMaxSets allow (small activations
/// stay warm, as they do behind the kernel that made them), and there are enough of them for a
/// replay to last kReplayUs.
class Meter {
 public:
  static constexpr std::size_t kMaxSets = 256;
  static constexpr double kReplayUs = 250;

  /// Uses the gate's operands and workspace, and sets beside them.
  Meter(const Context& context, Gate& gate, const Stream& stream);

  /// Captures the kernel's graph, if it is known how long one has to be. Launches nothing.
  void prepare(std::size_t id, const ReadyKernel& kernel);
  /// Appends `num_samples` times of one launch in microseconds, each the mean over a replay; a
  /// third of them where a replay is long. `id` names the kernel, whose graph is kept. Throws
  /// CudaError.
  void measure(std::size_t id, const ReadyKernel& kernel, int num_samples,
               std::vector<double>& samples_us);
  /// Keeps the device busy with the kernel for `us` or a replay more, and waits for it. Returns the
  /// launches. Throws CudaError.
  std::size_t run(std::size_t id, const ReadyKernel& kernel, double us);
  std::size_t num_sets() const { return 1 + more_.size(); }

 private:
  struct Replay {
    GraphExec graph;
    std::size_t num_nodes = 0;
    double us = 0;  // a replay's, roughly; 0 while unknown
  };
  Replay& replay_of(std::size_t id, const ReadyKernel& kernel);
  Replay capture(const ReadyKernel& kernel, std::size_t num_nodes);
  double time_us(const Replay& replay);
  std::size_t nodes_for(double us_per_node) const;

  Gate& gate_;
  const Stream& stream_;
  Buffer memory_;                 // of all sets but the first
  std::vector<OperandSet> more_;  // besides the gate's own
  std::size_t num_nodes_ = 0;     // of the next graph; 0 while unknown
  std::map<std::size_t, Replay> replays_;
};

/// Who takes part in a comparison.
struct Contender {
  const Family* family;
  Params problem, config;
};
/// Times contenders against each other, those of one problem on the same operands: `rounds` rounds
/// in which everybody runs a few replays, after one that does not count. One timing for each.
/// Throws CompileError, OutOfMemoryError, CudaError.
std::vector<Timing> time_in_turns(KernelLibrary& library, std::span<const Contender> contenders,
                                  int rounds = 11);
/// The same for configs of one problem.
std::vector<Timing> time_configs(KernelLibrary& library, const Family& family,
                                 const Params& problem, std::span<const Params> configs,
                                 int rounds = 11);

}  // namespace quern
