#include "runtime/base/available_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

namespace quern {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kUnknown = std::numeric_limits<std::size_t>::max();

/// The number behind `name` in a file of names and numbers.
std::optional<std::size_t> find_number(const fs::path& path, const std::string& name) {
  std::ifstream file(path);
  std::string word;
  while (file >> word)
    if (std::size_t value = 0; word == name && file >> value) return value;
  return std::nullopt;
}

/// The number that the file begins with; "max" is none.
std::optional<std::size_t> first_number(const fs::path& path) {
  std::ifstream file(path);
  std::size_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

std::size_t left_in_group(const fs::path& group) {
  const auto limit = first_number(group / "memory.max");
  const auto used = first_number(group / "memory.current");
  if (!limit || !used) return kUnknown;
  // File pages that nobody has touched lately give way to whoever asks.
  const std::size_t idle = find_number(group / "memory.stat", "inactive_file").value_or(0);
  const std::size_t busy = *used - std::min(idle, *used);
  return *limit - std::min(busy, *limit);
}

/// This process's group within the hierarchy of version 2: the line "0::/a/b".
fs::path own_group(const fs::path& proc) {
  std::ifstream file(proc / "self/cgroup");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("0::/")) return line.substr(4);
  return {};
}

}  // namespace

std::size_t available_memory_bytes(const fs::path& proc, const fs::path& cgroups) {
  const auto machine = find_number(proc / "meminfo", "MemAvailable:");  // in KiB
  std::size_t left = machine ? *machine * 1024 : kUnknown;
  for (fs::path group = own_group(proc);; group = group.parent_path()) {
    left = std::min(left, left_in_group(cgroups / group));
    if (group.empty()) return left;
  }
}

}  // namespace quern
