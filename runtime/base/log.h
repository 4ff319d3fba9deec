#pragma once
#include <functional>
#include <string_view>

namespace quern {

enum class LogLevel { info, warning };

/// Where the library's messages go. None by default: the library itself never prints. Set once, at
/// start; calls come from any thread, one at a time.
using LogSink = std::function<void(LogLevel, std::string_view)>;
void set_log_sink(LogSink sink);
void log(LogLevel level, std::string_view message);

}  // namespace quern
