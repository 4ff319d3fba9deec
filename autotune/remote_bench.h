#pragma once
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "autotune/trial_bench.h"
#include "runtime/base/child_process.h"
#include "runtime/base/json.h"

namespace quern {

struct RemoteBenchOptions {
  ChildOptions child;
  /// The first message to every new process, which says what to make a bench of; see
  /// autotune/bench_server.h. It answers {} or {"refused": sentence}.
  ordered_json hello;
  std::chrono::milliseconds open_deadline{180000};  // hello and open(); an oracle may be slow
  std::chrono::milliseconds trial_deadline{20000};  // everything else
};

/// Trials in a process of their own, which a candidate may take down: the trial then counts as
/// faulted, or as timed_out once its deadline has passed and the process is killed, and the next one
/// begins a new process, where the problem is opened again. A process that somebody killed (SIGKILL:
/// an operator, a machine out of memory) says nothing of the candidate, whose trial is repeated.
class RemoteBench : public TrialBench {
 public:
  explicit RemoteBench(RemoteBenchOptions options);
  ~RemoteBench() override;
  void start() override;
  /// Throws Error also if no process can be started, or if two in a row are lost over it.
  void open(const std::string& family, const Params& problem,
            std::span<const Params> configs) override;
  Verdict load(std::size_t candidate, const CompiledKernel* image) override;
  Verdict gate(std::size_t candidate) override;
  Verdict measure(std::size_t candidate, int num_samples,
                  std::vector<double>& samples_us) override;
  void close() override;

  /// Processes that were lost so far.
  std::size_t num_lost() const { return num_lost_; }
  /// Of the process under way; -1 if there is none.
  pid_t pid() const { return child_ ? child_->pid() : -1; }

 private:
  class Lost;
  void start_child();
  void open_child();
  /// Throws Error if the problem is refused, or if two processes in a row are lost over it.
  void ensure_open();
  /// Throws Lost if the process could not answer.
  ordered_json ask(const ordered_json& request, std::chrono::milliseconds deadline);
  /// The answer to a request about a candidate, its verdict being that the candidate is to blame if
  /// the process was lost. `request` null: only load it.
  ordered_json attempt(std::size_t candidate, const ordered_json& request);
  ordered_json attempt_once(std::size_t candidate, const ordered_json& request);
  ordered_json load_message(std::size_t candidate) const;
  [[noreturn]] void lose(TrialStatus status, const std::string& reason, bool killed = false);

  RemoteBenchOptions options_;
  std::unique_ptr<ChildProcess> child_;
  ordered_json problem_;  // the open() message; null if nothing is open
  bool is_open_ = false;  // in the child
  std::vector<ordered_json> images_;       // by candidate, as given to load(); null if not loaded
  std::vector<bool> is_loaded_;    // in the child
  std::size_t num_lost_ = 0;
};

}  // namespace quern
