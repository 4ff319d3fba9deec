#pragma once
#include <chrono>
#include <optional>
#include <string>
#include <string_view>

namespace quern {

/// "2026-01-31T12:00:00Z": UTC, to the second, as records hold it.
std::string timestamp(std::chrono::sys_seconds time);
/// Nothing for text of another form and for days and hours that do not exist.
std::optional<std::chrono::sys_seconds> parse_timestamp(std::string_view text);
/// The wall clock, which a file from elsewhere may be ahead of.
std::chrono::sys_seconds wall_clock();

}  // namespace quern
