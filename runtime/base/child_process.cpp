#include "runtime/base/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <thread>
#include <utility>

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kKeptOutput = 8192;
// A killed process is gone in milliseconds, unless a driver holds it: that must not hold us.
constexpr auto kKillPatience = std::chrono::seconds(5);

/// A message travels as its length, in this machine's byte order, and its bytes.
using Length = std::uint64_t;

std::string frame(std::string_view message) {
  if (message.size() > kMaxMessageBytes)
    throw InputError(
        fmt::format("a message of {} bytes is too long for a child process (at most {})",
                    message.size(), kMaxMessageBytes));
  const Length length = message.size();
  std::string bytes(sizeof length + message.size(), '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  if (!message.empty()) std::memcpy(bytes.data() + sizeof length, message.data(), message.size());
  return bytes;
}

[[noreturn]] void fail_to_start(const ChildOptions& options, int error) {
  throw Error(fmt::format("cannot start the child process {}: {}", options.command.front(),
                          std::strerror(error)));
}

/// "signal 11 (SIGSEGV)".
std::string signal_name(int signal) {
  const char* name = ::sigabbrev_np(signal);  // "SEGV"; none for real-time signals
  return name ? fmt::format("signal {} (SIG{})", signal, name) : fmt::format("signal {}", signal);
}

/// The same open file under a number that none of the child's descriptors has: they are put into
/// place one after another and must not overwrite each other.
Descriptor moved_up(int fd) {
  const Descriptor low(fd);
  return Descriptor(::fcntl(fd, F_DUPFD_CLOEXEC, 10));
}

std::vector<char*> pointers_to(std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> environment_with(const std::map<std::string, std::string>& added) {
  std::vector<std::string> variables;
  for (char** variable = environ; *variable; ++variable) {
    const std::string_view text = *variable;
    if (!added.contains(std::string(text.substr(0, text.find('='))))) variables.emplace_back(text);
  }
  for (const auto& [name, value] : added) variables.push_back(name + "=" + value);
  return variables;
}

/// posix_spawn() and its two bundles of settings.
class Spawn {
 public:
  Spawn() {
    posix_spawn_file_actions_init(&files_);
    posix_spawnattr_init(&attributes_);
  }
  ~Spawn() {
    posix_spawn_file_actions_destroy(&files_);
    posix_spawnattr_destroy(&attributes_);
  }
  Spawn(const Spawn&) = delete;
  Spawn& operator=(const Spawn&) = delete;

  void set_descriptors(int channel, int output) {
    posix_spawn_file_actions_addopen(&files_, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files_, output, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files_, output, STDERR_FILENO);
    posix_spawn_file_actions_adddup2(&files_, channel, ChildProcess::kChannel);
    // Ours close on exec by themselves; those of other libraries may not.
    posix_spawn_file_actions_addclosefrom_np(&files_, ChildProcess::kChannel + 1);
  }
  void set_signals() {
    sigset_t none, usual;
    sigemptyset(&none);
    sigemptyset(&usual);
    for (const int signal : {SIGPIPE, SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGCHLD})
      sigaddset(&usual, signal);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setsigdefault(&attributes_, &usual);
    posix_spawnattr_setpgroup(&attributes_, 0);
    posix_spawnattr_setflags(
        &attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  }
  /// 0, or errno: also where the program cannot be executed.
  int operator()(pid_t& pid, const ChildOptions& options) {
    std::vector<std::string> command = options.command;
    std::vector<std::string> environment = environment_with(options.environment);
    return ::posix_spawn(&pid, command.front().c_str(), &files_, &attributes_,
                         pointers_to(command).data(), pointers_to(environment).data());
  }

 private:
  posix_spawn_file_actions_t files_;
  posix_spawnattr_t attributes_;
};

int poll_timeout_ms(Clock::time_point deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000));
}

}  // namespace

ChildProcess::ChildProcess(const ChildOptions& options) {
  if (options.command.empty()) throw Error("a child process needs a command");
  start(options);
  bound(options);
}

