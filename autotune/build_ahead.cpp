#include "autotune/build_ahead.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "autotune/fingerprint.h"
#include "autotune/search.h"
#include "cache/grade.h"
#include "runtime/base/error.h"

namespace quern {
namespace {

/// How near the GPU of a record is to the target.
enum class Kinship { other, same_arch, same_model, same };

Kinship kinship(const TuningRecord& record, const BuildTarget& target) {
  if (target.fingerprint.is_object()) {
    if (fingerprint_hash(record.fingerprint) == fingerprint_hash(target.fingerprint))
      return Kinship::same;
    if (grade(target.fingerprint, record.fingerprint) == DeviceMatch::same_device)
      return Kinship::same_model;
  }
  try {
    if (arch_of_fingerprint(record.fingerprint).name() == target.arch.name())
      return Kinship::same_arch;
  } catch (const InputError&) {
    // A GPU that this version does not know.
  }
  return Kinship::other;
}

/// Of the records' configs for this problem those of the nearest kin, or all; legal on the target.
std::vector<Params> recorded_configs(const std::vector<TuningRecord>& records, const Family& family,
                                     const Params& problem, const BuildTarget& target, bool all) {
  std::vector<Params> configs;
  Kinship nearest = Kinship::same_arch;
  for (const TuningRecord& record : records) {
    if (record.family != family.name() || to_key(record.problem) != to_key(problem) ||
        refusal(family, problem, record.config, target.arch))
      continue;
    const Kinship kin = kinship(record, target);
    if (!all && kin < nearest) continue;
    if (!all && kin > nearest) configs.clear();
    nearest = std::max(nearest, kin);
    configs.push_back(record.config);
  }
  return configs;
}

}  // namespace

BuildReport build_ahead(const FamilyRegistry& families, const Nvrtc& nvrtc, ImageStore& images,
                        std::span<const KernelRequest> requests, const BuildTarget& target,
                        const BuildOptions& options) {
  CompileFarm farm(nvrtc, &images, families.templates(), options.farm);
  const auto records = all_records(images.root());
  BuildReport report;
  std::set<std::string> submitted;
  for (const KernelRequest& request : requests) {
    const Family& family = families.at(request.family);
    const Params problem = bucketed(family, request.problem);
    if (const auto reason = family.unsupported(problem, target.arch)) {
      report.failed.push_back(fmt::format("{} {}: {}", request.family, to_text(problem), *reason));
      ++report.unsupported;
      continue;
    }
    std::vector<Params> configs =
        recorded_configs(records, family, problem, target, options.all_candidates);
    if (options.all_candidates) {
      std::vector<Params> space = family.candidates(problem, target.arch);
      std::vector<std::size_t> eligible(space.size());
      std::iota(eligible.begin(), eligible.end(), std::size_t{0});
      for (const std::size_t i : choose_candidates(std::move(eligible), {}))
        configs.push_back(std::move(space[i]));
    } else {
      configs.push_back(family.default_config(problem, target.arch));
    }
    if (options.all_candidates)
      if (Params reference = family.reference_config(problem); !reference.is_null())
        configs.push_back(std::move(reference));
    for (const Params& config : configs) {
      if (family.is_library(config)) continue;
      CompileRequest compile = compile_request(family, problem, config, target.arch);
      if (submitted.insert(image_key(compile, families.templates(), nvrtc.version())).second)
        farm.submit(std::move(compile));
    }
  }
  std::size_t done = 0;
  while (auto outcome = farm.next()) {
    if (options.progress) options.progress(++done, submitted.size());
    if (!outcome->kernel) {
      report.failed.push_back(outcome->error);
      continue;
    }
    ++report.images;
    if (!outcome->kernel->from_cache) ++report.compiled;
  }
  return report;
}

}  // namespace quern
