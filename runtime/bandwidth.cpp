#include "runtime/bandwidth.h"

#include <algorithm>
#include <vector>

#include "runtime/memory.h"
#include "runtime/stream.h"

namespace quern {

double copy_bandwidth(const Context& context) {
  constexpr std::size_t kMost = std::size_t{1} << 30, kAligned = std::size_t{1} << 20;
  constexpr int kWarmups = 2, kSamples = 9;
  const std::size_t bytes =
      std::max(std::min(kMost, context.free_bytes() / 4) / kAligned * kAligned, kAligned);
  const Buffer from(bytes), to(bytes);
  const Stream stream;
  const Event start, end;
  fill_bytes(from.address(), 0x5a, bytes, stream);
  std::vector<float> us;
  for (int i = 0; i < kWarmups + kSamples; ++i) {
    start.record(stream);
    copy_on_device(to.address(), from.address(), bytes, stream);
    end.record(stream);
    end.synchronize();
    if (i >= kWarmups) us.push_back(end.us_since(start));
  }
  std::nth_element(us.begin(), us.begin() + kSamples / 2, us.end());
  return 2.0 * static_cast<double>(bytes) / (us[kSamples / 2] * 1e-6);
}

}  // namespace quern
