#pragma once
#include <span>
#include <string>
#include <string_view>

#include "runtime/base/json.h"

/// Checked reading of JSON objects that anybody may have written. Private to cache/.
namespace quern::cache {

constexpr double kMaxUs = 1e12;  // of any time in microseconds

/// Letters, digits and underscores, at most 64.
bool is_identifier(std::string_view text);
/// At most 256 printable ASCII characters without quotes, backslashes and '#': text that stays
/// harmless in a log line, a table and a C++ comment.
bool is_plain(std::string_view text);
/// Text of any origin and length as plain text: what is not allowed is replaced, the rest cut.
std::string plain(std::string_view text);

/// The fields of one object. Every function throws InputError with one sentence that names the
/// field and `what` ("tuning record") if the value is not as asked for.
class Fields {
 public:
  /// Refuses anything but an object that has all of `required`, any of `optional` and nothing else.
  /// `value` and `what` must outlive this.
  Fields(const ordered_json& value, std::string_view what,
         std::span<const std::string_view> required,
         std::span<const std::string_view> optional = {});

  bool has(std::string_view key) const { return value_.contains(key); }
  std::string text(std::string_view key) const;  // plain
  std::string identifier(std::string_view key) const;
  std::string hash(std::string_view key) const;       // 32 lowercase hex digits
  std::string timestamp(std::string_view key) const;  // "2026-01-31T12:00:00Z"
  std::string version(std::string_view key) const;    // "13.0.88": numbers and dots
  /// An object of numbers, booleans and plain strings under identifiers.
  ordered_json flat_object(std::string_view key) const;
  double real(std::string_view key, double max) const;  // 0 to max
  int integer(std::string_view key, int max) const;     // 0 to max
  bool boolean(std::string_view key) const;
  const ordered_json& at(std::string_view key) const { return *value_.find(key); }

  [[noreturn]] void wrong(std::string_view key, std::string_view wanted) const;

 private:
  const ordered_json& value_;
  std::string_view what_;
};

}  // namespace quern::cache
