#pragma once
#include "runtime/device.h"

namespace quern {

/// The measured roof of the device's memory: bytes per second, read and written counted both, of
/// copying 1 GiB (less where memory is short) on the device; the median of several copies.
double copy_bandwidth(const Context& context);

}  // namespace quern
