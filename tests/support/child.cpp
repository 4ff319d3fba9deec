#include "tests/support/child.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <thread>
#include <vector>

#include "runtime/base/child_process.h"

namespace quern::test {
namespace {

/// Answers every message with itself.
int echo() {
  ParentChannel parent;
  parent.exit_with_parent();
  while (const auto message = parent.receive()) parent.send(*message);
  return 0;
}

/// Starts a child of its own, says its pid and then does nothing for ever.
int start_another() {
  ParentChannel parent;
  ChildProcess child({.command = child_command("echo")});
  child.send("ready?");
  child.receive(std::chrono::steady_clock::time_point::max());
  parent.send(fmt::format("{}", child.pid()));
  std::this_thread::sleep_for(std::chrono::hours(1));
  return 0;
}

/// Says how many bytes could be had, when asked.
int eat_memory() {
  ParentChannel parent;
  parent.exit_with_parent();
  constexpr std::size_t kPiece = std::size_t{16} << 20;
  std::vector<std::vector<char>> pieces;
  try {
    while (parent.receive() && pieces.size() < 64)
      for (int i = 0; i < 64; ++i) pieces.emplace_back(kPiece, 'x');
  } catch (const std::bad_alloc&) {
  }
  parent.send(fmt::format("{}", pieces.size() * kPiece));
  return 0;
}

}  // namespace

int run_as_child(const std::string& behaviour) {
  if (behaviour == "echo") return echo();
  if (behaviour == "start_another") return start_another();
  if (behaviour == "eat_memory") return eat_memory();
  return 64;
}

}  // namespace quern::test
