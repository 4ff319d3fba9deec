#include <cstdint>
#include <filesystem>

#include "runtime/base/file.h"
#include "tests/support/support.h"

// The fuzz targets, each under a name of its own (tests/CMakeLists.txt).
extern "C" int fuzz_checkpoint(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_dsl(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_import(const std::uint8_t* data, std::size_t size);

namespace {

/// Returns how many inputs there were.
int replay(int (*target)(const std::uint8_t*, std::size_t), const char* name) {
  const std::filesystem::path folder =
      std::filesystem::path(QUERN_SOURCE_DIR) / "tests" / "fuzz" / "corpus" / name;
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    CAPTURE(entry.path().string());
    const std::string text = quern::read_file(entry.path().string());
    CHECK_EQ(target(reinterpret_cast<const std::uint8_t*>(text.data()), text.size()), 0);
    ++count;
  }
  return count;
}

}  // namespace

TEST_CASE("what the fuzzer of the kernel language found once does no harm") {
  CHECK_GT(replay(fuzz_dsl, "dsl"), 100);
}

TEST_CASE("what the fuzzer of imported records found once does no harm") {
  CHECK_GT(replay(fuzz_import, "import"), 100);
}

TEST_CASE("what the fuzzer of quantised checkpoints found once does no harm") {
  CHECK_GT(replay(fuzz_checkpoint, "checkpoint"), 30);
}
