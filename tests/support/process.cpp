#include "tests/support/process.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <sstream>
#include <thread>

#include "runtime/base/file.h"
#include "tests/support/support.h"

namespace quern::test {
namespace {

void redirect(int fd, const std::string& path) {
  ::close(fd);
  if (path == "-") return;
  const int opened = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (opened >= 0 && opened != fd) {
    ::dup2(opened, fd);
    ::close(opened);
  }
}

void limit_memory() {
#ifndef __SANITIZE_ADDRESS__  // which reserves terabytes of addresses
  const rlimit limit{rlim_t{16} << 30, rlim_t{16} << 30};
  ::setrlimit(RLIMIT_AS, &limit);
#endif
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
}

/// State ('R', 'Z', ...) and parent of a process; nothing if there is none.
struct ProcessState {
  char state = 0;
  pid_t parent = 0;
};
std::optional<ProcessState> state_of(pid_t pid) {
  const auto text = try_read_file("/proc/" + std::to_string(pid) + "/stat");
  if (!text) return std::nullopt;
  // "PID (NAME) STATE PARENT ...", where NAME may hold anything.
  std::istringstream rest(text->substr(text->rfind(')') + 1));
  ProcessState state;
  rest >> state.state >> state.parent;
  return state;
}

}  // namespace

bool is_running(pid_t pid) {
  const auto state = state_of(pid);
  if (!state || state->state == 'X') return false;
  if (state->state != 'Z') return true;
  // The first thread waits for the others, who may still hold descriptors open.
  std::error_code error;
  std::size_t threads = 0;
  for (std::filesystem::directory_iterator thread("/proc/" + std::to_string(pid) + "/task", error),
       end;
       !error && thread != end; thread.increment(error))
    ++threads;
  return threads > 1;
}

bool ends_within(pid_t pid, std::chrono::milliseconds time) {
  for (const auto deadline = std::chrono::steady_clock::now() + time; is_running(pid);) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

std::vector<pid_t> children_of(pid_t parent) {
  std::vector<pid_t> children;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const pid_t pid = std::stoi(name);
    if (const auto state = state_of(pid); state && state->parent == parent)
      if (is_running(pid)) children.push_back(pid);
  }
  return children;
}

ProcessResult run_process(const std::vector<std::string>& command, const ProcessOptions& options) {
  const TemporaryFolder folder;
  const auto place = [&](const std::string& path, const char* name) {
    return path.empty() ? (folder.path() / name).string() : path;
  };
  const std::string out = place(options.stdout_path, "out");
  const std::string err = place(options.stderr_path, "err");
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);

  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    limit_memory();
    for (const auto& [name, value] : options.environment) ::setenv(name.c_str(), value.c_str(), 1);
    redirect(STDIN_FILENO, "/dev/null");
    redirect(STDOUT_FILENO, out);
    redirect(STDERR_FILENO, err);
    ::execv(argv[0], argv.data());
    ::_exit(126);
  }
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::seconds(options.timeout_seconds);
  int status = 0;
  while (::waitpid(child, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() > deadline) {
      ::kill(child, SIGKILL);
      ::waitpid(child, &status, 0);
      FAIL(command.back() << ": still running after " << options.timeout_seconds << " s");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  ProcessResult result;
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  if (options.stdout_path.empty()) result.out = read_file(out);
  if (options.stderr_path.empty()) result.err = read_file(err);
  return result;
}

}  // namespace quern::test
