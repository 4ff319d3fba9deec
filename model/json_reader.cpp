#include "model/json_reader.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "runtime/base/error.h"
#include "runtime/base/file.h"

namespace quern {

json parse_json(std::string_view text, const std::string& where) {
  try {
    return json::parse(text);
  } catch (const json::parse_error& error) {
    throw InputError(fmt::format("{} is not valid JSON (at byte {})", where, error.byte));
  } catch (const json::exception&) {
    throw InputError(fmt::format("{} holds a number that is too large", where));
  }
}

json read_json_file(const std::filesystem::path& path) {
  return parse_json(read_file(path), path.string());
}

JsonReader::JsonReader(const json& object, std::string where)
    : object_(&object), where_(std::move(where)) {
  if (!object.is_object()) throw InputError(fmt::format("{} is not a JSON object", where_));
}

const json* JsonReader::find(const char* key) const {
  const auto found = object_->find(key);
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

const json& JsonReader::at(const char* key) const {
  if (const json* value = find(key)) return *value;
  throw InputError(fmt::format("{} lacks \"{}\"", where_, key));
}

std::int64_t JsonReader::integer(const char* key, std::int64_t low, std::int64_t high) const {
  const json& value = at(key);
  if (!value.is_number_integer())
    throw InputError(fmt::format("\"{}\" in {} must be a whole number", key, where_));
  const bool too_large =
      value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(high);
  const std::int64_t number = too_large ? high : value.get<std::int64_t>();
  if (too_large || number < low || number > high)
    throw InputError(fmt::format("\"{}\" in {} is {}, which is not between {} and {}", key, where_,
                                 value.dump(), low, high));
  return number;
}

std::int64_t JsonReader::integer_or(const char* key, std::int64_t fallback, std::int64_t low,
                                    std::int64_t high) const {
  return has(key) ? integer(key, low, high) : fallback;
}

double JsonReader::number(const char* key, double low, double high) const {
  const json& value = at(key);
  if (!value.is_number())
    throw InputError(fmt::format("\"{}\" in {} must be a number", key, where_));
  const double number = value.get<double>();
  if (!(number >= low && number <= high))
    throw InputError(fmt::format("\"{}\" in {} is {}, which is not between {} and {}", key, where_,
                                 value.dump(), low, high));
  return number;
}

double JsonReader::number_or(const char* key, double fallback, double low, double high) const {
  return has(key) ? number(key, low, high) : fallback;
}

bool JsonReader::boolean_or(const char* key, bool fallback) const {
  const json* value = find(key);
  if (!value) return fallback;
  if (!value->is_boolean())
    throw InputError(fmt::format("\"{}\" in {} must be true or false", key, where_));
  return value->get<bool>();
}

std::string JsonReader::text(const char* key) const {
  const json& value = at(key);
  if (!value.is_string())
    throw InputError(fmt::format("\"{}\" in {} must be a string", key, where_));
  return value.get<std::string>();
}

std::optional<std::string> JsonReader::optional_text(const char* key) const {
  if (!has(key)) return std::nullopt;
  return text(key);
}

JsonReader JsonReader::object(const char* key) const {
  return {at(key), fmt::format("\"{}\" in {}", key, where_)};
}

const json& JsonReader::array(const char* key) const {
  const json& value = at(key);
  if (!value.is_array()) throw InputError(fmt::format("\"{}\" in {} must be a list", key, where_));
  return value;
}

}  // namespace quern
