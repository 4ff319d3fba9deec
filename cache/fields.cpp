#include "cache/fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cache/files.h"
#include "runtime/base/error.h"

namespace quern::cache {
namespace {

constexpr std::size_t kMaxText = 256;  // characters in one string

bool is_plain(char c) { return c >= ' ' && c <= '~' && c != '"' && c != '\\' && c != '#'; }

}  // namespace

bool is_identifier(std::string_view text) {
  return !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

bool is_plain(std::string_view text) {
  return text.size() <= kMaxText &&
         std::all_of(text.begin(), text.end(), [](char c) { return is_plain(c); });
}

std::string plain(std::string_view text) {
  constexpr std::string_view kCut = "...";
  std::string out(text.substr(0, kMaxText));
  if (text.size() > kMaxText) out.replace(kMaxText - kCut.size(), kCut.size(), kCut);
  for (char& c : out) {
    if (c == '"')
      c = '\'';
    else if (c == '\n' || c == '\t' || c == '\r')
      c = ' ';
    else if (!is_plain(c))
      c = '?';
  }
  return out;
}

Fields::Fields(const ordered_json& value, std::string_view what,
               std::span<const std::string_view> required,
               std::span<const std::string_view> optional)
    : value_(value), what_(what) {
  if (!value.is_object())
    throw InputError(fmt::format("a {} should be a JSON object with every key once", what));
  const auto lists = [](std::span<const std::string_view> keys, const std::string& key) {
    return std::find(keys.begin(), keys.end(), key) != keys.end();
  };
  for (const auto& [key, member] : value.items())
    if (!lists(required, key) && !lists(optional, key))
      throw InputError(is_identifier(key)
                           ? fmt::format("'{}' is not a field of a {}", key, what)
                           : fmt::format("a {} has a field whose name is not an identifier", what));
  for (const std::string_view key : required)
    if (!has(key)) throw InputError(fmt::format("a {} lacks the field '{}'", what, key));
}

void Fields::wrong(std::string_view key, std::string_view wanted) const {
  throw InputError(fmt::format("'{}' of a {} should be {}", key, what_, wanted));
}

std::string Fields::text(std::string_view key) const {
  if (!at(key).is_string()) wrong(key, "a string");
  const auto& out = at(key).get_ref<const std::string&>();
  if (!is_plain(out)) wrong(key, "short printable text");
  return out;
}

std::string Fields::identifier(std::string_view key) const {
  std::string out = text(key);
  if (!is_identifier(out)) wrong(key, "an identifier");
  return out;
}

std::string Fields::hash(std::string_view key) const {
  std::string out = text(key);
  if (!is_hash(out)) wrong(key, "32 lowercase hex digits");
  return out;
}

std::string Fields::timestamp(std::string_view key) const {
  constexpr std::string_view kForm = "0000-00-00T00:00:00Z";
  std::string out = text(key);
  if (out.size() != kForm.size() ||
      !std::equal(out.begin(), out.end(), kForm.begin(),
                  [](char c, char form) { return form == '0' ? c >= '0' && c <= '9' : c == form; }))
    wrong(key, "a time like 2026-01-31T12:00:00Z");
  return out;
}

std::string Fields::version(std::string_view key) const {
  std::string out = text(key);
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  bool good = !out.empty() && out.size() <= 32 && is_digit(out.back());
  char previous = '.';
  for (const char c : out) {
    good &= is_digit(c) || (c == '.' && previous != '.');
    previous = c;
  }
  if (!good) wrong(key, "a version like 13.0.88");
  return out;
}

ordered_json Fields::flat_object(std::string_view key) const {
  const ordered_json& value = at(key);
  if (!value.is_object()) wrong(key, "an object with every key once");
  for (const auto& [name, member] : value.items()) {
    if (!is_identifier(name)) wrong(key, "an object whose keys are identifiers");
    if (member.is_string()) {
      if (!is_plain(member.get_ref<const std::string&>())) wrong(key, "short printable text");
    } else if (!member.is_boolean() && !member.is_number()) {
      wrong(key, "an object of numbers, booleans and strings");
    } else if (member.is_number_float() && !std::isfinite(member.get<double>())) {
      wrong(key, "an object of finite numbers");
    }
  }
  return value;
}

double Fields::real(std::string_view key, double max) const {
  const double out = at(key).is_number() ? at(key).get<double>() : -1.0;
  if (!(out >= 0 && out <= max)) wrong(key, fmt::format("a number from 0 to {:g}", max));
  return out;
}

int Fields::integer(std::string_view key, int max) const {
  if (!at(key).is_number_integer()) wrong(key, "an integer");
  return static_cast<int>(real(key, max));
}

bool Fields::boolean(std::string_view key) const {
  if (!at(key).is_boolean()) wrong(key, "true or false");
  return at(key).get<bool>();
}

}  // namespace quern::cache
