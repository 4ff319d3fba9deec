#include "cache/block_list.h"

#include <fstream>

#include "cache/record_store.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "tests/support/support.h"

using namespace quern;
namespace fs = std::filesystem;

namespace {

const ordered_json kFingerprint = {{"name", "NVIDIA H200"}, {"driver", "580.95"}};
const std::string kHash(32, 'a');

BlockedCandidate sample(int m = 16, const std::string& reason = "illegal address") {
  return {"gemm", {{"m", m}, {"dtype", "bf16"}}, {{"tile_m", 64}}, kHash, "launch_failed",
          reason, "2026-01-31T12:00:00Z"};
}

fs::path file_in(const fs::path& root) {
  return root / "tuning" / (fingerprint_hash(kFingerprint) + ".blocked.jsonl");
}

}  // namespace

TEST_CASE("a blocked candidate is found by later runs on the same GPU, and by none else") {
  const test::TemporaryFolder folder;
  {
    BlockList list(folder.path() / "cache", kFingerprint);
    CHECK_FALSE(fs::exists(folder.path() / "cache"));
    list.append(sample());
    CHECK(list.find("gemm", sample().problem, sample().config, kHash));
  }
  const BlockList list(folder.path() / "cache", kFingerprint);
  const BlockedCandidate* found =
      list.find("gemm", {{"dtype", "bf16"}, {"m", 16}}, sample().config, kHash);
  REQUIRE(found);
  CHECK_EQ(to_json(*found), to_json(sample()));
  CHECK_FALSE(list.find("gemm", sample(17).problem, sample().config, kHash));
  CHECK_FALSE(list.find("gemm", sample().problem, {{"tile_m", 32}}, kHash));
  CHECK_FALSE(list.find("gemm", sample().problem, sample().config, std::string(32, 'b')));
  CHECK_FALSE(list.find("gemv", sample().problem, sample().config, kHash));

  ordered_json new_driver = kFingerprint;
  new_driver["driver"] = "590.1";
  CHECK(BlockList(folder.path() / "cache", new_driver).all().empty());
  // It is no file of records.
  std::size_t num_damaged = 0;
  CHECK(all_records(folder.path() / "cache", &num_damaged).empty());
  CHECK_EQ(num_damaged, 0);
  const auto lists = all_block_lists(folder.path() / "cache");
  REQUIRE_EQ(lists.size(), 1);
  CHECK_EQ(lists[0].fingerprint, kFingerprint);
  CHECK_EQ(lists[0].candidates.size(), 1);
}

TEST_CASE("a reason from outside is kept short and printable") {
  const test::TemporaryFolder folder;
  BlockList list(folder.path(), kFingerprint);
  const std::string nasty = "\x1b[31m\"quoted\"\n#include \\ \xc3\xa9" + std::string(1 << 20, 'x');
  list.append(sample(1, nasty));
  list.append(sample(2, ""));
  const BlockList again(folder.path(), kFingerprint);
  CHECK_EQ(again.num_damaged(), 0);
  const std::string kept = again.all().at(0).reason;
  CHECK_LE(kept.size(), 256);
  CHECK_EQ(kept.substr(0, 27), "?[31m'quoted' ?include ? ??");
  CHECK(kept.ends_with("x..."));
  CHECK_EQ(again.all().at(1).reason, "");
}

TEST_CASE("a missing time is filled in, and what could not be read back is not written") {
  const test::TemporaryFolder folder;
  BlockList list(folder.path(), kFingerprint);
  BlockedCandidate bad = sample();
  bad.status = "two words";
  CHECK_THROWS_AS(list.append(bad), InputError);
  bad = sample();
  bad.config = {{"tile", ordered_json::array()}};
  CHECK_THROWS_AS(list.append(bad), InputError);
  CHECK_FALSE(fs::exists(folder.path() / "tuning"));
  BlockedCandidate now = sample();
  now.seen_at.clear();
  list.append(now);
  CHECK_EQ(BlockList(folder.path(), kFingerprint).all().at(0).seen_at.size(), 20);
}

TEST_CASE("a block list cut at any byte or put under another GPU's name costs only itself") {
  const test::TemporaryFolder folder;
  {
    BlockList list(folder.path(), kFingerprint);
    list.append(sample(1));
    list.append(sample(2));
  }
  const std::string bytes = read_file(file_in(folder.path()));
  const std::size_t line = bytes.find('\n') + 1;
  for (std::size_t size = 0; size <= bytes.size(); ++size) {
    CAPTURE(size);
    std::ofstream(file_in(folder.path()), std::ios::binary) << bytes.substr(0, size);
    const BlockList list(folder.path(), kFingerprint);
    CHECK_EQ(list.all().size(), size + 1 >= bytes.size() ? 2 : size + 1 >= line ? 1 : 0);
    CHECK_LE(list.num_damaged(), 1);
  }
  const ordered_json other = {{"name", "another"}};
  fs::rename(file_in(folder.path()),
             folder.path() / "tuning" / (fingerprint_hash(other) + ".blocked.jsonl"));
  const BlockList list(folder.path(), other);
  CHECK(list.all().empty());
  CHECK_EQ(list.num_damaged(), 2);
}
