#pragma once
#include <memory>
#include <string>
#include <vector>

#include "autotune/kernel_library.h"
#include "autotune/remote_bench.h"

namespace quern {

/// What a RemoteBench needs to run a DeviceBench on GPU `ordinal` in a process started by `command`,
/// a program whose main() hands its channel to serve_device_bench(). `options` are those of the
/// library that will use the results, so that both share a cache.
RemoteBenchOptions device_worker(std::vector<std::string> command, int ordinal,
                                 const KernelLibraryOptions& options, const HeaderMap& templates);

/// `per_gpu` benches that take turns (autotune/shared_gpu_bench.h) on the GPU of `library` and on each
/// other GPU of this machine that equals it (fingerprint), at most `max_gpus` in all; 0 = no limit.
/// Each in a process of its own, if KernelLibraryOptions::worker_command says how to start one
/// ("measure" is appended); else there is one, in this process.
std::vector<std::unique_ptr<TrialBench>> device_benches(KernelLibrary& library, int max_gpus,
                                                        int per_gpu = 3);

/// The other end: opens the GPU that the first message names and serves trials of the families that
/// `make_families` makes of the template text (FamilyRegistry::shipped, or one's own) until the
/// parent is gone. What prevents it is answered in a sentence.
void serve_device_bench(ParentChannel& channel, FamilyRegistry (*make_families)(HeaderMap));

}  // namespace quern
