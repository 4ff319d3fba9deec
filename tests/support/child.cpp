#include "tests/support/child.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <memory>
#include <thread>
#include <vector>

#include "compiler/compile_farm.h"
#include "compiler/compile_worker.h"
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

/// A compile worker that misbehaves over requests of certain names.
int compile_worker() {
  ParentChannel parent;
  serve_compiles(
      parent, [&](const Nvrtc& nvrtc, const CompileRequest& request, const HeaderMap& headers) {
        if (request.name == "crash") {
          std::fputs("Assertion failed: the compiler's last words\n", stderr);
          std::signal(SIGSEGV, SIG_DFL);  // a sanitizer would catch it
      std::raise(SIGSEGV);
        }
        if (request.name == "exit") ::_exit(3);
        if (request.name == "hang") std::this_thread::sleep_for(std::chrono::hours(1));
        if (request.name == "slow") std::this_thread::sleep_for(std::chrono::seconds(1));
        if (request.name == "leak") {
          static std::vector<char> leaked;
          leaked.resize(std::size_t{300} << 20, 'x');
        }
        if (request.name == "garbage") parent.send("this is no answer");
        if (request.name == "flood")
          for (int i = 0; i < 50'000; ++i) std::fputs("compiling, compiling, compiling\n", stderr);
        if (request.name == "eat memory") {
          std::vector<std::unique_ptr<char[]>> pieces;
          while (true)
            pieces.push_back(std::make_unique_for_overwrite<char[]>(std::size_t{16} << 20));
        }
        return nvrtc.compile(request, headers);
      });
  return 0;
}

/// What `quern worker compile` is.
int plain_compile_worker() {
  ParentChannel parent;
  serve_compiles(parent);
  return 0;
}

CompileRequest store_number(int number) {
  return {.name = "store a number",
          .source = fmt::format("extern \"C\" __global__ void k(int* x) {{ *x = {}; }}", number),
          .entry = "k",
          .arch = parse_arch("sm_90a"),
          .options = {}};
}

/// Compiles until it is killed; says "busy" once the workers are at it.
int compile_for_ever() {
  ParentChannel parent;
  const Nvrtc nvrtc;
  CompileFarm farm(nvrtc, nullptr, {},
                   {.num_workers = 2, .worker_command = child_command("plain_compile_worker")});
  for (int i = 0;; ++i) {
    farm.submit(store_number(i));
    if (i >= 10) farm.next();
    if (i == 20) parent.send("busy");
  }
}

/// Is told the folder of a cache, compiles 20 kernels into it and says how many it built itself.
int share_cache() {
  ParentChannel parent;
  parent.exit_with_parent();
  const Nvrtc nvrtc;
  ImageStore store(parent.receive().value());
  CompileFarm farm(nvrtc, &store, {}, {.num_workers = 2});
  for (int i = 0; i < 20; ++i) farm.submit(store_number(i));
  while (farm.next()) {
  }
  parent.send(fmt::format("{}", farm.counts().failed > 0 ? 1000 : farm.counts().compiled));
  return 0;
}

}  // namespace

int run_as_child(const std::string& behaviour) {
  if (behaviour == "echo") return echo();
  if (behaviour == "start_another") return start_another();
  if (behaviour == "eat_memory") return eat_memory();
  if (behaviour == "compile_worker") return compile_worker();
  if (behaviour == "plain_compile_worker") return plain_compile_worker();
  if (behaviour == "compile_for_ever") return compile_for_ever();
  if (behaviour == "share_cache") return share_cache();
  return 64;
}

}  // namespace quern::test
