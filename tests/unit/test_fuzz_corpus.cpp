#include <cstdint>
#include <filesystem>

#include "runtime/base/file.h"
#include "tests/support/support.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

TEST_CASE("what the fuzzer of the kernel language found once does no harm") {
  const std::filesystem::path folder =
      std::filesystem::path(QUERN_SOURCE_DIR) / "tests" / "fuzz" / "corpus" / "dsl";
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    CAPTURE(entry.path().string());
    const std::string text = quern::read_file(entry.path().string());
    CHECK_EQ(
        LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(text.data()), text.size()), 0);
    ++count;
  }
  CHECK_GT(count, 100);
}
