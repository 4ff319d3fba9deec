#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <thread>

#include "cache/record_store.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "tests/support/sample_record.h"
#include "tests/support/support.h"

using namespace quern;
using test::kFingerprint;
using test::sample;
namespace fs = std::filesystem;

namespace {

fs::path only_file(const fs::path& root) {
  const fs::directory_iterator first(root / "tuning");
  return first->path();
}

void write(const fs::path& file, const std::string& text) {
  std::ofstream(file, std::ios::binary) << text;
}

}  // namespace

TEST_CASE("a record survives JSON in both directions, in order") {
  const TuningRecord r = sample();
  const TuningRecord back = tuning_record_from_json(to_json(r));
  CHECK_EQ(to_json(back).dump(), to_json(r).dump());
}

TEST_CASE("a record with any field missing, unknown or of a wrong type is refused") {
  const ordered_json good = to_json(sample());
  for (const auto& [key, value] : good.items()) {
    CAPTURE(key);
    ordered_json wrong = good;
    wrong.erase(key);
    CHECK_THROWS_AS(tuning_record_from_json(wrong), InputError);
    for (const ordered_json& other :
         {ordered_json(nullptr), ordered_json(-1), ordered_json::array({1}), ordered_json("\"\n"),
          ordered_json("#include \"/etc/passwd\""), ordered_json{{"nested", {{"more", 1}}}},
          ordered_json{{"../../x", 1}}, ordered_json{{"key", "a\nb"}}, ordered_json(1e300)}) {
      wrong = good;
      wrong[key] = other;
      CAPTURE(other.dump());
      CHECK_THROWS_AS(tuning_record_from_json(wrong), InputError);
    }
  }
  ordered_json more = good;
  more["command"] = "rm";
  CHECK_THROWS_WITH_AS(tuning_record_from_json(more), "'command' is not a field of a tuning record",
                       InputError);
  for (const ordered_json& value : {ordered_json(), ordered_json(1), ordered_json::array()})
    CHECK_THROWS_AS(tuning_record_from_json(value), InputError);
}

TEST_CASE("what newer records say in addition may be missing, and is checked") {
  TuningRecord r = sample();
  CHECK_FALSE(to_json(r).contains("nvrtc"));
  r.nvrtc = "13.0.88";
  r.energy_mj = 1.5;
  const TuningRecord back = tuning_record_from_json(to_json(r));
  CHECK_EQ(back.nvrtc, "13.0.88");
  CHECK_EQ(back.energy_mj, 1.5);
  for (const char* version : {"", ".", "13.", ".1", "1..2", "13.0a", "13.0 ", "-1", "1\n"}) {
    ordered_json wrong = to_json(r);
    wrong["nvrtc"] = version;
    CHECK_THROWS_AS(tuning_record_from_json(wrong), InputError);
  }
  for (const ordered_json& energy : {ordered_json(-1), ordered_json("1"), ordered_json(nullptr)}) {
    ordered_json wrong = to_json(r);
    wrong["energy_mj"] = energy;
    CHECK_THROWS_AS(tuning_record_from_json(wrong), InputError);
  }
}

TEST_CASE("records are found again, the newest first, and not under another device") {
  const test::TemporaryFolder folder;
  const fs::path root = folder.path() / "cache";
  {
    RecordStore store(root, kFingerprint);
    CHECK_FALSE(fs::exists(root));
    CHECK_FALSE(store.find("gemm", sample().problem).has_value());
    store.append(sample(16, 40));
    store.append(sample(32, 50));
    store.append(sample(16, 30));
    CHECK_EQ(store.find("gemm", sample(16).problem)->median_us, 30);
  }
  const RecordStore again(root, kFingerprint);
  CHECK_EQ(again.all().size(), 2);
  CHECK_EQ(again.find("gemm", sample(16).problem)->median_us, 30);
  ordered_json reordered = ordered_json::object();
  const json sorted = sample(32).problem;
  for (const auto& [key, value] : sorted.items()) reordered[key] = value;
  CHECK_EQ(again.find("gemm", reordered)->median_us, 50);
  CHECK_FALSE(again.find("attention", sample(16).problem).has_value());
  CHECK_EQ(fs::status(root / "tuning").permissions(), fs::perms::owner_all);
  CHECK_EQ(fs::status(only_file(root)).permissions(),
           fs::perms::owner_read | fs::perms::owner_write);

  const ordered_json other_device = {{"name", "NVIDIA RTX 4090"}};
  RecordStore other(root, other_device);
  CHECK(other.all().empty());
  CHECK_THROWS_AS(other.append(sample()), InputError);
  TuningRecord theirs = sample(8);
  theirs.fingerprint = other_device;
  other.append(theirs);
  CHECK_EQ(all_records(root).size(), 3);
  // A file that was given the name of another device's does not count as that device's.
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(root / "tuning")) files.push_back(entry.path());
  REQUIRE_EQ(files.size(), 2);
  const std::string first = read_file(files[0]), second = read_file(files[1]);
  write(files[0], second);
  write(files[1], first);
  std::size_t num_damaged = 0;
  CHECK(all_records(root, &num_damaged).empty());
  CHECK_EQ(num_damaged, 4);
}

