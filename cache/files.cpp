#include "cache/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "runtime/base/error.h"

namespace quern::cache {
namespace fs = std::filesystem;
void lock(const Descriptor& file, bool exclusive) {
  while (::flock(file.get(), exclusive ? LOCK_EX : LOCK_SH) != 0 && errno == EINTR) {
  }
}

void unlock(const Descriptor& file) { ::flock(file.get(), LOCK_UN); }

Descriptor lock_file(const fs::path& path) {
  Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (file) lock(file, true);
  return file;
}

std::optional<std::string> read_regular_file(const fs::path& path, std::size_t max_bytes) {
  // O_NONBLOCK: opening a pipe that somebody left here must not wait for its writer.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat status {};
  if (!file || ::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) return std::nullopt;
  if (static_cast<std::uintmax_t>(status.st_size) > max_bytes) return std::nullopt;
  std::string bytes(static_cast<std::size_t>(status.st_size), '\0');
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t count = ::read(file.get(), bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return std::nullopt;
    done += static_cast<std::size_t>(count);
  }
  return bytes;
}

void make_private_folder(const fs::path& folder) {
  if (::mkdir(folder.c_str(), 0700) == 0) return;
  if (errno == ENOENT && folder.has_parent_path() && folder.parent_path() != folder) {
    make_private_folder(folder.parent_path());
    if (::mkdir(folder.c_str(), 0700) == 0) return;
  }
  struct stat status {};
  if (errno == EEXIST && ::stat(folder.c_str(), &status) == 0) {
    if (S_ISDIR(status.st_mode)) return;
    errno = ENOTDIR;
  }
  fail_on_file("create the folder", folder);
}

std::optional<std::string_view> foreign_writer(const fs::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return std::nullopt;
  if (status.st_uid != ::geteuid() && status.st_uid != 0) return "it belongs to another user";
  if (status.st_mode & S_IWOTH) return "every user may write to it (chmod go-w removes that)";
  if (status.st_mode & S_IWGRP) return "its group may write to it (chmod go-w removes that)";
  return std::nullopt;
}

void check_root(const fs::path& root) {
  struct stat status {};
  // stat() follows links: a root that is a link is judged by the folder it leads to.
  if (::stat(root.c_str(), &status) != 0) {
    if (errno == ENOENT) return;
    fail_on_file("use the cache folder", root);
  }
  const auto refuse = [](const fs::path& folder, std::string_view why) {
    throw InputError(fmt::format("cannot use the cache folder {}: {}", folder.string(), why));
  };
  if (!S_ISDIR(status.st_mode)) refuse(root, "it is not a folder");
  if (const auto why = foreign_writer(root)) refuse(root, *why);
  if (::access(root.c_str(), R_OK | W_OK | X_OK) != 0) refuse(root, "it cannot be written to");
  // A private root that others may enter does not protect a folder in it that they may write to.
  for (const char* name : {"images", "tuning"})
    if (const auto why = foreign_writer(root / name)) refuse(root / name, *why);
}

bool is_hash(std::string_view text) {
  return text.size() == 32 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

}  // namespace quern::cache
