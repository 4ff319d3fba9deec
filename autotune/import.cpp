#include "autotune/import.h"

#include <fmt/format.h>

#include <map>
#include <utility>

#include "autotune/fingerprint.h"
#include "autotune/problem.h"
#include "cache/exchange.h"
#include "cache/image_store.h"
#include "cache/merge.h"
#include "runtime/base/error.h"

namespace quern {
namespace {

std::string refused(const TuningRecord& record, std::string_view why) {
  return fmt::format("the record of {} {} is refused: {}", record.family, to_text(record.problem),
                     why);
}

/// True if what the cache has is no worse than what is offered.
bool keeps(const TuningRecord& own, const TuningRecord& offered) {
  if (own.template_hash != offered.template_hash) return false;  // own is out of date, or will be
  return !own.imported || !is_better(offered, own);
}

/// Those of a parsed document that are believed; sentences about the others go to `sentences`.
std::vector<TuningRecord> believed(ImportResult parsed, const FamilyRegistry& families,
                                   std::vector<std::string>& sentences) {
  std::vector<TuningRecord> records;
  for (std::string& sentence : parsed.refused) sentences.push_back(std::move(sentence));
  for (TuningRecord& record : parsed.accepted) {
    if (const auto reason = distrust(record, families))
      sentences.push_back(refused(record, *reason));
    else
      records.push_back(std::move(record));
  }
  return records;
}

}  // namespace

std::optional<std::string> distrust(const TuningRecord& record, const FamilyRegistry& families) {
  try {
    const Family& family = families.at(record.family);
    const Arch arch = arch_of_fingerprint(record.fingerprint);
    if (auto reason = outside_space(family, record.problem, record.config)) return reason;
    return refusal(family, record.problem, record.config, arch);
  } catch (const InputError& error) {
    return error.what();
  }
}

ImportReport import_records(const std::string& text, const FamilyRegistry& families,
                            const std::filesystem::path& root, const ImportOptions& options) {
  ImportResult parsed =
      parse_import(text, options.trust_images ? ImageImport::take : ImageImport::ignore);
  ImportReport report;
  if (!parsed.images.empty()) {
    ImageStore images(root);
    for (const NamedImage& image : parsed.images) images.put(image.key, image.image);
    report.images = parsed.images.size();
    parsed.images.clear();
  }
  if (!options.trust_images) report.images_ignored = parsed.num_images;

  std::map<std::string, std::vector<TuningRecord>> by_device;
  for (TuningRecord& record :
       merge_records(believed(std::move(parsed), families, report.refused))) {
    if (options.fingerprint && !options.any_device &&
        grade(*options.fingerprint, record.fingerprint) == DeviceMatch::other)
      report.refused.push_back(
          refused(record, "it is of a GPU of another architecture than that of this machine"));
    else
      by_device[fingerprint_hash(record.fingerprint)].push_back(std::move(record));
  }
  for (auto& [hash, records] : by_device) {
    RecordStore store(root, records.front().fingerprint);
    report.kept += std::erase_if(records, [&](const TuningRecord& record) {
      const auto own = store.find(record.family, record.problem);
      return own && keeps(*own, record);
    });
    store.append(records);
    report.accepted += records.size();
    if (!options.fingerprint) continue;
    const DeviceMatch match = grade(*options.fingerprint, records.front().fingerprint);
    (match == DeviceMatch::same_device         ? report.same_device
     : match == DeviceMatch::same_architecture ? report.same_architecture
                                               : report.other) += records.size();
  }
  return report;
}

MergeReport merge_documents(const std::string& a, const std::string& b,
                            const FamilyRegistry& families) {
  MergeReport report;
  std::vector<TuningRecord> records = believed(parse_import(a), families, report.refused);
  std::vector<TuningRecord> others = believed(parse_import(b), families, report.refused);
  records.insert(records.end(), std::make_move_iterator(others.begin()),
                 std::make_move_iterator(others.end()));
  const std::size_t offered = records.size();
  const std::vector<TuningRecord> merged = merge_records(std::move(records));
  report.records = merged.size();
  report.conflicts = offered - merged.size();
  report.text = export_text(merged);
  return report;
}

}  // namespace quern
