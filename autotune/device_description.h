#pragma once
#include <string>

#include "runtime/base/arch.h"
#include "runtime/base/json.h"
#include "runtime/device.h"

namespace quern {

/// A GPU as another machine needs to know it, to build kernels for it without having it.
struct DeviceDescription {
  ordered_json fingerprint;  // DeviceInfo::fingerprint()
  Arch arch;                 // with the device's own numbers
};
DeviceDescription describe(const DeviceInfo& device);

/// {"quern_device": 1, "fingerprint": {...}, "arch": "sm_90a", "smem_per_block_bytes": ..., ...}:
/// what the fingerprint has (SMs, L2) is not said again.
ordered_json to_json(const DeviceDescription& description);

/// Reads such a document. Nothing in it is believed unchecked: throws InputError with a sentence
/// for text that is no such document, another version, unknown or missing keys, wrong types and
/// numbers that no GPU has.
DeviceDescription parse_device_description(const std::string& text);

}  // namespace quern
