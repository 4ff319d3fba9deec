#include "cache/system_cache.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include "cache/files.h"

namespace quern {
namespace fs = std::filesystem;

std::optional<std::string> system_cache_problem(const fs::path& root) {
  struct stat status {};
  if (root.empty() || ::stat(root.c_str(), &status) != 0) return std::nullopt;
  const auto problem = [&](std::string_view why) {
    return fmt::format("the system cache {} is not used: {}", root.string(), why);
  };
  if (!S_ISDIR(status.st_mode)) return problem("it is not a folder");
  if (const auto why = cache::foreign_writer(root)) return problem(*why);
  for (const char* name : {"images", "tuning"})
    if (const auto why = cache::foreign_writer(root / name)) return problem(*why);
  return std::nullopt;
}

}  // namespace quern
