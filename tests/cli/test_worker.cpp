// The hidden command, and what the workers that it is for do for the others.
#include <filesystem>
#include <string>

#include "runtime/base/child_process.h"
#include "tests/cli/quern.h"

using quern::json;
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
    quern::ChildProcess worker({.command = {QUERN_BINARY, "worker", "compile"}});
    worker.send(message);
    try {
      while (worker.receive(std::chrono::steady_clock::now() + 30s)) {
      }
      FAIL("the worker is still there");
    } catch (const quern::ChildLost& lost) {
      CHECK(lost.exit_status() == 1);
      CHECK(worker.error_output() == "quern: the parent process sent nonsense\n");
    }
  }
}
