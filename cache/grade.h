#pragma once
#include <string_view>

#include "runtime/base/json.h"

namespace quern {

/// How much a record of another GPU is worth on this one.
enum class DeviceMatch {
  same_device,        // all but driver and power limit is equal: used once it passed the gate here
  same_architecture,  // equal compute capability: the first candidates for the tuner
  other,
};
/// "same_device", ...: the spelling of reports.
std::string_view name(DeviceMatch match);

/// Compares two device fingerprints (runtime/device.h), either of which may be anybody's JSON.
DeviceMatch grade(const ordered_json& own, const ordered_json& other);

}  // namespace quern
