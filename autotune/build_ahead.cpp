#include "autotune/build_ahead.h"

#include <fmt/format.h>

#include <set>

#include "autotune/fingerprint.h"
#include "runtime/base/error.h"

namespace quern {
namespace {

std::vector<Params> recorded_configs(const std::vector<TuningRecord>& records, const Family& family,
                                     const Params& problem, const Arch& arch) {
  std::vector<Params> configs;
  for (const TuningRecord& record : records) {
    if (record.family != family.name() || to_key(record.problem) != to_key(problem)) continue;
    try {
      if (arch_of_fingerprint(record.fingerprint).name() == arch.name() &&
          !refusal(family, problem, record.config, arch))
        configs.push_back(record.config);
    } catch (const InputError&) {
      continue;  // of a GPU that this version does not know
    }
  }
  return configs;
}

}  // namespace

BuildReport build_ahead(const FamilyRegistry& families, const Nvrtc& nvrtc, ImageStore& images,
                        std::span<const KernelRequest> requests, const Arch& arch,
                        bool all_candidates, int compile_threads,
                        const std::function<void(std::size_t done, std::size_t total)>& progress) {
  CompileFarm farm(nvrtc, &images, families.templates(), compile_threads);
  const auto records = all_records(images.root());
  BuildReport report;
  std::set<std::string> submitted;
  for (const KernelRequest& request : requests) {
    const Family& family = families.at(request.family);
    const Params problem = bucketed(family, request.problem);
    if (const auto reason = family.unsupported(problem, arch)) {
      report.failed.push_back(fmt::format("{} {}: {}", request.family, to_text(problem), *reason));
      ++report.unsupported;
      continue;
    }
    std::vector<Params> configs = recorded_configs(records, family, problem, arch);
    for (Params& config : family.candidates(problem, arch)) {
      if (family.is_library(config)) continue;
      configs.push_back(std::move(config));
      if (!all_candidates) break;
    }
    for (const Params& config : configs) {
      if (family.is_library(config)) continue;
      CompileRequest compile = compile_request(family, problem, config, arch);
      if (submitted.insert(image_key(compile, families.templates(), nvrtc.version())).second)
        farm.submit(std::move(compile));
    }
  }
  std::size_t done = 0;
  while (auto outcome = farm.next()) {
    if (progress) progress(++done, submitted.size());
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
