// Tunes whose processes are killed, on a simulated device: what a candidate, an operator or another
// tuner does must cost no more than the trial under way.
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "autotune/remote_bench.h"
#include "autotune/tuner.h"
#include "cache/image_store.h"
#include "runtime/base/error.h"
#include "tests/support/process.h"
#include "tests/support/simulated_bench.h"
#include "tests/support/support.h"

using namespace quern;
using namespace quern::test;

namespace {

using std::chrono::milliseconds;

bool has_nvrtc() {
  try {
    const Nvrtc nvrtc;
    return true;
  } catch (const DeviceError&) {
    return false;
  }
}

std::vector<std::string> tune_command(const std::filesystem::path& cache, int seed,
                                      const std::filesystem::path& journal) {
  return {QUERN_TUNER_PROCESS, "tune", cache.string(), std::to_string(seed), journal.string()};
}

pid_t spawn(const std::vector<std::string>& command) {
  std::vector<char*> argv;
  for (const std::string& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  pid_t pid = -1;
  REQUIRE_EQ(posix_spawn(&pid, QUERN_TUNER_PROCESS, &actions, nullptr, argv.data(), environ), 0);
  posix_spawn_file_actions_destroy(&actions);
  return pid;
}

bool has_ended(pid_t pid) {
  int status = 0;
  return waitpid(pid, &status, WNOHANG) == pid;
}

/// Processes whose parent is `pid` and whose command line holds `word`.
std::vector<pid_t> children_of(pid_t pid, const std::string& word) {
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream stat(entry.path() / "stat");
    std::string text((std::istreambuf_iterator<char>(stat)), {});
    const auto paren = text.rfind(')');
    if (paren == std::string::npos) continue;
    char state = 0;
    int parent = 0;
    if (std::sscanf(text.c_str() + paren + 1, " %c %d", &state, &parent) != 2 || parent != pid)
      continue;
    std::ifstream command(entry.path() / "cmdline");
    const std::string line((std::istreambuf_iterator<char>(command)), {});
    if (line.find(word) != std::string::npos) found.push_back(std::stoi(name));
  }
  return found;
}

std::vector<std::string> lines_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

/// Of a whole tune: every winner is the best there is, give or take noise.
void check_winners(const ordered_json& report) {
  REQUIRE_EQ(report.at("records").size(), 4);
  for (const ordered_json& record : report.at("records")) {
    CAPTURE(record.dump());
    const auto& problem = record.at("problem");
    REQUIRE(record.contains("config"));
    CHECK(fault_of(problem, record.at("config")) == SimulatedFault::none);
    CHECK(true_time_us(problem, record.at("config")) <=
          1.01 * true_time_us(problem, best_config(problem)));
  }
}

void check_cache(const std::filesystem::path& cache) {
  ImageStore images(cache);
  for (const auto& entry : images.verify()) CHECK(entry.intact);
  std::size_t damaged = 0;
  CHECK_EQ(all_records(cache, &damaged).size(), 4);
  CHECK_EQ(damaged, 0);
}

ordered_json run_whole(const std::filesystem::path& cache, int seed,
                       const std::filesystem::path& journal) {
  const ProcessResult result = run_process(tune_command(cache, seed, journal));
  CAPTURE(result.err);
  REQUIRE_EQ(result.exit_code, 0);
  return ordered_json::parse(result.out);
}

std::map<SimulatedFault, std::size_t> planted_faults() {
  std::map<SimulatedFault, std::size_t> counts;
  const auto family = make_simulated_family();
  for (int i = 0; i < 4; ++i) {
    const Params problem = {{"n", 1 << (2 * i)}};
    for (const Params& config : family->candidates(problem, {}))
      if (!family->reject_reason(problem, config, {})) ++counts[fault_of(problem, config)];
  }
  return counts;
}

}  // namespace

