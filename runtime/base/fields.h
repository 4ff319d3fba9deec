#pragma once
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quern {

/// Byte strings side by side in one message, each behind its length in this machine's byte order:
/// for processes that talk to each other on one machine.
std::string pack_fields(std::span<const std::string_view> fields);
/// The fields, or nothing if `message` was not made by pack_fields().
std::optional<std::vector<std::string>> unpack_fields(std::string_view message);

}  // namespace quern
