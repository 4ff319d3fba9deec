#define DOCTEST_CONFIG_IMPLEMENT
#include "tests/support/support.h"

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "tests/support/child.h"

namespace quern::test {
namespace fs = std::filesystem;
namespace {

int num_skipped = 0;

}  // namespace

std::optional<fs::path> shared_folder() {
  const char* variable = std::getenv("QUERN_SHARED");
  const fs::path path =
      variable ? fs::path(variable) : fs::path(QUERN_SOURCE_DIR).parent_path() / "shared";
  if (fs::is_directory(path / "golden")) return path;
  return std::nullopt;
}

fs::path bundled_model() {
  const fs::path in_source = fs::path(QUERN_SOURCE_DIR) / "model/bundled/tiny-llama3";
  if (fs::exists(in_source / "config.json")) return in_source;
  return "model/bundled/tiny-llama3";
}

TemporaryFolder::TemporaryFolder() {
  std::string name = (fs::temp_directory_path() / "quern-test-XXXXXX").string();
  if (!mkdtemp(name.data())) throw std::runtime_error("cannot make a temporary folder");
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void skip(const std::string& reason) {
  ++num_skipped;
  std::printf("SKIPPED: %s\n", reason.c_str());
}

}  // namespace quern::test

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == quern::test::kAsChild)
    return quern::test::run_as_child(argv[2]);
  doctest::Context context(argc, argv);
  const int failed = context.run();
  if (context.shouldExit() || failed) return failed;
  return quern::test::num_skipped > 0 ? 77 : 0;
}
