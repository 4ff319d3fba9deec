#include "autotune/import.h"

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

std::string document(const std::vector<TuningRecord>& records) {
  return export_text(records);
}

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
  REQUIRE_EQ(report.refused.size(), 5);
  CHECK_EQ(report.refused[0],
           "the record of scale n=2048 scale=3 is refused: threads=100 lies outside the space of "
           "scale");
  CHECK_EQ(report.refused[1], "the record of scale n=4096 scale=3 is refused: threads exceed 512");
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
