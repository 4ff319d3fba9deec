#include "autotune/workspace.h"

#include <algorithm>
#include <bit>

#include "templates/common/workspace_args.h"

namespace quern {

static_assert(Workspace::kCounterBytes == kCounterBytes, "host and device agree on the counters");

void Workspace::reserve(std::size_t bytes, const Stream& stream) {
  if (bytes <= size_bytes()) return;
  // Powers of two: what is left behind by growing never exceeds what is in use.
  buffers_.emplace_back(std::bit_ceil(std::max(bytes, kCounterBytes)));
  fill_bytes(address(), 0, size_bytes(), stream);
  stream.synchronize();
}

}  // namespace quern
