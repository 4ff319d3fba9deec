#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "autotune/tuner.h"

namespace quern {

struct BackgroundTuneOptions {
  /// Of the time since the start, what measuring may take from the caller at most.
  double share = 0.25;
  /// The tuner's; progress and on_record are not used, and no warm-up is done, since serving does it.
  TuneOptions tune;
};

/// Tunes in a thread of its own while the caller serves on the same GPU. Candidates compile and are
/// checked beside the caller's work; they are timed while the caller waits in yield(), so that
/// neither disturbs the other, for a share of the time. What is found is on disk at once.
class BackgroundTuner {
 public:
  /// Starts. `catalog` and `bench` are the tuner's own: the catalog of the caller's library belongs
  /// to the caller's thread, and the bench should live in another process.
  BackgroundTuner(std::unique_ptr<KernelCatalog> catalog, std::unique_ptr<TrialBench> bench,
                  std::vector<KernelRequest> requests, BackgroundTuneOptions options);
  /// Ends the tune with the trial under way.
  ~BackgroundTuner();
  BackgroundTuner(const BackgroundTuner&) = delete;
  BackgroundTuner& operator=(const BackgroundTuner&) = delete;

  /// Lets waiting trials be timed, as far as the share allows; call it between steps, with nothing
  /// enqueued on the GPU. Returns what has been recorded since the last call.
  std::vector<TuningRecord> yield();
  /// True once there is nothing left to tune, or the tuner has failed.
  bool done() const;
  /// Why the tuner ended early, once it is done(); empty if it did not.
  std::string failure() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The same for the problems of `library`, in a worker process on its GPU
/// (KernelLibraryOptions::worker_command; without one there is none, and null is returned).
/// `make_families` as in serve_device_bench().
std::unique_ptr<BackgroundTuner> tune_in_background(KernelLibrary& library,
                                                    FamilyRegistry (*make_families)(HeaderMap),
                                                    std::vector<KernelRequest> requests,
                                                    BackgroundTuneOptions options = {});

}  // namespace quern
