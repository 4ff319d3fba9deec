#include "autotune/import.h"

#include <algorithm>

#include "autotune/fingerprint.h"
#include "cache/exchange.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "tests/support/scale_family.h"
#include "tests/support/support.h"

using namespace quern;
using test::ScaleFamily;

namespace {

const ordered_json kHopper = {{"name", "NVIDIA H200"},
                              {"compute_capability", "9.0"},
                              {"num_sms", 132},
                              {"l2_bytes", 62914560},
                              {"driver", "580.95.05"}};

TuningRecord sample(int n = 1024, int threads = 128) {
  TuningRecord r;
  r.family = "scale";
  r.problem = {{"n", n}, {"scale", 3}};
  r.config = {{"threads", threads}, {"fault", 0}};
  r.template_hash = std::string(32, 'a');
  r.fingerprint = kHopper;
  r.median_us = 5;
  r.measured_at = "2026-01-31T12:00:00Z";
  return r;
}

FamilyRegistry families() {
  FamilyRegistry out(ScaleFamily::templates());
  out.add(std::make_unique<ScaleFamily>());
  return out;
}

std::string document(const std::vector<TuningRecord>& records) { return export_text(records); }

}  // namespace

TEST_CASE("a fingerprint names its architecture") {
  const Arch arch = arch_of_fingerprint(kHopper);
  CHECK_EQ(arch.name(), "sm_90a");
  CHECK_EQ(arch.num_sms, 132);
  CHECK_EQ(arch.l2_bytes, 62914560);
  for (const char* text : {"", "9", "9.", ".0", "9.0a", "-9.0", "7.5", "99999999999.0", "9.0.0"})
    CHECK_THROWS_AS(arch_of_fingerprint({{"compute_capability", text}}), InputError);
  CHECK_THROWS_AS(arch_of_fingerprint(ordered_json::object()), InputError);
  CHECK_THROWS_AS(arch_of_fingerprint({{"compute_capability", 90}}), InputError);
  CHECK_GT(arch_of_fingerprint({{"compute_capability", "8.0"}, {"num_sms", -1}}).num_sms, 0);
}

TEST_CASE("an import is checked against the families and marked") {
  const test::TemporaryFolder folder;
  TuningRecord stranger = sample();
  stranger.family = "absent";
  TuningRecord bad_problem = sample();
  bad_problem.problem = {{"n", "many"}};
  TuningRecord old_gpu = sample();
  old_gpu.fingerprint["compute_capability"] = "5.2";
  const ImportReport report = import_records(
      document({sample(), sample(2048, 100), sample(4096, 1024), stranger, bad_problem, old_gpu}),
      families(), folder.path());
  CHECK_EQ(report.accepted, 1);
  CHECK_EQ(report.refused.size(), 5);
  for (const char* sentence : {"the record of scale n=2048 scale=3 is refused: threads=100 lies "
                               "outside the space of scale",
                               "the record of scale n=4096 scale=3 is refused: threads exceed 512"})
    CHECK(std::find(report.refused.begin(), report.refused.end(), sentence) !=
          report.refused.end());
  const auto records = all_records(folder.path());
  REQUIRE_EQ(records.size(), 1);
  CHECK(records[0].imported);
}

TEST_CASE("an import does not displace a measurement made here, unless that is out of date") {
  const test::TemporaryFolder folder;
  RecordStore(folder.path(), kHopper).append(sample(1024, 64));
  ImportReport report = import_records(document({sample(1024, 128)}), families(), folder.path());
  CHECK_EQ(report.accepted, 0);
  CHECK_EQ(report.kept, 1);
  CHECK_EQ(all_records(folder.path())[0].config["threads"], 64);
  TuningRecord newer = sample(1024, 128);
  newer.template_hash = std::string(32, 'b');
  report = import_records(document({newer}), families(), folder.path());
  CHECK_EQ(report.accepted, 1);
  CHECK_EQ(all_records(folder.path())[0].config["threads"], 128);
}

TEST_CASE("records of several GPUs import into a file each") {
  const test::TemporaryFolder folder;
  TuningRecord other = sample();
  other.fingerprint["name"] = "NVIDIA H100";
  CHECK_EQ(import_records(document({sample(), other}), families(), folder.path()).accepted, 2);
  CHECK_EQ(all_records(folder.path()).size(), 2);
  CHECK_EQ(RecordStore(folder.path(), kHopper).all().size(), 1);
}

TEST_CASE("text that is no export changes nothing") {
  const test::TemporaryFolder folder;
  CHECK_THROWS_AS(import_records("[]", families(), folder.path()), InputError);
  CHECK(std::filesystem::is_empty(folder.path()));
}

TEST_CASE("records are graded by the GPU that is here") {
  TuningRecord driver = sample(1), chip = sample(2), arch = sample(4);
  driver.fingerprint["driver"] = "590.1";
  chip.fingerprint["name"] = "NVIDIA H100";
  arch.fingerprint["compute_capability"] = "8.0";
  const std::string text = document({driver, chip, arch});
  ImportOptions options{.fingerprint = kHopper};
  {
    const test::TemporaryFolder folder;
    const ImportReport report = import_records(text, families(), folder.path(), options);
    CHECK_EQ(report.accepted, 2);
    CHECK_EQ(report.same_device, 1);
    CHECK_EQ(report.same_architecture, 1);
    REQUIRE_EQ(report.refused.size(), 1);
    CHECK_EQ(report.refused[0],
             "the record of scale n=4 scale=3 is refused: it is of a GPU of another architecture "
             "than that of this machine");
  }
  {
    const test::TemporaryFolder folder;
    options.any_device = true;
    const ImportReport report = import_records(text, families(), folder.path(), options);
    CHECK_EQ(report.accepted, 3);
    CHECK_EQ(report.other, 1);
    CHECK(report.refused.empty());
  }
  const test::TemporaryFolder folder;
  CHECK_EQ(import_records(text, families(), folder.path()).accepted, 3);
}

TEST_CASE("of two imports of one problem the better one stays, whichever came first") {
  TuningRecord older = sample(), newer = sample(1024, 64);
  older.nvrtc = "12.9.86";
  newer.nvrtc = "13.0.88";
  newer.median_us = 50;
  for (const auto& [first, second] : {std::pair(older, newer), std::pair(newer, older)}) {
    const test::TemporaryFolder folder;
    import_records(document({first}), families(), folder.path());
    const ImportReport report = import_records(document({second}), families(), folder.path());
    CHECK_EQ(report.accepted + report.kept, 1);
    CHECK_EQ(all_records(folder.path())[0].nvrtc, "13.0.88");
  }
  const MergeReport merged =
      merge_documents(document({older, sample(2048, 100)}), document({newer}), families());
  CHECK_EQ(merged.records, 1);
  CHECK_EQ(merged.conflicts, 1);
  CHECK_EQ(merged.refused.size(), 1);
  CHECK_EQ(merged.text, document({newer}));
}

TEST_CASE("a dropped record that is imported again counts, once it has passed the gate") {
  const test::TemporaryFolder folder;
  RecordStore store(folder.path(), kHopper);
  store.append(sample());
  store.drop(std::vector{sample()});
  CHECK_EQ(import_records(document({sample()}), families(), folder.path()).accepted, 1);
  CHECK(RecordStore(folder.path(), kHopper).find("scale", sample().problem)->imported);
}