void ChildProcess::start(const ChildOptions& options) {
  std::array<int, 2> sockets{}, pipe{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets.data()) != 0)
    fail_to_start(options, errno);
  channel_ = Descriptor(sockets[0]);
  const Descriptor channel = moved_up(sockets[1]);
  if (!channel || ::pipe2(pipe.data(), O_CLOEXEC) != 0) fail_to_start(options, errno);
  output_ = Descriptor(pipe[0]);
  const Descriptor output = moved_up(pipe[1]);
  if (!output || ::fcntl(output_.get(), F_SETFL, O_NONBLOCK) != 0) fail_to_start(options, errno);

  Spawn spawn;
  spawn.set_descriptors(channel.get(), output.get());
  spawn.set_signals();
  if (const int error = spawn(pid_, options); error != 0) fail_to_start(options, error);
}

/// The child runs already, but has been told nothing yet that could make it grow or crash.
void ChildProcess::bound(const ChildOptions& options) {
  const rlimit no_core{0, 0};
  ::prlimit(pid_, RLIMIT_CORE, &no_core, nullptr);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which map terabytes
  const rlimit memory{options.max_memory_bytes, options.max_memory_bytes};
  if (options.max_memory_bytes > 0 && ::prlimit(pid_, RLIMIT_DATA, &memory, nullptr) != 0 &&
      errno != ESRCH) {
    const int error = errno;
    kill();
    throw Error(
        fmt::format("cannot bound the memory of a child process: {}", std::strerror(error)));
  }
#endif
}

