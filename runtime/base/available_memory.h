#pragma once
#include <cstddef>
#include <filesystem>

namespace quern {

/// Bytes that new processes may use without swapping: what the machine has left (MemAvailable), or
/// what this process's control group and those around it have left, if that is less. The largest
/// number there is where nothing is known. The folders are for tests.
std::size_t available_memory_bytes(const std::filesystem::path& proc = "/proc",
                                   const std::filesystem::path& cgroups = "/sys/fs/cgroup");

}  // namespace quern
