#pragma once
#include <sys/types.h>

#include <chrono>
#include <map>
#include <string>
#include <vector>

namespace quern::test {

struct ProcessOptions {
  std::map<std::string, std::string> environment{};  // on top of this process's own
  std::string stdout_path{};  // written to this instead of being kept; "-" = closed
  std::string stderr_path{};  // the same
  int timeout_seconds = 120;
};

struct ProcessResult {
  int exit_code = -1;  // -1 if a signal ended it
  int signal = 0;      // that ended it
  std::string out, err;
};

/// Runs a program with an empty stdin and waits for it. Fails the test case if it cannot be started
/// or does not end in time. Its memory is bounded, so that an absurd allocation fails at once.
ProcessResult run_process(const std::vector<std::string>& command,
                          const ProcessOptions& options = {});

/// False for what has ended and waits for nothing but its parent's attention.
bool is_running(pid_t pid);
bool ends_within(pid_t pid, std::chrono::milliseconds time);
std::vector<pid_t> children_of(pid_t parent);

}  // namespace quern::test
