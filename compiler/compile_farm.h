#pragma once
#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "compiler/compiled.h"

namespace quern {

/// How many requests ended how.
struct CompileCounts {
  std::size_t compiled = 0, from_cache = 0, failed = 0;
};

/// What became of one request.
struct CompileOutcome {
  std::size_t ticket = 0;
  std::optional<CompiledKernel> kernel;  // unset if the request failed
  std::string error;                     // then: the sentence
  std::string log;                       // and the compiler's whole log
};

struct CompileFarmOptions {
  /// 0 or less: one per processor, fewer where memory is short.
  int num_workers = 0;
  /// Starts a process that calls serve_compiles(). Empty: NVRTC runs in this process, where it can
  /// neither be stopped nor survived.
  std::vector<std::string> worker_command{};
  /// For one compile in a worker process.
  std::chrono::milliseconds deadline = std::chrono::seconds(60);
  /// Of one worker process, in bytes of private memory.
  std::size_t max_worker_memory = std::size_t{2} << 30;
};

/// The command that starts a compile worker: `worker_command` with the kind of worker behind it,
/// {"/path/to/quern", "worker", "compile"}. Empty if `worker_command` is.
std::vector<std::string> compile_worker_command(std::vector<std::string> worker_command);

/// Compiles many kernels at once and hands each over as it finishes, so that a tuner can measure
/// the first while the rest still compile. Equal requests are compiled once. One failure stops
/// nothing else: with worker processes that is true of a crash or a hang of NVRTC too, which costs
/// the request that it happened to and is not tried again. Threads of this process look into the
/// cache and write to it, one thread a worker, so that killing a worker leaves nothing behind.
///
/// Threads and processes start as work comes, and none without. Where no process can be started, a
/// warning is logged and NVRTC runs in this process.
///
/// submit(), next() and the rest may be called from any thread.
class CompileFarm {
 public:
  /// `nvrtc` and `store` (may be nullptr) must outlive the farm.
  CompileFarm(const Nvrtc& nvrtc, ImageStore* store, HeaderMap headers,
              CompileFarmOptions options = {});
  /// Abandons what has not finished: worker processes are killed, and compiles that have begun in
  /// this process are waited for.
  ~CompileFarm();

  /// Returns at once; tickets count up from 0. Requests of a higher priority begin first, those of
  /// one priority in the order in which they came.
  std::size_t submit(CompileRequest request, int priority = 0);
  /// The next finished request, in no fixed order; waits for one. nullopt once every request has
  /// been handed over.
  std::optional<CompileOutcome> next();
  /// The same without waiting: nullopt if none has finished yet.
  std::optional<CompileOutcome> try_next();
  /// Drops the requests that have not begun, for a budget that has run out; they are not handed
  /// over. Returns how many.
  std::size_t cancel();

  /// Requests submitted, not dropped and not yet handed over.
  std::size_t num_outstanding() const;
  /// Requests that have not begun.
  std::size_t num_waiting() const;
  CompileCounts counts() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quern
