#pragma once
#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/descriptor.h"
#include "runtime/base/error.h"

namespace quern {

/// Longest message between a process and its child, in bytes.
constexpr std::size_t kMaxMessageBytes = std::size_t{64} << 20;

/// A child process can no longer answer. what() says why: "the child process was killed by signal
/// 11 (SIGSEGV)", "the child process exited with status 3".
class ChildLost : public Error {
 public:
  explicit ChildLost(const std::string& sentence, int signal = 0, int exit_status = -1)
      : Error(sentence), signal_(signal), exit_status_(exit_status) {}
  /// The signal that ended the child; 0 if none did.
  int signal() const noexcept { return signal_; }
  /// What the child returned; -1 if it did not come to that.
  int exit_status() const noexcept { return exit_status_; }

 private:
  int signal_, exit_status_;
};

struct ChildOptions {
  std::vector<std::string> command;  // path of the program, then its arguments
  std::size_t max_memory_bytes = 0;  // of private memory (RLIMIT_DATA); 0 = no bound
  std::map<std::string, std::string> environment{};  // on top of this process's own
};

/// A child process for work that may crash, hang or eat memory, and the messages to and from it.
///
/// The child has its end of the channel as descriptor kChannel, reads nothing else, and has what it
/// prints captured; no other descriptor reaches it. It leads a process group of its own, so that
/// Ctrl-C reaches this process alone, which then decides. It dies with this process, however that
/// ends, if it calls ParentChannel::exit_with_parent(). (PR_SET_PDEATHSIG would not ask for its
/// help, but it kills a child when the *thread* that started it ends, and a library cannot know how
/// long its caller's threads live.)
///
/// One thread at a time may use an object; several may each own children.
class ChildProcess {
 public:
  static constexpr int kChannel = 3;

  /// Throws Error if the program cannot be started.
  explicit ChildProcess(const ChildOptions& options);
  /// Kills the child.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  /// Never waits: what the child is too slow to take goes out during receive(). Throws ChildLost,
  /// and InputError for a message that is too long.
  void send(std::string_view message);
  /// The child's next message, or nothing at the deadline. Throws ChildLost if there will be none;
  /// a child that sends nonsense is killed.
  std::optional<std::string> receive(std::chrono::steady_clock::time_point deadline);
  /// Kills the child; it is lost from then on.
  void kill();

  pid_t pid() const { return pid_; }
  /// The last few KiB that the child printed, as far as receive() has seen them: all of them once
  /// ChildLost was thrown.
  const std::string& error_output() const { return printed_; }

 private:
  void start(const ChildOptions& options);
  void bound(const ChildOptions& options);
  void write_pending();
  bool read_available();
  void read_printed();
  std::optional<std::string> take_message();
  bool reap(std::chrono::milliseconds patience);
  [[noreturn]] void lose();
  [[noreturn]] void lose(const std::string& what_it_did);

  pid_t pid_ = -1;
  bool reaped_ = false;
  int status_ = 0;                 // of waitpid(), once reaped
  std::optional<ChildLost> lost_;  // thrown again by every later call
  Descriptor channel_, output_;    // our ends
  std::string outgoing_;           // frames that the child has not taken yet
  std::string incoming_;           // frames that nobody has asked for yet
  std::string printed_;
};

/// The child's end of the channel.
class ParentChannel {
 public:
  /// Throws InputError if `fd` is no channel: a person typed the command.
  explicit ParentChannel(int fd = ChildProcess::kChannel);

  /// From now on this process ends, whatever its threads are doing, as soon as the parent is gone
  /// or has dropped its end.
  void exit_with_parent();
  /// Waits. Nothing: the parent is gone.
  std::optional<std::string> receive();
  /// Throws Error if the parent is gone, InputError for a message that is too long.
  void send(std::string_view message);

 private:
  bool read_exactly(char* bytes, std::size_t count);

  Descriptor channel_;
};

}  // namespace quern
