#pragma once
#include <string_view>

#include "compiler/nvrtc.h"

namespace quern {

/// Reads what `ptxas -v` printed of the kernel `entry`; other functions in the log do not count.
/// Numbers that the log does not tell are 0.
ResourceReport parse_resource_report(std::string_view log, std::string_view entry);

}  // namespace quern
