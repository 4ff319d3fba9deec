#include "autotune/export_images.h"

#include <set>
#include <utility>

#include "autotune/fingerprint.h"
#include "autotune/problem.h"
#include "runtime/base/error.h"

namespace quern {
namespace {

/// Throws InputError for a record that is none of these families'.
void add_keys(const TuningRecord& record, const FamilyRegistry& families,
              const std::string& nvrtc_version, std::set<std::string>& keys) {
  const Family& family = families.at(record.family);
  const Arch arch = arch_of_fingerprint(record.fingerprint);
  if (refusal(family, record.problem, record.config, arch)) return;
  for (const Params& problem : {record.problem, family.check_problem(record.problem)}) {
    std::vector<Params> configs{record.config};
    if (Params reference = family.reference_config(problem); !reference.is_null())
      configs.push_back(std::move(reference));
    for (Params& config : family.candidates(problem, arch))
      if (!refusal(family, problem, config, arch)) {
        configs.push_back(std::move(config));
        break;
      }
    for (const Params& config : configs)
      if (!family.is_library(config) && !refusal(family, problem, config, arch))
        keys.insert(image_key(compile_request(family, problem, config, arch), families.templates(),
                              nvrtc_version));
  }
}

}  // namespace

std::vector<NamedImage> images_of(const std::vector<TuningRecord>& records,
                                  const FamilyRegistry& families, const std::string& nvrtc_version,
                                  ImageStore& images) {
  std::set<std::string> keys;
  for (const TuningRecord& record : records) {
    try {
      add_keys(record, families, nvrtc_version, keys);
    } catch (const InputError&) {
      continue;  // of another version of Quern
    }
  }
  std::vector<NamedImage> found;
  for (const std::string& key : keys)
    if (auto image = images.find(key)) found.push_back({key, *std::move(image)});
  return found;
}

}  // namespace quern
