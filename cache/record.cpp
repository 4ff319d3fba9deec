#include <fmt/format.h>

#include <array>
#include <string_view>

#include "cache/fields.h"
#include "cache/record_store.h"
#include "runtime/base/error.h"
#include "runtime/base/hash.h"

namespace quern {
using namespace cache;
namespace {

constexpr int kMaxSamples = 1'000'000'000;
constexpr double kMaxMillijoule = 1e12;
constexpr std::size_t kMaxFingerprintBytes = 2 << 10;
constexpr std::size_t kMaxBytes = 16 << 10;  // as JSON; usual ones have some hundreds

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
  if (r.fingerprint.dump().size() > kMaxFingerprintBytes)
    fields.wrong("fingerprint", fmt::format("at most {} bytes long", kMaxFingerprintBytes));
  r.median_us = fields.real("median_us", kMaxUs);
  r.spread_us = fields.real("spread_us", kMaxUs);
  r.num_samples = fields.integer("num_samples", kMaxSamples);
  r.default_us = fields.real("default_us", kMaxUs);
  r.error = fields.real("error", 1);
  r.measured_at = fields.timestamp("measured_at");
  r.imported = fields.boolean("imported");
  if (fields.has("nvrtc")) r.nvrtc = fields.version("nvrtc");
  if (fields.has("energy_mj")) r.energy_mj = fields.real("energy_mj", kMaxMillijoule);
  if (value.dump().size() > kMaxBytes)
    throw InputError(fmt::format("a tuning record should have at most {} bytes", kMaxBytes));
  return r;
}

std::string fingerprint_hash(const ordered_json& fingerprint) {
  return content_hash(json(fingerprint).dump());
}

}  // namespace quern
