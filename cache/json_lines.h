#pragma once
#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "runtime/base/descriptor.h"
#include "runtime/base/json.h"

namespace quern::cache {

/// One line: {"checksum":"<32 hex digits>","NAME":VALUE} and a newline. The checksum covers the
/// text of the value, so a flipped digit is noticed although the line is still JSON. `name` is an
/// identifier that says what the value is. Throws InputError if the line would be longer than a
/// reader takes (64 KiB).
std::string encode_line(std::string_view name, const ordered_json& value);

/// An append-only file of such lines which several processes may read, append to and compact at
/// once, each through an object of its own. A line that is torn, damaged or of another sort costs
/// itself alone. Not safe to use from several threads. Private to cache/.
class JsonLines {
 public:
  explicit JsonLines(std::filesystem::path path) : path_(std::move(path)) {}

  /// Told of every intact line, oldest first; false if the line is not one of this file's.
  using Take = std::function<bool(std::string_view name, const ordered_json& value)>;
  /// Returns how many lines were damaged or not taken. A file that is absent, or no regular file,
  /// has no lines.
  std::size_t read(const Take& take) const;

  enum class Durability {
    process_crash,  // survives the writer's death at any moment
    power_cut,      // on disk when append() returns
  };
  /// Appends whole lines (encode_line) in one write under the file's lock, and makes the file and
  /// its folder where they are missing. Throws InputError if it cannot; the file is then unchanged.
  void append(std::string_view lines, Durability durability);

  /// Replaces the file by the lines that `keep` makes of it, told of every intact line as by read()
  /// and giving back what remains when all were told. Appends of other processes wait and then go
  /// to the new file. Best effort: a file that cannot be replaced stays.
  void compact(const Take& take, const std::function<std::string()>& remaining);

  const std::filesystem::path& path() const { return path_; }

 private:
  void open_locked();

  std::filesystem::path path_;
  Descriptor file_;  // open for appending, once something was appended
};

}  // namespace quern::cache
