#include "autotune/kernel_catalog.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "cache/grade.h"
#include "cache/system_cache.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"

namespace quern {

std::string KernelCatalog::key_of(std::string_view family, const Params& problem) {
  return fmt::format("{} {}", family, to_key(problem));
}

KernelCatalog::KernelCatalog(const Arch& arch, const ordered_json& fingerprint,
                             FamilyRegistry families, KernelLibraryOptions options)
    : arch_(arch),
      families_(std::move(families)),
      options_(std::move(options)),
      nvrtc_(options_.library_dirs),
      images_(options_.cache_root, options_.system_cache_root),
      records_(options_.cache_root, fingerprint, options_.system_cache_root),
      blocked_(options_.cache_root, fingerprint) {
  if (const auto problem = system_cache_problem(options_.system_cache_root))
    log(LogLevel::warning, *problem);
  const std::string own = fingerprint_hash(records_.fingerprint());
  for (TuningRecord& record : all_records(options_.cache_root, nullptr, options_.system_cache_root))
    // Of another architecture only what somebody asked for by importing it all the same.
    if (fingerprint_hash(record.fingerprint) != own &&
        (record.imported || grade(records_.fingerprint(), record.fingerprint) != DeviceMatch::other)) {
      std::string key = key_of(record.family, record.problem);
      foreign_.emplace(std::move(key), std::move(record));
    }
  if (records_.num_damaged() > 0)
    log(LogLevel::warning,
        fmt::format("{} damaged tuning records are ignored", records_.num_damaged()));
}

std::optional<std::string> KernelCatalog::refusal(const Family& family, const Params& problem,
                                                  const Params& config) {
  return quern::refusal(family, problem, config, arch_);
}

std::string KernelCatalog::template_hash_of(const Family& family, const Params& problem,
                                            const Params& config) const {
  return template_hash(family, problem, config, arch_, families_.templates());
}

std::optional<std::string> KernelCatalog::blocked(const Family& family, const Params& problem,
                                                  const Params& config) const {
  if (blocked_.empty()) return std::nullopt;  // spares the hash
  const BlockedCandidate* found =
      blocked_.find(std::string(family.name()), bucketed(family, problem), config,
                    template_hash_of(family, problem, config));
  if (!found) return std::nullopt;
  return fmt::format("it failed here before: {}", found->reason);
}

void KernelCatalog::block(const BlockedCandidate& candidate) { blocked_.append(candidate); }

void KernelCatalog::record(const TuningRecord& record) { records_.append(record); }

Params KernelCatalog::default_config(const Family& family, const Params& problem) {
  if (auto reason = family.unsupported(problem, arch_))
    throw InputError(
        fmt::format("{} {} is not supported: {}", family.name(), to_text(problem), *reason));
  return family.default_config(problem, arch_);
}

std::optional<TuningRecord> KernelCatalog::valid_record(const Family& family,
                                                        const Params& problem) {
  auto record = records_.find(std::string(family.name()), bucketed(family, problem));
  if (!record || record->imported) return std::nullopt;
  if (refusal(family, record->problem, record->config)) return std::nullopt;
  if (record->template_hash != template_hash_of(family, record->problem, record->config))
    return std::nullopt;
  return record;
}

std::vector<Params> KernelCatalog::seeds(const Family& family, const Params& problem) {
  const std::string key = key_of(family.name(), bucketed(family, problem));
  std::vector<const TuningRecord*> found;
  const auto own = records_.find(std::string(family.name()), bucketed(family, problem));
  if (own) found.push_back(&*own);
  const std::size_t num_own = found.size();
  const auto [first, last] = foreign_.equal_range(key);
  for (auto entry = first; entry != last; ++entry) found.push_back(&entry->second);
  std::stable_partition(found.begin() + static_cast<long>(num_own), found.end(),
                        [&](const TuningRecord* record) {
                          return grade(fingerprint(), record->fingerprint) ==
                                 DeviceMatch::same_device;
                        });
  std::vector<Params> configs;
  for (const TuningRecord* record : found)
    if (!quern::refusal(family, bucketed(family, problem), record->config, arch_))
      configs.push_back(record->config);
  return configs;
}

void KernelCatalog::count(const CompiledKernel& compiled) {
  ++(compiled.from_cache ? counts_.image_hits : counts_.compiled);
}

CompileFarm KernelCatalog::make_farm() const {
  return CompileFarm(nvrtc_, &images_, families_.templates(),
                     {.num_workers = options_.compile_threads,
                      .worker_command = compile_worker_command(options_.worker_command)});
}

}  // namespace quern
