#pragma once
#include <condition_variable>
#include <cstddef>
#include <map>
#include <mutex>
#include <thread>

#include "autotune/kernel_catalog.h"

namespace quern {

/// The compiles of one tune: a farm whose outcomes are kept until somebody asks for them by ticket.
/// Any thread may call.
class CompileQueue {
 public:
  explicit CompileQueue(KernelCatalog& catalog);
  /// Abandons what has not begun.
  ~CompileQueue();
  CompileQueue(const CompileQueue&) = delete;
  CompileQueue& operator=(const CompileQueue&) = delete;

  /// Requests of a higher priority begin first.
  std::size_t submit(CompileRequest request, int priority = 0);
  /// Waits. An outcome is handed over once. Throws Error after finish().
  CompileOutcome take(std::size_t ticket);
  /// Requests without an outcome yet.
  std::size_t num_waiting() const;
  /// Drops what has not begun, waits for the rest and lets the catalog count all that was compiled.
  void finish();

 private:
  void collect();

  KernelCatalog& catalog_;
  CompileFarm farm_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::size_t, CompileOutcome> outcomes_;  // not taken yet
  std::size_t num_waiting_ = 0;
  bool stopping_ = false;
  std::thread collector_;
};

}  // namespace quern
