// The compile farm with worker processes.
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <thread>

#include "autotune/problem.h"
#include "compiler/compile_farm.h"
#include "compiler/compile_worker.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "templates/embedded.h"
#include "templates/gemm/gemm.h"
#include "tests/support/child.h"
#include "tests/support/nvrtc.h"
#include "tests/support/process.h"
#include "tests/support/support.h"

using namespace quern;
using test::kNoNvrtc;
using test::nvrtc;
using test::scale_by;
using namespace std::chrono_literals;

namespace {

CompileFarmOptions with_workers(int num_workers = 2,
                                const std::string& behaviour = "compile_worker") {
  return {.num_workers = num_workers, .worker_command = test::child_command(behaviour)};
}

/// All outcomes, by ticket.
std::map<std::size_t, CompileOutcome> finish(CompileFarm& farm) {
  std::map<std::size_t, CompileOutcome> outcomes;
  while (auto outcome = farm.next()) {
    const std::size_t ticket = outcome->ticket;
    outcomes.emplace(ticket, *std::move(outcome));
  }
  return outcomes;
}

/// Catches warnings while it lives.
class Warnings {
 public:
  Warnings() {
    set_log_sink([this](LogLevel, std::string_view message) { text_ += std::string(message); });
  }
  ~Warnings() { set_log_sink({}); }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

/// A log but for how long ptxas took.
std::string without_times(const std::string& log) {
  std::istringstream lines(log);
  std::string kept;
  for (std::string line; std::getline(lines, line);)
    if (line.find("Compile time") == std::string::npos) kept += line + '\n';
  return kept;
}

bool holds(const std::string& text, const std::string& words) {
  return text.find(words) != std::string::npos;
}

}  // namespace

TEST_CASE("processes build what threads build") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  const GemmFamily family;
  std::vector<CompileRequest> requests;
  for (const int m : {1, 64}) {
    GemmProblem problem;
    problem.m = m, problem.n = 512, problem.k = 512;
    const Params params = to_params(problem);
    const Arch arch = parse_arch("sm_90a");
    for (const Params& config : family.candidates(params, arch)) {
      if (family.is_library(config)) continue;
      requests.push_back(compile_request(family, params, config, arch));
      if (requests.size() % 3 == 0) break;
    }
  }
  requests.push_back(requests.front());
  requests.back().source += "int x = nonsense;\n";
  std::vector<std::map<std::size_t, CompileOutcome>> both;
  for (const CompileFarmOptions& options : {CompileFarmOptions{.num_workers = 2}, with_workers()}) {
    CompileFarm farm(*nvrtc(), nullptr, embedded_templates(), options);
    for (const CompileRequest& request : requests) farm.submit(request);
    both.push_back(finish(farm));
  }
  REQUIRE(both[0].size() == requests.size());
  REQUIRE(both[1].size() == requests.size());
  for (std::size_t i = 0; i < requests.size(); ++i) {
    CAPTURE(requests[i].name);
    const CompileOutcome &threads = both[0].at(i), &processes = both[1].at(i);
    CHECK(threads.error == processes.error);
    CHECK(threads.kernel.has_value() == (i + 1 < requests.size()));
    REQUIRE(threads.kernel.has_value() == processes.kernel.has_value());
    if (!threads.kernel) {
      CHECK(threads.log == processes.log);
      continue;
    }
    CHECK(threads.kernel->key == processes.kernel->key);
    CHECK(threads.kernel->image.cubin == processes.kernel->image.cubin);
    CHECK(without_times(threads.kernel->image.log) == without_times(processes.kernel->image.log));
    CHECK(to_json(threads.kernel->image.report) == to_json(processes.kernel->image.report));
    CHECK(processes.kernel->image.compile_ms > 0);
  }
}

TEST_CASE("a worker that fails costs one request") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  const test::TemporaryFolder folder;
  ImageStore store(folder.path());
  CompileFarmOptions options = with_workers(2);
  options.max_worker_memory = std::size_t{1} << 30;
  CompileFarm farm(*nvrtc(), &store, test::scale_headers(), options);
  const std::map<std::string, std::string> sentences{
      {"crash", "crash did not compile for sm_90a: NVRTC crashed (signal 11)"},
      {"exit", "exit did not compile for sm_90a: NVRTC ended its process (status 3)"},
      {"garbage", "garbage did not compile for sm_90a: NVRTC's process gave a malformed answer"},
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // no bound for memory there
      {"eat memory", "eat memory did not compile for sm_90a: NVRTC ran out of memory"},
#endif
      {"flood", ""},
  };
  std::map<std::size_t, std::string> names;
  int factor = 0;
  for (const auto& [name, sentence] : sentences) {
    for (int i = 0; i < 3; ++i) names[farm.submit(scale_by(++factor, "good"))] = "good";
    names[farm.submit(scale_by(++factor, name))] = name;
  }
  const auto outcomes = finish(farm);
  REQUIRE(outcomes.size() == names.size());
  for (const auto& [ticket, outcome] : outcomes) {
    const std::string& name = names.at(ticket);
    CAPTURE(name);
    CHECK(outcome.kernel.has_value() == (name == "good" || name == "flood"));
    if (!outcome.kernel) CHECK(outcome.error == sentences.at(name));
    if (name == "crash") CHECK(holds(outcome.log, "the compiler's last words"));
  }
  CHECK(farm.counts().failed == sentences.size() - 1);
  CHECK(store.verify().size() == 3 * sentences.size() + 1);
}

