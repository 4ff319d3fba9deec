// The hidden command, and what the workers that it is for do for the others.
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <random>
#include <string>
#include <thread>

#include "runtime/base/child_process.h"
#include "tests/cli/quern.h"
#include "tests/support/nvrtc.h"

using namespace quern;
using quern::test::children_of;
using quern::test::ends_within;
using quern::test::is_running;
using quern::test::Quern;
using namespace std::chrono_literals;

TEST_CASE("workers are not for people") {
  const Quern quern;
  quern.refuses({"worker"}, 2, "quern worker needs a command");
  quern.refuses({"worker", "frobnicate"}, 2, "'quern worker frobnicate' is no command");
  quern.refuses({"worker", "compile"}, 2, "this command is for quern itself to start");
  CHECK(quern({"--help"}).out.find("worker") == std::string::npos);
}

TEST_CASE("a worker ends in order when it is told nonsense") {
  for (const std::string message : {"", "nonsense"}) {
    ChildProcess worker({.command = {QUERN_BINARY, "worker", "compile"}});
    worker.send(message);
    try {
      while (worker.receive(std::chrono::steady_clock::now() + 30s)) {
      }
      FAIL("the worker is still there");
    } catch (const ChildLost& lost) {
      CHECK(lost.exit_status() == 1);
      CHECK(worker.error_output() == "quern: the parent process sent nonsense\n");
    }
  }
}

TEST_CASE("compile survives kill -9, its own and that of its workers, at any moment") {
  QUERN_SKIP_IF(!test::nvrtc(), test::kNoNvrtc);
  const Quern quern;
  const std::vector<std::string> words{"compile", "--arch",   "sm_80", "--batch",
                                       "1",       "--prompt", "16"};
  std::mt19937 random(3);
  int finished = 0;
  for (int round = 0; round < 4; ++round) {
    CAPTURE(round);
    ChildOptions options{.command = {QUERN_BINARY},
                         .environment = {{"QUERN_CACHE", quern.path("cache").string()}}};
    options.command.insert(options.command.end(), words.begin(), words.end());
    ChildProcess process(options);
    // Later rounds may find all done.
    while (is_running(process.pid()) && children_of(process.pid()).empty())
      std::this_thread::sleep_for(1ms);
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 300));
    const auto workers = children_of(process.pid());
    if (round == 0) {
      REQUIRE_FALSE(workers.empty());
      ::kill(workers.front(), SIGKILL);
    }
    process.kill();
    for (const pid_t worker : workers) CHECK(ends_within(worker, 3s));
    const json intact = quern.json_of({"cache", "verify"});
    CHECK(intact["damaged_images"] == json::array());
    CHECK(intact["images"].get<int>() >= finished);
    finished = intact["images"].get<int>();
  }
  const json rest = quern.json_of(words);
  CHECK(rest["failed"] == 0);
  CHECK(quern.json_of({"cache", "verify"})["images"] == finished + rest["compiled"].get<int>());
}
