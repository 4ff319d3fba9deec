#include "model/staged_upload.h"

#include <algorithm>
#include <cstring>

namespace quern {

StagedUpload::StagedUpload(std::size_t half_bytes, const Stream& stream)
    : half_bytes_(half_bytes), stream_(stream), staging_(2 * half_bytes) {
  for (Event& event : sent_) event.record(stream);
}

void StagedUpload::send(std::uint64_t address, std::size_t bytes, const Fill& fill) {
  for (std::size_t first = 0; first < bytes; first += half_bytes_) {
    const std::size_t count = std::min(half_bytes_, bytes - first);
    std::byte* out = staging_.as() + half_ * half_bytes_;
    sent_[half_].synchronize();
    fill(first, count, out);
    copy_to_device(address + first, out, count, stream_);
    sent_[half_].record(stream_);
    half_ ^= 1;
  }
}

void StagedUpload::send(std::uint64_t address, const void* from, std::size_t bytes) {
  send(address, bytes, [&](std::size_t first, std::size_t count, std::byte* out) {
    std::memcpy(out, static_cast<const std::byte*>(from) + first, count);
  });
}

}  // namespace quern
