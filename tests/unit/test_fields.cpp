#include <array>
#include <filesystem>
#include <fstream>
#include <limits>

#include "runtime/base/available_memory.h"
#include "runtime/base/fields.h"
#include "tests/support/support.h"

using namespace quern;

TEST_CASE("fields come apart as they were put together") {
  using namespace std::string_view_literals;
  const std::array fields{"a"sv, ""sv, "zero\0inside"sv, "\xff\xfe"sv};
  const std::string message = pack_fields(fields);
  const auto unpacked = unpack_fields(message);
  REQUIRE(unpacked);
  REQUIRE(unpacked->size() == fields.size());
  for (std::size_t i = 0; i < fields.size(); ++i) CHECK((*unpacked)[i] == fields[i]);
  CHECK(unpack_fields("")->empty());
  for (std::size_t cut = 1; cut < message.size(); ++cut) {
    const auto rest = unpack_fields(std::string_view(message).substr(0, cut));
    CHECK((!rest || rest->size() < fields.size()));
  }
  CHECK_FALSE(unpack_fields("nonsense, and more of it"));
}

TEST_CASE("memory is what the machine and the control groups leave") {
  CHECK(available_memory_bytes() > 0);
  const test::TemporaryFolder folder;
  const auto write = [&](const std::string& path, const std::string& text) {
    std::filesystem::create_directories((folder.path() / path).parent_path());
    std::ofstream(folder.path() / path) << text;
  };
  const auto available = [&] {
    return available_memory_bytes(folder.path() / "proc", folder.path() / "cgroup");
  };
  CHECK(available() == std::numeric_limits<std::size_t>::max());
  write("proc/meminfo", "MemTotal:  4000 kB\nMemFree: 100 kB\nMemAvailable:  2000 kB\n");
  CHECK(available() == 2000 * 1024);
  write("proc/self/cgroup", "0::/a/b\n");
  write("cgroup/a/b/memory.max", "max\n");
  write("cgroup/a/b/memory.current", "5\n");
  CHECK(available() == 2000 * 1024);
  write("cgroup/a/memory.max", "1000000\n");
  write("cgroup/a/memory.current", "700000\n");
  CHECK(available() == 300000);
  write("cgroup/a/memory.stat", "anon 500000\ninactive_file 200000\n");
  CHECK(available() == 500000);
  write("cgroup/a/memory.current", "1500000\n");
  CHECK(available() == 0);
}
