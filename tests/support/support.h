#pragma once
#include <doctest/doctest.h>

#include <filesystem>
#include <optional>
#include <string>

namespace quern::test {

/// Folder of models and reference data that is not part of the project: $QUERN_SHARED, else
/// ../shared beside the checkout.
std::optional<std::filesystem::path> shared_folder();
/// model/bundled/tiny-llama3: in the source tree, else beside the test executable.
std::filesystem::path bundled_model();

/// A fresh folder that is removed with the object.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Says why a test did not run; makes the executable exit with 77, which CTest shows as Skipped.
/// Keep tests that may skip in files of their own, so that a skip hides nothing else.
void skip(const std::string& reason);

}  // namespace quern::test

/// Leaves the test case with a visible skip.
#define QUERN_SKIP_IF(condition, reason) \
  do {                                   \
    if (condition) {                     \
      ::quern::test::skip(reason);       \
      return;                            \
    }                                    \
  } while (false)
