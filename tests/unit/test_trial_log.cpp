#include "cache/trial_log.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <fstream>
#include <limits>
#include <thread>

#include "cache/json_lines.h"
#include "cache/record_store.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "tests/support/support.h"

using namespace quern;
namespace fs = std::filesystem;

namespace {

const ordered_json kFingerprint = {{"name", "NVIDIA H200"}, {"driver", "580.95"}};
const std::string kHash(32, 'a');

TrialEntry sample(int m, int tile = 64, std::vector<double> samples = {38.125, 38.25}) {
  return {"gemm", {{"m", m}}, {{"tile_m", tile}}, kHash, "ok", "", 0.25, std::move(samples)};
}

const TrialEntry* find(const TrialLog& log, int m, int tile = 64) {
  return log.find("gemm", {{"m", m}}, {{"tile_m", tile}}, kHash);
}

fs::path file_in(const fs::path& root) {
  return root / "tuning" / (fingerprint_hash(kFingerprint) + ".trials.jsonl");
}

/// A trial's line as it was written `age` ago.
std::string line_of(int m, std::chrono::hours age) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return cache::encode_line(
      "trial", {{"device", fingerprint_hash(kFingerprint)},
                {"at", std::chrono::duration_cast<std::chrono::seconds>(now - age).count()},
                {"family", "gemm"},
                {"problem", {{"m", m}}},
                {"config", {{"tile_m", 64}}},
                {"template_hash", kHash},
                {"status", "ok"},
                {"reason", ""},
                {"error", 0.5},
                {"samples_us", {1.5}}});
}

}  // namespace

TEST_CASE("a resumed tune finds every finished trial, the newest of each") {
  const test::TemporaryFolder folder;
  TrialLog log(folder.path() / "cache", kFingerprint);
  CHECK_FALSE(fs::exists(folder.path() / "cache"));
  log.append(sample(1, 64));
  log.append(sample(1, 128));
  log.append(sample(1, 64, {7.0}));
  const TrialLog again(folder.path() / "cache", kFingerprint);
  CHECK_EQ(again.size(), 2);
  REQUIRE(find(again, 1));
  CHECK_EQ(find(again, 1)->samples_us, std::vector{7.0});
  CHECK_EQ(find(again, 1, 128)->samples_us, sample(1).samples_us);
  CHECK_EQ(find(again, 1)->error, 0.25);
  CHECK_FALSE(find(again, 2));
  CHECK_FALSE(again.find("gemm", {{"m", 1}}, {{"tile_m", 64}}, std::string(32, 'b')));
  CHECK_EQ(TrialLog(folder.path() / "cache", {{"name", "other"}}).size(), 0);
  std::size_t num_damaged = 0;
  CHECK(all_records(folder.path() / "cache", &num_damaged).empty());
  CHECK_EQ(num_damaged, 0);
}

TEST_CASE("whatever a trial came to can be kept") {
  const test::TemporaryFolder folder;
  TrialLog log(folder.path(), kFingerprint);
  for (const double error : {std::nan(""), std::numeric_limits<double>::infinity(), -1.0, 1e300}) {
    TrialEntry entry = sample(1, 64, {});
    entry.status = "wrong_result";
    entry.reason = "y[3] is \"nan\"\n" + std::string(100000, '\xff');
    entry.error = error;
    log.append(entry);
    const TrialLog again(folder.path(), kFingerprint);
    CHECK_EQ(find(again, 1)->error, 1e9);
    CHECK(find(again, 1)->reason.starts_with("y[3] is 'nan' ?"));
    CHECK_LE(find(again, 1)->reason.size(), 256);
  }
  log.append(sample(2, 64, std::vector(TrialLog::kMaxSamples, 1e12 / 3)));
  CHECK_EQ(find(TrialLog(folder.path(), kFingerprint), 2)->samples_us.size(),
           TrialLog::kMaxSamples);
  CHECK_THROWS_AS(log.append(sample(3, 64, std::vector(TrialLog::kMaxSamples + 1, 1.0))),
                  InputError);
  CHECK_THROWS_AS(log.append(sample(3, 64, {-1.0})), InputError);
  CHECK_THROWS_AS(log.append(sample(3, 64, {std::nan("")})), InputError);
  CHECK_EQ(TrialLog(folder.path(), kFingerprint).num_damaged(), 0);
}

TEST_CASE("trials of a problem that is recorded are forgotten, and old ones too") {
  const test::TemporaryFolder folder;
  {
    TrialLog log(folder.path(), kFingerprint);
    log.append(sample(1));
    log.append(sample(2));
    log.forget("gemm", {{"m", 1}});
    log.forget("gemm", {{"m", 99}});
    CHECK_FALSE(find(log, 1));
    CHECK(find(log, 2));
  }
  {
    TrialLog log(folder.path(), kFingerprint);
    CHECK_FALSE(find(log, 1));
    CHECK(find(log, 2));
    log.append(sample(1));  // tuned once more
  }
  CHECK(find(TrialLog(folder.path(), kFingerprint), 1));

  std::ofstream(file_in(folder.path()), std::ios::app)
      << line_of(10, std::chrono::hours(6 * 24)) << line_of(11, std::chrono::hours(8 * 24))
      << line_of(12, std::chrono::hours(-8 * 24));
  const TrialLog log(folder.path(), kFingerprint);
  CHECK(find(log, 10));
  CHECK_FALSE(find(log, 11));
  CHECK_FALSE(find(log, 12));
  CHECK_EQ(log.num_damaged(), 0);
}

