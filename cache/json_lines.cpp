#include "cache/json_lines.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "cache/fields.h"
#include "cache/files.h"
#include "cache/parse_json.h"
#include "runtime/base/error.h"
#include "runtime/base/hash.h"

namespace quern::cache {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kMaxLine = 64 << 10;  // bytes; a record has some hundreds
constexpr std::size_t kSumSize = 32;
constexpr std::string_view kBeforeSum = "{\"checksum\":\"";
constexpr std::string_view kBeforeName = "\",\"";
constexpr std::string_view kBeforeValue = "\":";

/// Takes `prefix` off the front of `text`; false if it is not there.
bool skip(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

bool take_line(std::string_view line, const JsonLines::Take& take) {
  if (!skip(line, kBeforeSum)) return false;
  const std::string_view sum = line.substr(0, kSumSize);
  line.remove_prefix(sum.size());
  if (!skip(line, kBeforeName)) return false;
  const std::string_view name = line.substr(0, line.find('"'));
  line.remove_prefix(name.size());
  if (!is_identifier(name) || !skip(line, kBeforeValue) || !line.ends_with('}')) return false;
  line.remove_suffix(1);
  if (content_hash(line) != sum) return false;
  const auto value = parse_json(line);
  return value && take(name, *value);
}

/// Calls `take` for every line, the last with or without its newline. Lines longer than kMaxLine
/// are cut there, which none survives.
template <class TakeText>
void for_each_line(int fd, TakeText take) {
  std::array<char, 64 << 10> block;
  std::string line;
  for (;;) {
    const ssize_t count = ::read(fd, block.data(), block.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    std::string_view rest(block.data(), static_cast<std::size_t>(count));
    for (;;) {
      const std::size_t end = rest.find('\n');
      const std::string_view piece = rest.substr(0, end);
      line.append(piece.substr(0, kMaxLine - std::min(kMaxLine, line.size())));
      if (end == rest.npos) break;
      take(std::string_view(line));
      line.clear();
      rest.remove_prefix(end + 1);
    }
  }
  if (!line.empty()) take(std::string_view(line));
}

std::size_t read_lines(int fd, const JsonLines::Take& take) {
  std::size_t num_damaged = 0;
  for_each_line(fd, [&](std::string_view line) {
    // Empty lines are left by the repair of torn ones.
    if (!line.empty() && !take_line(line, take)) ++num_damaged;
  });
  return num_damaged;
}

Descriptor open_regular(const fs::path& path, int flags) {
  // O_NONBLOCK: opening a pipe that somebody left here must not wait for the other end.
  Descriptor file(::open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600));
  struct stat status {};
  if (!file || ::fstat(file.get(), &status) != 0) return {};
  if (S_ISREG(status.st_mode)) return file;
  errno = EINVAL;
  return {};
}

/// True if the open file is what `path` names: nobody has replaced or removed it.
bool is_current(const Descriptor& file, const fs::path& path) {
  struct stat open {
  }, named{};
  return ::fstat(file.get(), &open) == 0 && ::lstat(path.c_str(), &named) == 0 &&
         open.st_dev == named.st_dev && open.st_ino == named.st_ino;
}

}  // namespace

std::string encode_line(std::string_view name, const ordered_json& value) {
  const std::string text = value.dump();
  std::string line = fmt::format("{}{}{}{}{}{}}}\n", kBeforeSum, content_hash(text), kBeforeName,
                                 name, kBeforeValue, text);
  if (line.size() > kMaxLine)
    throw InputError(fmt::format("a {} of {} bytes is too long to be kept", name, line.size()));
  return line;
}

std::size_t JsonLines::read(const Take& take) const {
  const Descriptor file = open_regular(path_, O_RDONLY);
  if (!file) return 0;
  lock(file, /*exclusive=*/false);
  return read_lines(file.get(), take);
}

/// The lock is that of the file itself, so whoever waited for it may hold a file that was replaced
/// meanwhile, and looks again.
void JsonLines::open_locked() {
  for (;;) {
    if (!file_) {
      make_private_folder(path_.parent_path());
      file_ = open_regular(path_, O_RDWR | O_APPEND | O_CREAT);
      if (!file_) fail_on_file("write", path_);
    }
    lock(file_, /*exclusive=*/true);
    if (is_current(file_, path_)) return;
    file_ = Descriptor();
  }
}

void JsonLines::append(std::string_view lines, Durability durability) {
  open_locked();
  const auto failed = [&] {
    const int error = errno;
    file_ = Descriptor();  // and its lock
    errno = error;
    fail_on_file("write", path_);
  };
  struct stat status {};
  if (::fstat(file_.get(), &status) != 0) failed();
  char last = '\n';
  if (status.st_size > 0 && ::pread(file_.get(), &last, 1, status.st_size - 1) != 1) failed();
  // A writer that was killed left half a line: end it, or it would swallow these too.
  std::string mended;
  if (last != '\n') lines = mended.append(1, '\n').append(lines);
  const bool durable = durability == Durability::power_cut;
  if (!write_all(file_.get(), lines) || (durable && ::fsync(file_.get()) != 0)) {
    const int error = errno;
    // Disk full: take back the half that was written; a reader would skip it in any case.
    [[maybe_unused]] const int ignored = ::ftruncate(file_.get(), status.st_size);
    errno = error;
    failed();
  }
  if (durable && status.st_size == 0) sync_folder(path_.parent_path());
  unlock(file_);
}

void JsonLines::compact(const Take& take, const std::function<std::string()>& remaining) {
  const Descriptor file = open_regular(path_, O_RDWR);
  if (!file) return;
  lock(file, /*exclusive=*/true);
  if (!is_current(file, path_)) return;  // another process has just done it
  read_lines(file.get(), take);
  const std::string text = remaining();
  // Only the lock's holder writes here, so what lies here was left by one that was killed.
  const fs::path aside = path_.string() + ".new";
  const Descriptor out(
      ::open(aside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!out) return;
  if (!write_all(out.get(), text) || ::fsync(out.get()) != 0 ||
      ::rename(aside.c_str(), path_.c_str()) != 0)
    ::unlink(aside.c_str());
}

}  // namespace quern::cache
