#pragma once
#include <cstddef>
#include <memory>
#include <optional>
#include <string>

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

/// Compiles many kernels at once on threads of its own and hands each over as it finishes, so that
/// a tuner can measure the first while the rest still compile. Equal requests are compiled once.
/// One failure stops nothing else. Requests and outcomes are plain data: whoever takes them need
/// not know whether threads or processes did the work.
///
/// submit(), next() and the rest may be called from any thread.
class CompileFarm {
 public:
  /// `nvrtc` and `store` (may be nullptr) must outlive the farm. `num_threads` of 0 or less means
  /// one per processor.
  CompileFarm(const Nvrtc& nvrtc, ImageStore* store, HeaderMap headers, int num_threads = 0);
  /// Waits for the compiles that have begun and abandons the rest.
  ~CompileFarm();

  /// Returns at once; tickets count up from 0.
  std::size_t submit(CompileRequest request);
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
  CompileCounts counts() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quern
