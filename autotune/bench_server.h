#pragma once
#include "autotune/trial_bench.h"
#include "runtime/base/child_process.h"

namespace quern {

/// The work of a RemoteBench's process: does what the messages on `channel` ask of `bench` until
/// the parent is gone. A CudaError, after which nothing works any more, is reported and ends it.
void serve_bench(ParentChannel& channel, TrialBench& bench);

/// Takes the first message of a RemoteBench and welcomes it, for a process that needs nothing of what
/// it says.
void accept_greeting(ParentChannel& channel);

}  // namespace quern
