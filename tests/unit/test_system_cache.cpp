#include "cache/system_cache.h"

#include <unistd.h>

#include "cache/image_store.h"
#include "cache/record_store.h"
#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "tests/support/support.h"

using namespace quern;
namespace fs = std::filesystem;

namespace {

const std::string kKey = content_hash("a kernel");
const ordered_json kFingerprint = {{"name", "NVIDIA H200"}};

StoredImage image(const std::string& text) { return {text, text, ordered_json::object(), ""}; }

TuningRecord record(int m, double us, int tile = 64) {
  TuningRecord r;
  r.family = "gemm";
  r.problem = {{"m", m}};
  r.config = {{"tile_m", tile}};
  r.template_hash = std::string(32, 'a');
  r.fingerprint = kFingerprint;
  r.median_us = us;
  r.measured_at = "2026-01-31T12:00:00Z";
  return r;
}

/// Names, times and contents of all that is in a folder.
std::string snapshot(const fs::path& root) {
  std::string text;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    text += entry.path().string() + " " +
            std::to_string(entry.last_write_time().time_since_epoch().count()) + "\n";
    if (entry.is_regular_file()) text += read_file(entry.path());
  }
  return text;
}

}  // namespace

TEST_CASE("images and records of the system cache serve where the user's has none") {
  const test::TemporaryFolder folder;
  const fs::path own = folder.path() / "own", system = folder.path() / "system";
  const std::string other = content_hash("other");
  {
    ImageStore images(system);
    images.put(kKey, image("system"));
    images.put(other, image("system"));
    fs::last_write_time(system / "images" / kKey / "checksum",
                        fs::file_time_type::clock::now() - std::chrono::hours(48));
    RecordStore records(system, kFingerprint);
    for (const int m : {1, 2, 3}) records.append(record(m, 10));
    TuningRecord foreign = record(1, 10);
    foreign.fingerprint = {{"name", "another"}};
    RecordStore(system, foreign.fingerprint).append(foreign);
  }
  const std::string before = snapshot(system);

  ImageStore images(own, system);
  CHECK_EQ(images.find(kKey)->image, "system");
  images.put(other, image("own"));
  CHECK_EQ(images.find(other)->image, "own");
  CHECK_EQ(images.verify().size(), 1);
  CHECK_EQ(images.prune(std::chrono::seconds(0), 0).entries, 1);
  CHECK_EQ(images.find(other)->image, "system");

  RecordStore records(own, kFingerprint, system);
  CHECK_EQ(records.find("gemm", {{"m", 1}})->median_us, 10);
  records.append(record(1, 5));
  CHECK_EQ(records.find("gemm", {{"m", 1}})->median_us, 5);
  records.drop(std::vector{record(2, 10), record(3, 10, /*tile=*/32)});
  CHECK_FALSE(records.find("gemm", {{"m", 2}}));
  CHECK(records.find("gemm", {{"m", 3}}));  // only a record of another config was dropped
  for (int again = 0; again < 2; ++again) {
    const RecordStore reopened(own, kFingerprint, system);
    CHECK_EQ(reopened.find("gemm", {{"m", 1}})->median_us, 5);
    CHECK_FALSE(reopened.find("gemm", {{"m", 2}}));
    CHECK(reopened.find("gemm", {{"m", 3}}));
    CHECK_EQ(reopened.num_damaged(), 0);
  }
  CHECK_EQ(all_records(own).size(), 1);
  CHECK_EQ(all_records(own, nullptr, system).size(), 3);
  CHECK_EQ(system_records(own, system).size(), 2);
  CHECK_EQ(snapshot(system), before);
}

TEST_CASE("a dropped record counts again once it is measured again") {
  const test::TemporaryFolder folder;
  RecordStore records(folder.path(), kFingerprint);
  records.append(record(1, 5));
  records.drop(std::vector{record(1, 5)});
  CHECK_FALSE(RecordStore(folder.path(), kFingerprint).find("gemm", {{"m", 1}}));
  records.append(record(1, 6));
  CHECK_EQ(RecordStore(folder.path(), kFingerprint).find("gemm", {{"m", 1}})->median_us, 6);
}

TEST_CASE("damage in the system cache is passed over and left as it is") {
  const test::TemporaryFolder folder;
  const fs::path own = folder.path() / "own", system = folder.path() / "system";
  ImageStore(system).put(kKey, image("system"));
  RecordStore(system, kFingerprint).append(record(1, 10));
  fs::resize_file(system / "images" / kKey / "kernel.cubin", 2);
  for (const auto& file : fs::directory_iterator(system / "tuning"))
    fs::resize_file(file, fs::file_size(file) - 9);
  const std::string before = snapshot(system);
  ImageStore images(own, system);
  CHECK_FALSE(images.find(kKey));
  CHECK_EQ(images.num_damaged(), 0);
  const RecordStore records(own, kFingerprint, system);
  CHECK(records.all().empty());
  CHECK_EQ(records.num_damaged(), 0);
  CHECK_EQ(snapshot(system), before);
  images.put(kKey, image("own"));
  CHECK_EQ(images.find(kKey)->image, "own");
}

TEST_CASE("a system cache that others may write to is not read, and a missing one is no error") {
  const test::TemporaryFolder folder;
  const fs::path own = folder.path() / "own", system = folder.path() / "system";
  CHECK_FALSE(system_cache_problem({}));
  CHECK_FALSE(system_cache_problem(folder.path() / "absent"));
  CHECK_FALSE(ImageStore(own, folder.path() / "absent").find(kKey));
  CHECK(all_records(own, nullptr, folder.path() / "absent").empty());

  ImageStore(system).put(kKey, image("system"));
  RecordStore(system, kFingerprint).append(record(1, 10));
  CHECK_FALSE(system_cache_problem(system));
  const auto is_read = [&] {
    return std::pair(ImageStore(own, system).find(kKey).has_value(),
                     !RecordStore(own, kFingerprint, system).all().empty());
  };
  CHECK_EQ(is_read(), std::pair(true, true));
  for (const fs::path& open : {system, system / "images", system / "tuning"})
    for (const fs::perms writers : {fs::perms::group_write, fs::perms::others_write}) {
      fs::permissions(open, writers, fs::perm_options::add);
      const auto problem = system_cache_problem(system);
      REQUIRE(problem);
      CHECK_NE(problem->find(system.string()), std::string::npos);
      CHECK_NE(problem->find("may write to it"), std::string::npos);
      CHECK_EQ(is_read(), std::pair(false, false));
      CHECK(all_records(own, nullptr, system).empty());
      fs::permissions(open, writers, fs::perm_options::remove);
    }
  // One entry that is open to others costs that entry alone.
  const fs::path cubin = system / "images" / kKey / "kernel.cubin";
  fs::permissions(cubin, fs::perms::group_write, fs::perm_options::add);
  CHECK_EQ(is_read(), std::pair(false, true));
  if (::geteuid() == 0) {
    REQUIRE_EQ(::chown(system.c_str(), 12345, 12345), 0);
    CHECK_NE(system_cache_problem(system)->find("another user"), std::string::npos);
  }
}
