#pragma once
#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "compiler/nvrtc.h"
#include "runtime/base/child_process.h"

namespace quern {

/// No worker can be started: the command is wrong, or finds another NVRTC.
class WorkerUnavailable : public Error {
 public:
  using Error::Error;
};

struct CompileWorkerOptions {
  /// Starts a process that calls serve_compiles().
  std::vector<std::string> command;
  /// For each compile.
  std::chrono::milliseconds deadline = std::chrono::seconds(60);
  /// Of one process, in bytes of private memory.
  std::size_t max_memory = std::size_t{2} << 30;
};

/// NVRTC in a process of its own, which is started when the first compile needs it, and again when
/// it was lost: a crash, a hang and a leak cost one compile. Use it on one thread at a time.
class CompileWorker {
 public:
  /// What every process is told first: where NVRTC is, and all headers. Made once for many workers.
  static std::string greeting(const Nvrtc& nvrtc, const HeaderMap& headers);

  /// `greeting` must outlive the worker; `version` is that of its NVRTC, which the process must
  /// have too. When `abandoned` turns true, compile() returns early by throwing Error.
  CompileWorker(CompileWorkerOptions options, const std::string& greeting, std::string version,
                const std::atomic<bool>& abandoned);

  /// As Nvrtc::compile(). Throws CompileError also if the process crashes, ends or is late over
  /// this request; WorkerUnavailable if there is no process to ask.
  KernelImage compile(const CompileRequest& request);

 private:
  void start();
  void try_to_start();
  std::optional<std::string> wait_for_answer(std::chrono::milliseconds patience);
  bool is_waiting_for_work();
  bool has_outgrown_its_bound() const;

  const CompileWorkerOptions options_;
  const std::string& greeting_;
  const std::string version_;
  const std::atomic<bool>& abandoned_;
  std::optional<ChildProcess> process_;
};

/// The worker's side: compiles what the parent sends until it is gone.
void serve_compiles(ParentChannel& parent);
/// The same with somebody else to compile, for tests of workers that fail.
using WorkerCompile = std::function<KernelImage(const Nvrtc& nvrtc, const CompileRequest& request,
                                                const HeaderMap& headers)>;
void serve_compiles(ParentChannel& parent, const WorkerCompile& compile);

}  // namespace quern
