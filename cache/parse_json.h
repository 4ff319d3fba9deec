#pragma once
#include <optional>
#include <string_view>

#include "runtime/base/json.h"

namespace quern::cache {

/// Parses untrusted text in time and memory proportional to its length, keeping the order of keys.
/// Nothing for text that is not JSON. What lies deeper than 8 levels is dropped, and an object that
/// has a key twice or more than 256 keys becomes null: the caller's type checks then refuse it, and
/// two readers can never disagree about which of two values counts.
std::optional<ordered_json> parse_json(std::string_view text);

}  // namespace quern::cache
