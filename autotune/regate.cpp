#include "autotune/regate.h"

#include <fmt/format.h>

#include <optional>

#include "autotune/gate.h"
#include "autotune/problem.h"
#include "runtime/base/error.h"

namespace quern {
namespace {

bool is_current(KernelLibrary& library, const TuningRecord& record) {
  try {
    const Family& family = library.families().at(record.family);
    if (library.refusal(family, record.problem, record.config)) return false;
    return record.template_hash ==
           library.template_hash_of(family, record.problem, record.config);
  } catch (const InputError&) {
    return false;  // of another version of Quern
  }
}

Verdict check(KernelLibrary& library, const TuningRecord& record) {
  try {
    return gate_config(library, library.families().at(record.family), record.problem,
                       record.config);
  } catch (const CompileError& error) {
    return {TrialStatus::compile_failed, error.what(), 0};
  } catch (const OutOfMemoryError& error) {
    return {TrialStatus::skipped, error.what(), 0};
  }
}

}  // namespace

RegateReport regate_records(
    KernelLibrary& library, RecordStore& store,
    const std::function<void(std::size_t done, std::size_t total)>& progress) {
  RegateReport report;
  const std::vector<TuningRecord> records = store.all();
  for (std::size_t i = 0; i < records.size(); ++i) {
    const TuningRecord& record = records[i];
    if (progress) progress(i, records.size());
    if (!is_current(library, record)) {
      ++report.out_of_date;
      continue;
    }
    const Verdict verdict = check(library, record);
    const std::string name = fmt::format("{} {}", record.family, to_text(record.problem));
    if (verdict.status == TrialStatus::ok) {
      ++report.passed;
    } else if (verdict.status == TrialStatus::skipped) {
      report.skipped.push_back(fmt::format("{} is not checked: {}", name, verdict.reason));
    } else {
      store.drop(std::span(&record, 1));
      report.dropped.push_back(
          fmt::format("the record of {} is dropped: {}", name, verdict.reason));
    }
    if (verdict.status == TrialStatus::launch_failed && i + 1 < records.size()) {
      report.skipped.push_back(
          fmt::format("{} records are not checked after that failure: verify once more",
                      records.size() - i - 1));
      break;
    }
  }
  return report;
}

}  // namespace quern
