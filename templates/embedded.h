#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>

namespace quern {

/// Every .cuh, .h shared with device code, and .qk file of templates/, by path relative to that
/// folder ("common/mma.cuh", "row/rmsnorm.qk"), as embedded when Quern was built.
const std::map<std::string, std::string, std::less<>>& embedded_templates();

/// The embedded files overlaid with those found in `folder` (`--templates DIR`), for edit-and-rerun.
std::map<std::string, std::string, std::less<>> template_files(
    const std::optional<std::filesystem::path>& folder);

}  // namespace quern