ChildProcess::~ChildProcess() {
  if (reaped_ || pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  reap(kKillPatience);
}

void ChildProcess::kill() {
  if (lost_) return;
  try {
    lose("was killed");
  } catch (const ChildLost&) {
    // kept for later calls
  }
}

/// Waits for the child's end; false if it has not come.
bool ChildProcess::reap(std::chrono::milliseconds patience) {
  const auto deadline = Clock::now() + patience;
  auto pause = std::chrono::microseconds(200);
  while (!reaped_) {
    const pid_t ended = ::waitpid(pid_, &status_, WNOHANG);
    // ECHILD: somebody else in this process has waited for all its children.
    if (ended == pid_ || (ended < 0 && errno == ECHILD)) {
      reaped_ = true;
      if (ended < 0) status_ = -1;
      break;
    }
    if (Clock::now() >= deadline) return false;
    std::this_thread::sleep_for(pause);
    pause = std::min(2 * pause, std::chrono::microseconds(5000));
  }
  return true;
}

/// The child has closed its end: it is ending, or it had better.
void ChildProcess::lose() {
  if (!reap(std::chrono::seconds(1))) lose("closed its channel");
  read_printed();
  if (status_ == -1)
    lost_.emplace("the child process ended");
  else if (WIFSIGNALED(status_))
    lost_.emplace(fmt::format("the child process was killed by {}", signal_name(WTERMSIG(status_))),
                  WTERMSIG(status_));
  else
    lost_.emplace(fmt::format("the child process exited with status {}", WEXITSTATUS(status_)), 0,
                  WEXITSTATUS(status_));
  throw ChildLost(*lost_);
}

void ChildProcess::lose(const std::string& what_it_did) {
  if (!reaped_) ::kill(pid_, SIGKILL);
  reap(kKillPatience);
  read_printed();
  lost_.emplace("the child process " + what_it_did);
  throw ChildLost(*lost_);
}

void ChildProcess::send(std::string_view message) {
  if (lost_) throw ChildLost(*lost_);
  outgoing_ += frame(message);
  write_pending();
}

void ChildProcess::write_pending() {
  std::size_t done = 0;
  while (done < outgoing_.size()) {
    const ssize_t count = ::send(channel_.get(), outgoing_.data() + done, outgoing_.size() - done,
                                 MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (count < 0) lose();
    done += static_cast<std::size_t>(count);
  }
  outgoing_.erase(0, done);
}

/// False: the child has closed its end.
bool ChildProcess::read_available() {
  std::array<char, 65536> bytes;
  while (true) {
    const ssize_t count = ::recv(channel_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno == EAGAIN || errno == EWOULDBLOCK;
    if (count > 0) incoming_.append(bytes.data(), static_cast<std::size_t>(count));
    return count > 0;
  }
}

void ChildProcess::read_printed() {
  std::array<char, 65536> bytes;
  // Bounded, so that a child which never stops printing cannot keep us here.
  for (int i = 0; i < 16 && output_; ++i) {
    const ssize_t count = ::read(output_.get(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (count <= 0) {
      output_ = Descriptor();
      return;
    }
    printed_.append(bytes.data(), static_cast<std::size_t>(count));
    if (printed_.size() > kKeptOutput) printed_.erase(0, printed_.size() - kKeptOutput);
  }
}

std::optional<std::string> ChildProcess::take_message() {
  Length length = 0;
  if (incoming_.size() < sizeof length) return std::nullopt;
  std::memcpy(&length, incoming_.data(), sizeof length);
  if (length > kMaxMessageBytes)
    lose(fmt::format("sent a message of {} bytes (at most {} are allowed)", length,
                     kMaxMessageBytes));
  if (incoming_.size() - sizeof length < length) return std::nullopt;
  std::string message = incoming_.substr(sizeof length, length);
  incoming_.erase(0, sizeof length + length);
  return message;
}

std::optional<std::string> ChildProcess::receive(Clock::time_point deadline) {
  while (true) {
    if (lost_) throw ChildLost(*lost_);
    if (auto message = take_message()) return message;
    const bool last_look = Clock::now() >= deadline;
    const short wanted = static_cast<short>(POLLIN | (outgoing_.empty() ? 0 : POLLOUT));
    std::array<pollfd, 2> events{{{channel_.get(), wanted, 0}, {output_.get(), POLLIN, 0}}};
    const int ready = ::poll(events.data(), events.size(), poll_timeout_ms(deadline));
    if (ready < 0 && errno != EINTR)
      lose(fmt::format("cannot be heard ({})", std::strerror(errno)));
    if (ready <= 0) {
      if (last_look) return std::nullopt;
      continue;
    }
    if (events[1].revents != 0) read_printed();
    // What the child said before it ended counts, so that reading comes before writing.
    if (events[0].revents & (POLLIN | POLLHUP | POLLERR)) {
      if (!read_available()) {
        if (auto message = take_message()) return message;
        lose();
      }
    } else if (events[0].revents & POLLOUT) {
      write_pending();
    }
    if (last_look) return take_message();  // even if there is more: it may never end
  }
}

ParentChannel::ParentChannel(int fd) {
  struct stat status {};
  if (::fstat(fd, &status) != 0 || !S_ISSOCK(status.st_mode))
    throw InputError("this command is for quern itself to start: it takes no work from people");
  channel_ = Descriptor(fd);
  ::fcntl(fd, F_SETFD, FD_CLOEXEC);
}

void ParentChannel::exit_with_parent() {
  // A descriptor of its own, for the channel may be closed while this process ends in its own way.
  std::thread([fd = ::fcntl(channel_.get(), F_DUPFD_CLOEXEC, 0)] {
    pollfd hangup{fd, 0, 0};
    while (::poll(&hangup, 1, -1) < 0 && errno == EINTR) {
    }
    ::_exit(kExitDone);
  }).detach();
}

bool ParentChannel::read_exactly(char* bytes, std::size_t count) {
  while (count > 0) {
    const ssize_t got = ::read(channel_.get(), bytes, count);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    bytes += got;
    count -= static_cast<std::size_t>(got);
  }
  return true;
}

std::optional<std::string> ParentChannel::receive() {
  Length length = 0;
  if (!read_exactly(reinterpret_cast<char*>(&length), sizeof length)) return std::nullopt;
  if (length > kMaxMessageBytes) throw Error("the parent process sent nonsense");
  std::string message(length, '\0');
  if (!read_exactly(message.data(), message.size())) return std::nullopt;
  return message;
}

void ParentChannel::send(std::string_view message) {
  const std::string bytes = frame(message);
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t count =
        ::send(channel_.get(), bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw Error("the parent process is gone");
    done += static_cast<std::size_t>(count);
  }
}

}  // namespace quern
