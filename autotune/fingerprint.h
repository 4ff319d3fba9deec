#pragma once
#include "runtime/base/arch.h"
#include "runtime/base/json.h"

namespace quern {

/// The architecture of a device fingerprint, its SM count and L2 filled in. Throws InputError if
/// the fingerprint names none that Quern knows.
Arch arch_of_fingerprint(const ordered_json& fingerprint);

/// Datasheet memory bandwidth from clock and bus width; 0 if the fingerprint lacks them.
double peak_bytes_per_s(const ordered_json& fingerprint);

}  // namespace quern
