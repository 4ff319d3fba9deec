#pragma once
#include <filesystem>
#include <optional>
#include <string>

namespace quern {

/// A system cache is laid out as a user's own and only ever read: what an administrator or a
/// container image put there serves every user of the machine. An empty path means none.

/// Why the folder `root` is not read, as a sentence; nothing if it is fit to be, or absent. Its
/// code will be run, so neither it nor its images and tuning folders may belong to another user
/// than this one and root, nor be writable by their group or by everybody.
std::optional<std::string> system_cache_problem(const std::filesystem::path& root);

}  // namespace quern
