#pragma once
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

/// The few POSIX calls that a cache shared by many processes needs. Private to cache/.
namespace quern::cache {

/// File descriptor that closes itself; -1 is empty.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor();
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

/// Throws InputError "cannot WHAT PATH: reason of errno".
[[noreturn]] void fail(std::string_view what, const std::filesystem::path& path);

/// Waits for an advisory lock on the open file, released when the descriptor closes. A file system
/// without locks is not an error: every reader here tolerates torn writes anyway.
void lock(const Descriptor& file, bool exclusive);

/// Opens (creating it, mode 0600) and exclusively locks `path`; an empty descriptor if it cannot be
/// created, which a caller with a read-only cache may ignore.
Descriptor lock_file(const std::filesystem::path& path);

/// A regular file of at most `max_bytes`; anything else (absent, a link, a pipe, too large) is
/// nothing, so that a hostile cache folder can neither hang the reader nor exhaust its memory.
std::optional<std::string> read_regular_file(const std::filesystem::path& path,
                                             std::size_t max_bytes);

/// Writes all bytes; false with errno set on failure.
bool write_all(int fd, std::string_view bytes);

/// Makes renames and new names in `folder` durable; best effort, some file systems refuse.
void sync_folder(const std::filesystem::path& folder);

/// Creates `folder` and missing parents with mode 0700. Throws InputError if it cannot.
void make_private_folder(const std::filesystem::path& folder);

/// Throws InputError with one sentence if `root` exists and is not a folder that this user may
/// write, or if it, its images or its tuning records belong to a user other than this one and root,
/// or may be written by their group or by everybody: a cache holds code that will be run.
void check_root(const std::filesystem::path& root);

/// 32 lowercase hex digits: the only text that ever becomes part of a path here.
bool is_hash(std::string_view text);

}  // namespace quern::cache
