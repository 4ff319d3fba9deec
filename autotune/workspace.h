#pragma once
#include <cstddef>
#include <vector>

#include "runtime/memory.h"
#include "runtime/stream.h"

namespace quern {

/// Scratch that the kernels of one stream share, since they run one after the other; where
/// programmatic launch lets two overlap, a kernel waits for its predecessor before touching it. The
/// first kCounterBytes hold counters that every kernel leaves at zero; what follows means nothing
/// between launches.
class Workspace {
 public:
  static constexpr std::size_t kCounterBytes = 65536;

  /// Makes room for a launch that needs `bytes`. Call it before capture, not during. When it grows,
  /// earlier memory stays allocated, so that graphs captured before remain valid.
  void reserve(std::size_t bytes, const Stream& stream);
  std::size_t size_bytes() const { return buffers_.empty() ? 0 : buffers_.back().size_bytes(); }
  CUdeviceptr address() const { return buffers_.empty() ? 0 : buffers_.back().address(); }

 private:
  std::vector<Buffer> buffers_;  // the last is in use
};

}  // namespace quern
