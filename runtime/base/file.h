#pragma once
#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace quern {

/// Whole file as bytes. Throws InputError naming the path if it cannot be read.
std::string read_file(const std::filesystem::path& path);
/// The same, but a missing or unreadable file is an ordinary answer.
std::optional<std::string> try_read_file(const std::filesystem::path& path);

/// Replaces `path` so that readers and crashes see the old bytes or the new, never a mixture:
/// temporary sibling, fsync, rename, fsync of the folder. What is there and no regular file (a
/// pipe, /dev/null) is written to as it is. Throws InputError if it cannot.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

/// Read-only memory map of a whole file, for weights that should not be copied.
class MappedFile {
 public:
  /// Throws InputError if the file cannot be opened or mapped. An empty file maps to an empty span.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace quern
