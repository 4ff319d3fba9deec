#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>

#include "runtime/memory.h"
#include "runtime/stream.h"

namespace quern {

/// Sends host data to the device through two page-locked halves: one is filled while the other is
/// on its way.
class StagedUpload {
 public:
  /// `half_bytes` a half; a multiple of 256.
  StagedUpload(std::size_t half_bytes, const Stream& stream);

  /// Writes bytes [first, first + count) of what is sent.
  using Fill = std::function<void(std::size_t first, std::size_t count, std::byte* out)>;
  void send(std::uint64_t address, std::size_t bytes, const Fill& fill);
  /// Copies from memory.
  void send(std::uint64_t address, const void* from, std::size_t bytes);

 private:
  std::size_t half_bytes_;
  const Stream& stream_;
  PinnedBuffer staging_;
  Event sent_[2];
  std::size_t half_ = 0;
};

}  // namespace quern
