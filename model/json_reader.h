#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/base/json.h"

namespace quern {

/// Parses `text`; a syntax error becomes an InputError that names `where` and the byte.
json parse_json(std::string_view text, const std::string& where);
/// The same for a whole file.
json read_json_file(const std::filesystem::path& path);

/// Typed reads from a JSON object of a file that somebody else wrote. A missing key, a wrong type
/// or a value out of range throws an InputError whose sentence names the file and the key. A key
/// whose value is null counts as absent, as it does for transformers.
class JsonReader {
 public:
  /// Throws InputError if `object` is not an object. Keeps a reference to it.
  JsonReader(const json& object, std::string where);

  bool has(const char* key) const { return find(key) != nullptr; }
  std::int64_t integer(const char* key, std::int64_t low, std::int64_t high) const;
  std::int64_t integer_or(const char* key, std::int64_t fallback, std::int64_t low,
                          std::int64_t high) const;
  /// Finite and in [low, high].
  double number(const char* key, double low, double high) const;
  double number_or(const char* key, double fallback, double low, double high) const;
  bool boolean_or(const char* key, bool fallback) const;
  std::string text(const char* key) const;
  std::optional<std::string> optional_text(const char* key) const;
  JsonReader object(const char* key) const;
  /// Throws unless the key holds an array.
  const json& array(const char* key) const;
  bool empty() const { return object_->empty(); }
  const std::string& where() const { return where_; }

 private:
  const json* find(const char* key) const;
  const json& at(const char* key) const;

  const json* object_;
  std::string where_;
};

}  // namespace quern
