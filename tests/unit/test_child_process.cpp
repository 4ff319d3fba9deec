#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "runtime/base/child_process.h"
#include "tests/support/child.h"
#include "tests/support/process.h"
#include "tests/support/support.h"

using namespace quern;
using test::ends_within;
using test::is_running;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

namespace {

ChildOptions shell(const std::string& script) { return {.command = {"/bin/sh", "-c", script}}; }

/// How the child ended; what it said before is thrown away.
ChildLost loss_of(ChildProcess& child) {
  try {
    while (child.receive(Clock::now() + 10s)) {
    }
  } catch (const ChildLost& lost) {
    return lost;
  }
  return ChildLost("still there");
}

std::size_t num_descriptors() {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    (void)entry;
    ++count;
  }
  return count;
}

}  // namespace

TEST_CASE("messages of every size come back as they went") {
  ChildProcess child({.command = test::child_command("echo")});
  for (const std::size_t size : {0, 1, 7, 8, 4096, 65528, 65536, 1 << 20, 20 << 20}) {
    CAPTURE(size);
    std::string message(size, '\0');
    for (std::size_t i = 0; i < size; ++i) message[i] = static_cast<char>(i * 31 + i / 251);
    child.send(message);
    const auto answer = child.receive(Clock::now() + 10s);
    REQUIRE(answer);
    CHECK(*answer == message);
  }
  for (int i = 0; i < 100; ++i) child.send(std::to_string(i));
  for (int i = 0; i < 100; ++i) CHECK(child.receive(Clock::now() + 10s) == std::to_string(i));
  CHECK_FALSE(child.receive(Clock::now()));
  CHECK_FALSE(child.receive(Clock::now() + 20ms));
  CHECK_THROWS_AS(child.send(std::string(kMaxMessageBytes + 1, 'x')), InputError);
  child.send("still here");
  CHECK(child.receive(Clock::time_point::max()) == "still here");
}

TEST_CASE("a lost child says how it ended") {
  {
    ChildProcess child(shell("exit 3"));
    const ChildLost lost = loss_of(child);
    CHECK(lost.what() == std::string("the child process exited with status 3"));
    CHECK(lost.exit_status() == 3);
    CHECK(lost.signal() == 0);
    CHECK_THROWS_AS(child.send("x"), ChildLost);
    CHECK_THROWS_AS(child.receive(Clock::now()), ChildLost);
  }
  {
    ChildProcess child(shell("echo out; echo 'last words' >&2; kill -SEGV $$"));
    const ChildLost lost = loss_of(child);
    CHECK(lost.what() == std::string("the child process was killed by signal 11 (SIGSEGV)"));
    CHECK(lost.signal() == 11);
    CHECK(lost.exit_status() == -1);
    CHECK(child.error_output() == "out\nlast words\n");
  }
  {
    ChildProcess child(shell("sleep 100"));
    CHECK_FALSE(child.receive(Clock::now() + 20ms));
    child.kill();
    CHECK(loss_of(child).what() == std::string("the child process was killed"));
    CHECK_FALSE(is_running(child.pid()));
  }
  {
    ChildProcess child(shell("exec 3>&-; sleep 100"));
    CHECK(loss_of(child).what() == std::string("the child process closed its channel"));
  }
}

TEST_CASE("a child that sends nonsense is killed") {
  {
    ChildProcess child(shell("echo 'this is no message' >&3; sleep 100"));
    CHECK(std::string(loss_of(child).what()).find("sent a message of") != std::string::npos);
    CHECK_FALSE(is_running(child.pid()));
  }
  ChildProcess child(shell(R"(printf '\020\0\0\0\0\0\0\0cut short' >&3)"));
  CHECK(loss_of(child).exit_status() == 0);
}

TEST_CASE("a child that prints without end neither stops nor fills memory") {
  ChildProcess child(shell("head -c 3000000 /dev/zero | tr '\\0' 'y' >&2; echo end >&2; exit 5"));
  CHECK(loss_of(child).exit_status() == 5);
  CHECK(child.error_output().size() == 8192);
  CHECK(child.error_output().ends_with("yend\n"));

  ChildProcess endless(shell("yes >&2"));
  const auto start = Clock::now();
  CHECK_FALSE(endless.receive(start + 50ms));
  CHECK(Clock::now() - start < 2s);
}

TEST_CASE("a child that reads nothing does not hold its parent") {
  ChildProcess child(shell("sleep 100"));
  const auto start = Clock::now();
  child.send(std::string(8 << 20, 'x'));
  CHECK_FALSE(child.receive(Clock::now() + 20ms));
  CHECK(Clock::now() - start < 2s);
}

TEST_CASE("what cannot be started is an error") {
  CHECK_THROWS_AS(ChildProcess({.command = {"/nonexistent/program"}}), Error);
  CHECK_THROWS_AS(ChildProcess({.command = {}}), Error);
}

TEST_CASE("a child has its channel, its environment and nothing else") {
  const int open_everywhere = ::open("/dev/null", O_RDONLY);  // not close-on-exec
  REQUIRE(open_everywhere > 2);
  ChildProcess child(
      {.command = {"/bin/sh", "-c", "echo $QUERN_TEST; ls /proc/self/fd | wc -l; cat"},
       .environment = {{"QUERN_TEST", "some value"}}});
  CHECK(loss_of(child).exit_status() == 0);          // cat: stdin is empty
  CHECK(child.error_output() == "some value\n5\n");  // 0 to 3, and the folder that ls reads
  ::close(open_everywhere);
}

TEST_CASE("no core dump, and memory as far as allowed") {
  ChildProcess cores(shell("read line <&3; ulimit -c"));
  cores.send("\n");
  loss_of(cores);
  CHECK(cores.error_output() == "0\n");
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  ChildProcess child(
      {.command = test::child_command("eat_memory"), .max_memory_bytes = std::size_t{256} << 20});
  child.send("eat");
  const auto eaten = child.receive(Clock::now() + 10s);
  REQUIRE(eaten);
  CHECK(std::stoull(*eaten) < std::size_t{256} << 20);
  CHECK(std::stoull(*eaten) > std::size_t{128} << 20);
#endif
}

TEST_CASE("threads may start children at the same time") {
  const std::size_t before = num_descriptors();
  std::vector<std::thread> threads;
  std::atomic<int> answered = 0;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 5; ++i) {
        ChildProcess child({.command = test::child_command("echo")});
        child.send("hello");
        if (child.receive(Clock::now() + 30s) == "hello") ++answered;
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(answered == 20);
  CHECK(num_descriptors() == before);
}

TEST_CASE("children end with their parent, however it ends") {
  pid_t orphan = 0;
  {
    ChildProcess parent({.command = test::child_command("start_another")});
    const auto pid = parent.receive(Clock::now() + 10s);
    REQUIRE(pid);
    orphan = std::stoi(*pid);
    CHECK(is_running(orphan));
    ::kill(parent.pid(), SIGKILL);
    CHECK(loss_of(parent).signal() == SIGKILL);
  }
  CHECK(ends_within(orphan, 3s));
}

TEST_CASE("a command for children only is refused by hand") {
  CHECK_THROWS_AS(ParentChannel(-1), InputError);
  const int file = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  CHECK_THROWS_AS(ParentChannel{file}, InputError);
  ::close(file);
}
