#include <fmt/format.h>

#include <array>
#include <string_view>

#include "cache/fields.h"
#include "cache/parse_json.h"
#include "cache/record_store.h"
#include "runtime/base/error.h"
#include "runtime/base/hash.h"

namespace quern {
using namespace cache;
namespace {

constexpr int kVersion = 1;
constexpr int kMaxSamples = 1'000'000'000;
constexpr double kMaxMillijoule = 1e12;

constexpr std::array<std::string_view, 2> kOptionalKeys{"nvrtc", "energy_mj"};
constexpr std::array<std::string_view, 12> kKeys{
    "family",    "problem",     "config",     "template_hash", "fingerprint", "median_us",
    "spread_us", "num_samples", "default_us", "error",         "measured_at", "imported"};

}  // namespace

ordered_json to_json(const TuningRecord& r) {
  ordered_json value = {{"family", r.family},           {"problem", r.problem},
                        {"config", r.config},           {"template_hash", r.template_hash},
                        {"fingerprint", r.fingerprint}, {"median_us", r.median_us},
                        {"spread_us", r.spread_us},     {"num_samples", r.num_samples},
                        {"default_us", r.default_us},   {"error", r.error},
                        {"measured_at", r.measured_at}, {"imported", r.imported}};
  if (!r.nvrtc.empty()) value["nvrtc"] = r.nvrtc;
  if (r.energy_mj) value["energy_mj"] = *r.energy_mj;
  return value;
}

TuningRecord tuning_record_from_json(const ordered_json& value) {
  const Fields fields(value, "tuning record", kKeys, kOptionalKeys);
  TuningRecord r;
  r.family = fields.identifier("family");
  r.problem = fields.flat_object("problem");
  r.config = fields.flat_object("config");
  r.template_hash = fields.hash("template_hash");
  r.fingerprint = fields.flat_object("fingerprint");
  r.median_us = fields.real("median_us", kMaxUs);
  r.spread_us = fields.real("spread_us", kMaxUs);
  r.num_samples = fields.integer("num_samples", kMaxSamples);
  r.default_us = fields.real("default_us", kMaxUs);
  r.error = fields.real("error", 1);
  r.measured_at = fields.timestamp("measured_at");
  r.imported = fields.boolean("imported");
  if (fields.has("nvrtc")) r.nvrtc = fields.version("nvrtc");
  if (fields.has("energy_mj")) r.energy_mj = fields.real("energy_mj", kMaxMillijoule);
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