TEST_CASE("whatever candidates do, a tune ends, lists it and does not try it twice") {
  QUERN_SKIP_IF(!has_nvrtc(), "NVRTC is not installed");
  const TemporaryFolder folder;
  const auto journal = folder.path() / "journal";
  KernelLibraryOptions options;
  options.cache_root = folder.path() / "cache";
  const auto tune_once = [&](std::uint32_t seed, bool force) {
    KernelCatalog catalog(parse_arch("sm_90a"), {{"name", "simulated GPU"}}, simulated_registry(),
                          options);
    RemoteBenchOptions remote;
    remote.child.command = {QUERN_TUNER_PROCESS, "worker", "simulated", std::to_string(seed),
                            journal.string()};
    remote.trial_deadline = milliseconds(200);
    RemoteBench bench(std::move(remote));
    TrialBench* const benches[] = {&bench};
    std::vector<KernelRequest> requests;
    for (int i = 0; i < 4; ++i) requests.push_back({"simulated", {{"n", 1 << (2 * i)}}});
    TuneOptions tuning;
    tuning.warm_up_seconds = 0;
    tuning.force = force;
    tuning.search.strategy = SearchStrategy::exhaustive;
    return tune(catalog, benches, requests, tuning);
  };
  const TuneReport first = tune_once(1, false);
  check_winners(to_json(first));
  std::map<TrialStatus, std::size_t> seen;
  for (const ProblemReport& problem : first.problems)
    for (const Trial& trial : problem.search.trials) {
      ++seen[trial.verdict.status];
      if (trial.verdict.status != TrialStatus::ok) CHECK_FALSE(trial.verdict.reason.empty());
    }
  auto planted = planted_faults();
  CHECK_EQ(seen[TrialStatus::faulted],
           planted[SimulatedFault::crash] + planted[SimulatedFault::exit]);
  CHECK_EQ(seen[TrialStatus::timed_out], planted[SimulatedFault::hang]);
  CHECK_EQ(seen[TrialStatus::launch_failed], planted[SimulatedFault::launch]);
  CHECK_EQ(seen[TrialStatus::wrong_result], planted[SimulatedFault::wrong]);
  CHECK_EQ(seen[TrialStatus::unstable_result], planted[SimulatedFault::unstable]);
  CHECK_GT(seen[TrialStatus::timed_out], 0);
  CHECK_GT(planted[SimulatedFault::crash], 0);
  CHECK_GT(planted[SimulatedFault::exit], 0);

  const TuneReport again = tune_once(2, true);
  check_winners(to_json(again));
  CHECK_EQ(again.blocked, seen[TrialStatus::faulted] + seen[TrialStatus::timed_out] +
                              seen[TrialStatus::launch_failed]);
  CHECK_EQ(again.compiled, 0);
}

TEST_CASE("a tuner killed fifty times loses no finished trial and ends as if it had not been") {
  QUERN_SKIP_IF(!has_nvrtc(), "NVRTC is not installed");
  const TemporaryFolder folder;
  const auto cache = folder.path() / "cache", journal = folder.path() / "journal";
  std::mt19937 random(7);
  int kills = 0;
  for (int run = 0; run < 50; ++run) {
    const pid_t tuner = spawn(tune_command(cache, run, journal));
    // Some die while they start, most of them over trials.
    const auto end = std::chrono::steady_clock::now() + milliseconds(random() % 160);
    bool ended = false;
    while (!ended && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(milliseconds(1));
      ended = has_ended(tuner);
    }
    if (ended) continue;
    ++kills;
    kill(tuner, SIGKILL);
    waitpid(tuner, nullptr, 0);
  }
  CHECK_GE(kills, 20);
  const ordered_json report = run_whole(cache, 99, journal);
  check_winners(report);
  check_cache(cache);
  // Every trial that ended is in the journal; one that ended twice had not reached the log.
  std::map<std::string, int> ended;
  for (const std::string& line : lines_of(journal)) ++ended[line];
  int repeated = 0;
  for (const auto& [line, times] : ended) repeated += times - 1;
  CHECK_LE(repeated, kills);
  CHECK_GT(ended.size(), 100);
}

TEST_CASE("workers that are killed from outside cost time, not results") {
  QUERN_SKIP_IF(!has_nvrtc(), "NVRTC is not installed");
  const TemporaryFolder folder;
  const auto cache = folder.path() / "cache", journal = folder.path() / "journal";
  const pid_t tuner = spawn(tune_command(cache, 1, journal));
  std::mt19937 random(3);
  int kills = 0;
  while (!has_ended(tuner)) {
    std::this_thread::sleep_for(milliseconds(60 + random() % 120));
    for (const pid_t worker : children_of(tuner, "simulated"))
      kills += kill(worker, SIGKILL) == 0;
  }
  CHECK_GE(kills, 5);
  check_cache(cache);
  const ordered_json report = run_whole(cache, 1, journal);  // all recorded by then
  check_winners(report);
  CHECK_EQ(report.at("measured"), 0);
}

TEST_CASE("eight tuners share a cache") {
  QUERN_SKIP_IF(!has_nvrtc(), "NVRTC is not installed");
  const TemporaryFolder folder;
  const auto cache = folder.path() / "cache", journal = folder.path() / "journal";
  std::vector<pid_t> tuners;
  for (int i = 0; i < 8; ++i) tuners.push_back(spawn(tune_command(cache, i, journal)));
  for (const pid_t tuner : tuners) {
    int status = 0;
    waitpid(tuner, &status, 0);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
  }
  check_cache(cache);
  check_winners(run_whole(cache, 9, journal));
}
