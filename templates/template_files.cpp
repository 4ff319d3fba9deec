#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "templates/embedded.h"
#include "templates/params.h"

namespace quern {
namespace fs = std::filesystem;

std::map<std::string, std::string, std::less<>> template_files(
    const std::optional<fs::path>& folder) {
  auto files = embedded_templates();
  if (!folder) return files;
  if (!fs::is_directory(*folder))
    throw InputError(fmt::format("{} is not a folder of templates", folder->string()));
  for (const auto& entry : fs::recursive_directory_iterator(*folder)) {
    const auto extension = entry.path().extension();
    if (entry.is_regular_file() &&
        (extension == ".cuh" || extension == ".h" || extension == ".qk"))
      files[fs::relative(entry.path(), *folder).generic_string()] = read_file(entry.path());
  }
  return files;
}

}  // namespace quern