TEST_CASE("the file does not grow without bound, and compacting loses nothing") {
  const test::TemporaryFolder folder;
  TrialLog other(folder.path(), kFingerprint);  // keeps its descriptor over what follows
  other.append(sample(5000));
  for (int round = 0; round < 4; ++round) {
    TrialLog log(folder.path(), kFingerprint);
    for (int m = 0; m < 300; ++m) log.append(sample(m));
    for (int m = 0; m < 300; ++m) log.forget("gemm", {{"m", m}});
  }
  const TrialLog compacted(folder.path(), kFingerprint);
  CHECK_EQ(compacted.size(), 1);
  CHECK_LT(fs::file_size(file_in(folder.path())), 1000);
  other.append(sample(5001));  // goes to the new file, not to the one that was replaced
  const TrialLog again(folder.path(), kFingerprint);
  CHECK(find(again, 5000));
  CHECK(find(again, 5001));
  CHECK_EQ(std::distance(fs::directory_iterator(folder.path() / "tuning"), {}), 1);

  fs::remove_all(folder.path() / "tuning");
  other.append(sample(5002));
  CHECK(find(TrialLog(folder.path(), kFingerprint), 5002));
}

TEST_CASE("hostile lines are skipped") {
  const test::TemporaryFolder folder;
  TrialLog(folder.path(), kFingerprint).append(sample(1));
  ordered_json good = ordered_json::parse(line_of(2, std::chrono::hours(0)))["trial"];
  std::string text;
  std::size_t count = 0;
  for (const auto& [key, value] : good.items())
    for (const ordered_json& other :
         {ordered_json(nullptr), ordered_json(-1), ordered_json(1e300), ordered_json("../x\n"),
          ordered_json("#include \"/etc/passwd\""), ordered_json{{"deep", {{"er", 1}}}},
          ordered_json::array({-1.0}), ordered_json::array({"x"}), ordered_json{{"../../x", 1}}}) {
      ordered_json wrong = good;
      wrong[key] = other;
      text += cache::encode_line("trial", wrong) + cache::encode_line("forgotten", wrong);
      count += 2;
    }
  text += cache::encode_line("record", good) + "\n{}\nnull\n" + std::string(3 << 20, 'x') + "\n" +
          std::string(100000, '[') + "\n";
  std::ofstream(file_in(folder.path()), std::ios::app) << text;
  const TrialLog log(folder.path(), kFingerprint);
  CHECK_EQ(log.size(), 1);
  CHECK_EQ(log.num_damaged(), count + 5);
}

TEST_CASE("many processes append, forget and compact at once, and nothing finished is lost") {
  const test::TemporaryFolder folder;
  constexpr int kChildren = 6, kRounds = 12, kTrials = 40;
  std::vector<pid_t> children;
  for (int child = 0; child < kChildren; ++child) {
    const pid_t pid = ::fork();
    REQUIRE_GE(pid, 0);
    if (pid == 0) {
      try {
        for (int round = 0; round < kRounds; ++round) {
          TrialLog log(folder.path(), kFingerprint);
          const int done = 1000 * child + round;
          for (int tile = 0; tile < kTrials; ++tile) log.append(sample(done, tile));
          log.forget("gemm", {{"m", done}});
          log.append(sample(100000 * (child + 1) + round));  // stays
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
  const TrialLog log(folder.path(), kFingerprint);
  CHECK_EQ(log.num_damaged(), 0);
  CHECK_EQ(log.size(), kChildren * kRounds);
  CHECK_LT(fs::file_size(file_in(folder.path())), 400 * kChildren * kRounds * 10);
}

TEST_CASE("a tune that is killed at any moment loses at most the trial that it was writing") {
  const test::TemporaryFolder folder;
  int previous = 0;
  for (int round = 0; round < 5; ++round) {
    int acknowledged[2];
    REQUIRE_EQ(::pipe(acknowledged), 0);
    const pid_t pid = ::fork();
    REQUIRE_GE(pid, 0);
    if (pid == 0) {
      TrialLog log(folder.path(), kFingerprint);
      for (int i = previous;; ++i) {
        log.append(sample(i));
        [[maybe_unused]] const ssize_t ignored = ::write(acknowledged[1], &i, sizeof i);
      }
    }
    ::close(acknowledged[1]);
    std::this_thread::sleep_for(std::chrono::milliseconds(15 + 7 * round));
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    int last = -1;
    while (::read(acknowledged[0], &last, sizeof last) == sizeof last) {
    }
    ::close(acknowledged[0]);
    const TrialLog log(folder.path(), kFingerprint);
    for (int i = 0; i <= last; ++i) {
      const TrialEntry* found = find(log, i);
      REQUIRE(found);
      CHECK_EQ(found->samples_us, sample(i).samples_us);
    }
    previous = std::max(previous, last + 1);
  }
}
