#include "runtime/base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>

#include "runtime/base/descriptor.h"
#include "runtime/base/error.h"

namespace quern {
namespace fs = std::filesystem;
std::optional<std::string> try_read_file(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return std::nullopt;
  std::ifstream in(path, std::ios::binary);
  if (!in) return std::nullopt;
  std::ostringstream out;
  out << in.rdbuf();
  if (in.bad()) return std::nullopt;
  return std::move(out).str();
}

std::string read_file(const fs::path& path) {
  errno = 0;
  if (auto bytes = try_read_file(path)) return *std::move(bytes);
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) errno = EISDIR;
  if (errno == 0) errno = EIO;
  fail_on_file("read", path);
}

void write_file_atomically(const fs::path& path, std::string_view bytes) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    // A device or a pipe must not be replaced by a file of its name.
    const Descriptor file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (!file || !write_all(file.get(), bytes)) fail_on_file("write", path);
    return;
  }
  std::string temporary = path.string() + ".XXXXXX";
  const Descriptor file(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!file) fail_on_file("write", path);
  const auto give_up = [&] {
    const int error = errno;
    ::unlink(temporary.c_str());
    errno = error;
    fail_on_file("write", path);
  };
  if (!write_all(file.get(), bytes)) give_up();
  if (::fsync(file.get()) != 0 || ::rename(temporary.c_str(), path.c_str()) != 0) give_up();
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  sync_folder(folder);
}

MappedFile::MappedFile(const fs::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) fail_on_file("open", path);
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail_on_file("read", path);
  if (!S_ISREG(status.st_mode)) {
    errno = EISDIR;
    fail_on_file("map", path);
  }
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) return;
  void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (mapped == MAP_FAILED) fail_on_file("map", path);
  data_ = static_cast<const std::byte*>(mapped);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace quern