TEST_CASE("what could not be read back is not written") {
  const test::TemporaryFolder folder;
  RecordStore store(folder.path(), kFingerprint);
  TuningRecord bad = sample();
  bad.error = 2;
  const std::vector<TuningRecord> records{sample(), bad};
  CHECK_THROWS_AS(store.append(records), InputError);
  CHECK_FALSE(fs::exists(folder.path() / "tuning"));
}

TEST_CASE("a file cut at any byte loses at most the line it was cut in, and takes appends") {
  const test::TemporaryFolder folder;
  RecordStore(folder.path(), kFingerprint).append(std::vector{sample(1), sample(2)});
  const fs::path file = only_file(folder.path());
  const std::string bytes = read_file(file);
  const std::size_t line = bytes.find('\n') + 1;
  for (std::size_t size = 0; size <= bytes.size(); ++size) {
    CAPTURE(size);
    write(file, bytes.substr(0, size));
    // A line that lacks nothing but its newline is whole.
    const std::size_t whole = size + 1 >= bytes.size() ? 2 : size + 1 >= line ? 1 : 0;
    const bool torn = size > whole * line && whole < 2;
    RecordStore store(folder.path(), kFingerprint);
    CHECK_EQ(store.all().size(), whole);
    CHECK_EQ(store.num_damaged(), torn ? 1 : 0);
    if (size % 16 != 0 && size + 1 != bytes.size()) continue;  // each append waits for the disk
    store.append(sample(3));
    const RecordStore again(folder.path(), kFingerprint);
    CHECK_EQ(again.all().size(), whole + 1);
    CHECK(again.find("gemm", sample(3).problem).has_value());
  }
}

TEST_CASE("a changed byte costs one record") {
  const test::TemporaryFolder folder;
  RecordStore(folder.path(), kFingerprint).append(std::vector{sample(1), sample(2), sample(3)});
  const fs::path file = only_file(folder.path());
  const std::string bytes = read_file(file);
  const std::size_t first = bytes.find('\n'), second = bytes.find('\n', first + 1);
  for (std::size_t at = first + 1; at < second; ++at) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 2);
    if (damaged[at] == '\n') continue;
    write(file, damaged);
    const RecordStore store(folder.path(), kFingerprint);
    CAPTURE(at);
    CHECK_EQ(store.all().size(), 2);
    CHECK_EQ(store.num_damaged(), 1);
  }
}

TEST_CASE("garbage between records is skipped, however long, deep or odd") {
  const test::TemporaryFolder folder;
  RecordStore(folder.path(), kFingerprint).append(sample(1));
  const fs::path file = only_file(folder.path());
  const std::string good = read_file(file);
  const std::string zeros(10, '\0');
  const std::vector<std::string> garbage{
      "{}",       "null", "{\"checksum\":\"", std::string(200000, '['), std::string(3 << 20, 'x'),
      "\xff\xfe", zeros};
  std::string text;
  for (const std::string& line : garbage) text += line + "\n";
  write(file, text + good + "\n" + text);
  const RecordStore store(folder.path(), kFingerprint);
  CHECK_EQ(store.all().size(), 1);
  CHECK_EQ(store.num_damaged(), 2 * garbage.size());
}

TEST_CASE("many processes may append to the same file") {
  const test::TemporaryFolder folder;
  std::vector<pid_t> children;
  for (int child = 0; child < 8; ++child) {
    const pid_t pid = ::fork();
    REQUIRE_GE(pid, 0);
    if (pid == 0) {
      try {
        RecordStore store(folder.path(), kFingerprint);
        for (int i = 0; i < 20; ++i) {
          store.append(sample(1000 * (child + 1) + i));
          store.append(sample(1, child));
        }
      } catch (...) {
        ::_exit(1);
      }
      ::_exit(0);
    }
    children.push_back(pid);
  }
  for (const pid_t pid : children) {
    int status = 0;
    REQUIRE_EQ(::waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
  }
  const RecordStore store(folder.path(), kFingerprint);
  CHECK_EQ(store.num_damaged(), 0);
  CHECK_EQ(store.all().size(), 8 * 20 + 1);
}

TEST_CASE("a writer killed at any moment costs at most one line") {
  const test::TemporaryFolder folder;
  for (int round = 0; round < 5; ++round) {
    const pid_t pid = ::fork();
    REQUIRE_GE(pid, 0);
    if (pid == 0) {
      RecordStore store(folder.path(), kFingerprint);
      for (int i = 0;; ++i) store.append(sample(i));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20 + 7 * round));
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    RecordStore store(folder.path(), kFingerprint);
    CHECK_LE(store.num_damaged(), static_cast<std::size_t>(round + 1));
    store.append(sample(1 << 20));
    CHECK(RecordStore(folder.path(), kFingerprint).find("gemm", sample(1 << 20).problem));
  }
}
