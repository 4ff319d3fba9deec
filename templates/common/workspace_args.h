// How kernels share one workspace (included by host and device code).
#pragma once

namespace quern {

/// A kernel that counts arriving blocks keeps its counters (32 bits each) in the first
/// kCounterBytes of its workspace and leaves them zero. What follows is scratch that means nothing
/// between launches. So one allocation, zeroed once, serves every kernel of a stream in turn.
constexpr int kCounterBytes = 65536;
constexpr int kMaxCounters = kCounterBytes / 4;

}  // namespace quern
