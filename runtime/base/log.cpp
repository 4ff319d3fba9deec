#include "runtime/base/log.h"

#include <mutex>
#include <utility>

namespace quern {
namespace {

std::mutex mutex;
LogSink sink;

}  // namespace

void set_log_sink(LogSink next) {
  const std::lock_guard lock(mutex);
  sink = std::move(next);
}

void log(LogLevel level, std::string_view message) {
  const std::lock_guard lock(mutex);
  if (sink) sink(level, message);
}

}  // namespace quern
