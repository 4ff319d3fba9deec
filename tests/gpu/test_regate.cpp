#include "autotune/regate.h"

#include <memory>
#include <vector>

#include "autotune/problem.h"
#include "tests/support/gpu.h"
#include "tests/support/scale_family.h"

using namespace quern;
using namespace quern::test;

namespace {

Params problem(int n) { return {{"n", n}, {"scale", 3}}; }

}  // namespace

TEST_CASE("records that no longer pass the gate are dropped, the others stay") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  const GpuFixture gpu;
  const TemporaryFolder folder;
  FamilyRegistry families(ScaleFamily::templates());
  families.add(std::make_unique<ScaleFamily>());
  KernelLibrary library(gpu.context, std::move(families), {folder.path(), {}, 0});
  const Family& family = library.families().at("scale");
  RecordStore store(folder.path(), library.records().fingerprint());
  const auto add = [&](int n, int fault, bool current = true) {
    TuningRecord r;
    r.family = "scale";
    r.problem = problem(n);
    r.config = to_params(ScaleConfig{.threads = 128, .fault = fault});
    r.template_hash = current ? template_hash(family, r.problem, r.config, library.arch(),
                                              library.families().templates())
                              : std::string(32, 'a');
    r.fingerprint = store.fingerprint();
    r.median_us = 1;
    r.measured_at = "2026-01-31T12:00:00Z";
    store.append(r);
  };
  add(1024, ScaleConfig::none);
  add(2048, ScaleConfig::wrong);
  add(4096, ScaleConfig::no_compile);
  add(8192, ScaleConfig::race);
  add(16384, ScaleConfig::none, /*current=*/false);
  std::size_t calls = 0;
  const RegateReport report = regate_records(library, store, [&](std::size_t, std::size_t total) {
    ++calls;
    CHECK_EQ(total, 5);
  });
  CHECK_EQ(calls, 5);
  CHECK_EQ(report.passed, 1);
  CHECK_EQ(report.out_of_date, 1);
  CHECK_EQ(report.dropped.size(), 3);
  CHECK(report.skipped.empty());
  const RecordStore again(folder.path(), store.fingerprint());
  CHECK_EQ(again.all().size(), 2);
  CHECK(again.find("scale", problem(1024)));
  CHECK(again.find("scale", problem(16384)));
}