TEST_CASE("a compile that takes too long is ended, and the next one goes on") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  CompileFarmOptions options = with_workers(1);
  options.deadline = 2s;
  CompileFarm farm(*nvrtc(), nullptr, test::scale_headers(), options);
  farm.submit(scale_by(1, "hang"));
  farm.submit(scale_by(2));
  const auto outcomes = finish(farm);
  CHECK(outcomes.at(0).error == "hang did not compile for sm_90a: NVRTC took longer than 2 s");
  CHECK(outcomes.at(1).kernel);
}

TEST_CASE("a worker that has grown too large makes room for another") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  CompileFarmOptions options = with_workers(1);
  options.max_worker_memory = std::size_t{512} << 20;
  CompileFarm farm(*nvrtc(), nullptr, test::scale_headers(), options);
  const auto worker_after = [&](const CompileRequest& request) {
    farm.submit(request);
    const auto outcome = farm.next();
    REQUIRE(outcome);
    CHECK(outcome->kernel);
    const auto workers = test::children_of(::getpid());
    return workers.empty() ? pid_t{-1} : workers.front();
  };
  const pid_t first = worker_after(scale_by(1));
  CHECK(worker_after(scale_by(2)) == first);
  CHECK(worker_after(scale_by(3, "leak")) == -1);
  CHECK(worker_after(scale_by(4)) != first);
}

TEST_CASE("workers come with work and stay away without") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  const test::TemporaryFolder folder;
  ImageStore store(folder.path());
  {
    CompileFarm farm(*nvrtc(), &store, test::scale_headers(), with_workers(8));
    CHECK(test::children_of(::getpid()).empty());
    farm.submit(scale_by(1));
    CHECK(farm.next()->kernel);
    CHECK(test::children_of(::getpid()).size() == 1);
    farm.submit(scale_by(2));
    CHECK(farm.next()->kernel);
    CHECK(test::children_of(::getpid()).size() == 1);
  }
  CHECK(test::children_of(::getpid()).empty());
  CompileFarm warm(*nvrtc(), &store, test::scale_headers(), with_workers(8));
  for (const int factor : {1, 2}) warm.submit(scale_by(factor));
  CHECK(finish(warm).size() == 2);
  CHECK(warm.counts().from_cache == 2);
  CHECK(test::children_of(::getpid()).empty());
}

TEST_CASE("a worker killed while it had nothing to do costs nothing") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  CompileFarm farm(*nvrtc(), nullptr, test::scale_headers(), with_workers(1));
  for (const int factor : {1, 2, 3}) {
    farm.submit(scale_by(factor));
    CHECK(farm.next()->kernel);
    const auto workers = test::children_of(::getpid());
    REQUIRE(workers.size() == 1);
    ::kill(workers.front(), SIGKILL);
    CHECK(test::ends_within(workers.front(), 3s));
  }
}

TEST_CASE("where no worker can be started, this process compiles and says so") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"/nonexistent/quern", "worker", "compile"},
        {"/bin/true"},
        test::child_command("echo")}) {
    CAPTURE(command.front());
    const Warnings warnings;
    CompileFarm farm(*nvrtc(), nullptr, test::scale_headers(),
                     {.num_workers = 2, .worker_command = command});
    for (const int factor : {1, 2, 3}) farm.submit(scale_by(factor));
    CHECK(finish(farm).size() == 3);
    CHECK(farm.counts().compiled == 3);
    CHECK(holds(warnings.text(), "kernels are compiled in this process instead"));
  }
}

TEST_CASE("what is wanted first is compiled first") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  CompileFarm farm(*nvrtc(), nullptr, test::scale_headers(), with_workers(1));
  farm.submit(scale_by(0, "slow"));  // keeps the worker while the others queue up
  while (farm.num_waiting() > 0) std::this_thread::sleep_for(1ms);
  std::vector<std::size_t> tickets;
  for (const int factor : {1, 2, 3, 4}) tickets.push_back(farm.submit(scale_by(factor)));
  const std::size_t urgent = farm.submit(scale_by(5), 1);
  const std::size_t raised = farm.submit(scale_by(3), 1);
  REQUIRE(farm.num_waiting() == 6);
  std::vector<std::size_t> order;
  while (const auto outcome = farm.next()) order.push_back(outcome->ticket);
  CHECK(farm.num_waiting() == 0);
  // Equal requests finish together.
  CHECK(order == std::vector{std::size_t{0}, urgent, tickets[2], raised, tickets[0], tickets[1],
                             tickets[3]});
}

