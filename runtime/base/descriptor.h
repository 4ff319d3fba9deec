#pragma once
#include <filesystem>
#include <string_view>
#include <utility>

namespace quern {

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
[[noreturn]] void fail_on_file(std::string_view what, const std::filesystem::path& path);

/// Writes all bytes; false with errno set on failure.
bool write_all(int fd, std::string_view bytes);

/// Makes renames and new names in `folder` durable; best effort, some file systems refuse.
void sync_folder(const std::filesystem::path& folder);

}  // namespace quern
