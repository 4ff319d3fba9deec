#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "cache/files.h"
#include "cache/parse_json.h"
#include "cache/record_store.h"
#include "runtime/base/error.h"
#include "runtime/base/hash.h"

namespace quern {
namespace {

constexpr int kVersion = 1;
constexpr std::size_t kMaxText = 256;  // characters in one string
constexpr double kMaxUs = 1e12;

constexpr std::array<std::string_view, 12> kKeys{
    "family",    "problem",     "config",     "template_hash", "fingerprint", "median_us",
    "spread_us", "num_samples", "default_us", "error",         "measured_at", "imported"};

[[noreturn]] void wrong(std::string_view key, std::string_view wanted) {
  throw InputError(fmt::format("'{}' of a tuning record should be {}", key, wanted));
}

bool is_identifier(std::string_view text) {
  return !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

/// Text that stays harmless in a log line, a table and a C++ comment.
bool is_plain(std::string_view text) {
  return text.size() <= kMaxText && std::all_of(text.begin(), text.end(), [](char c) {
           return c >= ' ' && c <= '~' && c != '"' && c != '\\' && c != '#';
         });
}

std::string text(const ordered_json& value, std::string_view key) {
  if (!value.is_string()) wrong(key, "a string");
  const auto& out = value.get_ref<const std::string&>();
  if (!is_plain(out)) wrong(key, "short printable text");
  return out;
}

ordered_json flat_object(const ordered_json& value, std::string_view key) {
  if (!value.is_object()) wrong(key, "an object with every key once");
  for (const auto& [name, member] : value.items()) {
    if (!is_identifier(name)) wrong(key, "an object whose keys are identifiers");
    if (member.is_string())
      text(member, key);
    else if (!member.is_boolean() && !member.is_number())
      wrong(key, "an object of numbers, booleans and strings");
    else if (member.is_number_float() && !std::isfinite(member.get<double>()))
      wrong(key, "an object of finite numbers");
  }
  return value;
}

double real(const ordered_json& value, std::string_view key, double max) {
  const double out = value.is_number() ? value.get<double>() : -1.0;
  if (!(out >= 0 && out <= max)) wrong(key, fmt::format("a number from 0 to {:g}", max));
  return out;
}

/// "2026-01-31T12:00:00Z"
bool is_timestamp(std::string_view text) {
  constexpr std::string_view kForm = "0000-00-00T00:00:00Z";
  return text.size() == kForm.size() &&
         std::equal(text.begin(), text.end(), kForm.begin(), [](char c, char form) {
           return form == '0' ? c >= '0' && c <= '9' : c == form;
         });
}

}  // namespace

ordered_json to_json(const TuningRecord& r) {
  return {{"family", r.family},           {"problem", r.problem},
          {"config", r.config},           {"template_hash", r.template_hash},
          {"fingerprint", r.fingerprint}, {"median_us", r.median_us},
          {"spread_us", r.spread_us},     {"num_samples", r.num_samples},
          {"default_us", r.default_us},   {"error", r.error},
          {"measured_at", r.measured_at}, {"imported", r.imported}};
}

TuningRecord tuning_record_from_json(const ordered_json& value) {
  if (!value.is_object())
    throw InputError("a tuning record should be a JSON object with every key once");
  for (const auto& [key, member] : value.items())
    if (std::find(kKeys.begin(), kKeys.end(), key) == kKeys.end())
      throw InputError(is_identifier(key)
                           ? fmt::format("'{}' is not a field of a tuning record", key)
                           : "a tuning record has a field whose name is not an identifier");
  for (const std::string_view key : kKeys)
    if (!value.contains(key))
      throw InputError(fmt::format("a tuning record lacks the field '{}'", key));
  const auto at = [&](std::string_view key) -> const ordered_json& { return *value.find(key); };

  TuningRecord r;
  r.family = text(at("family"), "family");
  if (!is_identifier(r.family)) wrong("family", "an identifier");
  r.problem = flat_object(at("problem"), "problem");
  r.config = flat_object(at("config"), "config");
  r.template_hash = text(at("template_hash"), "template_hash");
  if (!cache::is_hash(r.template_hash)) wrong("template_hash", "32 lowercase hex digits");
  r.fingerprint = flat_object(at("fingerprint"), "fingerprint");
  r.median_us = real(at("median_us"), "median_us", kMaxUs);
  r.spread_us = real(at("spread_us"), "spread_us", kMaxUs);
  if (!at("num_samples").is_number_integer()) wrong("num_samples", "an integer");
  r.num_samples = static_cast<int>(real(at("num_samples"), "num_samples", 1e9));
  r.default_us = real(at("default_us"), "default_us", kMaxUs);
  r.error = real(at("error"), "error", 1);
  r.measured_at = text(at("measured_at"), "measured_at");
  if (!is_timestamp(r.measured_at)) wrong("measured_at", "a time like 2026-01-31T12:00:00Z");
  if (!at("imported").is_boolean()) wrong("imported", "true or false");
  r.imported = at("imported").get<bool>();
  return r;
}

std::string fingerprint_hash(const ordered_json& fingerprint) {
  return content_hash(json(fingerprint).dump());
}

ordered_json export_document(const std::vector<TuningRecord>& records) {
  ordered_json list = ordered_json::array();
  for (const TuningRecord& record : records) list.push_back(to_json(record));
  return {{"quern_tuning", kVersion}, {"records", std::move(list)}};
}

ImportResult parse_import(const std::string& text) {
  const auto document = cache::parse_json(text);
  if (!document) throw InputError("the file of tuning records is not JSON");
  if (!document->is_object() || !document->contains("quern_tuning"))
    throw InputError("the file holds no tuning records: 'quern_tuning' is missing");
  if ((*document)["quern_tuning"] != kVersion)
    throw InputError(fmt::format("the tuning records are of a version other than {}", kVersion));
  if (!document->contains("records") || !(*document)["records"].is_array())
    throw InputError("the file of tuning records has no list 'records'");
  ImportResult result;
  std::size_t number = 0;
  for (const ordered_json& entry : (*document)["records"]) {
    ++number;
    try {
      result.accepted.push_back(tuning_record_from_json(entry));
      result.accepted.back().imported = true;
    } catch (const InputError& error) {
      result.refused.push_back(fmt::format("record {} is refused: {}", number, error.what()));
    }
  }
  return result;
}

}  // namespace quern