TEST_CASE("workers killed at random moments cost what they had under way") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  const test::TemporaryFolder folder;
  ImageStore store(folder.path());
  constexpr int kKernels = 30;
  std::size_t failed = 0, killed = 0;
  {
    CompileFarm farm(*nvrtc(), &store, test::scale_headers(),
                     with_workers(2, "plain_compile_worker"));
    for (int factor = 0; factor < kKernels; ++factor) farm.submit(scale_by(factor));
    std::atomic<bool> done = false;
    std::thread killer([&] {
      std::mt19937 random(7);
      while (!done) {
        std::this_thread::sleep_for(std::chrono::milliseconds(random() % 300));
        const auto workers = test::children_of(::getpid());
        if (!workers.empty() && ::kill(workers[random() % workers.size()], SIGKILL) == 0) ++killed;
      }
    });
    const auto outcomes = finish(farm);
    done = true;
    killer.join();
    CHECK(outcomes.size() == kKernels);
    for (const auto& [ticket, outcome] : outcomes) {
      if (outcome.kernel) continue;
      ++failed;
      CHECK(holds(outcome.error, "NVRTC's process was killed (signal 9)"));
    }
    CHECK(failed <= killed);
    CHECK(failed < kKernels);
  }
  for (const auto& entry : store.verify()) CHECK(entry.intact);
  CHECK(store.verify().size() == kKernels - failed);
  CompileFarm again(*nvrtc(), &store, test::scale_headers(),
                    with_workers(2, "plain_compile_worker"));
  for (int factor = 0; factor < kKernels; ++factor) again.submit(scale_by(factor));
  CHECK(finish(again).size() == kKernels);
  CHECK(again.counts().compiled == failed);
  CHECK(again.counts().from_cache == kKernels - failed);
}

TEST_CASE("a farm that goes away does not wait for its workers") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  const auto start = std::chrono::steady_clock::now();
  {
    CompileFarm farm(*nvrtc(), nullptr, test::scale_headers(), with_workers(2));
    farm.submit(scale_by(1));
    REQUIRE(farm.next());
    farm.submit(scale_by(2, "hang"));
    for (int factor = 3; factor < 9; ++factor) farm.submit(scale_by(factor));
    while (farm.num_waiting() > 5) std::this_thread::sleep_for(1ms);
    const std::size_t dropped = farm.cancel();
    CHECK(farm.num_waiting() == 0);
    CHECK(farm.num_outstanding() == 7 - dropped);
    farm.submit(scale_by(10));  // finds a worker all the same
    REQUIRE(farm.next());
  }
  CHECK(std::chrono::steady_clock::now() - start < 20s);
  CHECK(test::children_of(::getpid()).empty());
}

TEST_CASE("no worker outlives a killed parent") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  ChildProcess parent({.command = test::child_command("compile_for_ever")});
  REQUIRE(parent.receive(std::chrono::steady_clock::now() + 60s) == "busy");
  const auto workers = test::children_of(parent.pid());
  REQUIRE_FALSE(workers.empty());
  ::kill(parent.pid(), SIGKILL);
  for (const pid_t worker : workers) CHECK(test::ends_within(worker, 3s));
}

TEST_CASE("processes that share a cache build each image once") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  for (const bool one_is_killed : {false, true}) {
    CAPTURE(one_is_killed);
    const test::TemporaryFolder folder;
    std::vector<std::unique_ptr<ChildProcess>> tuners;
    for (int i = 0; i < 4; ++i) {
      tuners.push_back(std::make_unique<ChildProcess>(
          ChildOptions{.command = test::child_command("share_cache")}));
      tuners.back()->send(folder.path().string());
    }
    if (one_is_killed) {
      // In the middle of it, while the others wait for what it has begun.
      for (int i = 0; i < 10'000 && !std::filesystem::exists(folder.path() / "images/lock"); ++i)
        std::this_thread::sleep_for(1ms);
      tuners.back()->kill();
      tuners.pop_back();
    }
    std::size_t built = 0;
    for (const auto& tuner : tuners) {
      const auto count = tuner->receive(std::chrono::steady_clock::now() + 60s);
      REQUIRE(count);
      built += std::stoul(*count);
    }
    ImageStore store(folder.path());
    CHECK(store.verify().size() == 20);
    for (const auto& entry : store.verify()) CHECK(entry.intact);
    if (one_is_killed)
      CHECK(built <= 20);
    else
      CHECK(built == 20);
  }
}
