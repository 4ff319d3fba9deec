#include "autotune/tuner.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "autotune/gate.h"
#include "autotune/import.h"
#include "cache/exchange.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/graph.h"
#include "tests/support/gpu.h"
#include "tests/support/scale_family.h"

using namespace quern;
using namespace quern::test;

namespace {

const std::vector<ScaleConfig> kConfigs{
    {256, ScaleConfig::none},  {128, ScaleConfig::none},           {512, ScaleConfig::none},
    {1024, ScaleConfig::none},  // rejected
    {256, ScaleConfig::wrong}, {256, ScaleConfig::out_of_bounds},  {256, ScaleConfig::race},
    {256, ScaleConfig::tail},  {256, ScaleConfig::dirty_counters}, {256, ScaleConfig::no_compile}};

KernelLibrary open_library(const Context& context, const std::filesystem::path& root,
                           ScaleFamily::Oracle oracle = ScaleFamily::Oracle::host) {
  FamilyRegistry families(ScaleFamily::templates());
  families.add(std::make_unique<ScaleFamily>(oracle, kConfigs));
  return KernelLibrary(context, std::move(families), {root, {}, 0});
}

Params problem(int n) { return {{"n", n}, {"scale", 3}}; }

TuneOptions quick() {
  TuneOptions options;
  options.warm_up_seconds = 0.05;
  options.search.max_rounds = 15;
  options.search.min_compiled = 16;  // all of the few that there are
  return options;
}

/// y after one launch with x = 1, y = 2, shift = 7; z in `z`.
std::vector<float> launch_once(const GpuFixture& gpu, const ReadyKernel& kernel, int n,
                               std::vector<int>& z, bool in_graph) {
  const auto count = static_cast<std::size_t>(n);
  const Buffer x = upload(std::vector<float>(count, 1.0f), gpu.stream);
  const Buffer shift = upload(std::vector<int>{7}, gpu.stream);
  const Buffer y = upload(std::vector<float>(count, 2.0f), gpu.stream);
  const Buffer out = upload(std::vector<int>(count, -1), gpu.stream);
  const std::vector<CUdeviceptr> addresses{x.address(), shift.address(), y.address(),
                                           out.address()};
  Workspace workspace;
  workspace.reserve(kernel.workspace_bytes(problem(n)), gpu.stream);
  const auto enqueue = [&] { kernel.enqueue(gpu.stream, problem(n), addresses, workspace); };
  if (in_graph)
    GraphExec(Graph::capture(gpu.stream, enqueue)).launch(gpu.stream);
  else
    enqueue();
  gpu.stream.synchronize();
  z = download<int>(out.address(), count, gpu.stream);
  return download<float>(y.address(), count, gpu.stream);
}

}  // namespace

TEST_CASE("tuning gates what is wrong, records the winner, and the second run compiles nothing") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  const GpuFixture gpu;
  for (const auto oracle : {ScaleFamily::Oracle::host, ScaleFamily::Oracle::device}) {
    const TemporaryFolder folder;
    const std::vector<KernelRequest> requests{{"scale", problem(5000)}, {"scale", problem(8192)}};
    {
      KernelLibrary library = open_library(gpu.context, folder.path(), oracle);
      std::size_t num_calls = 0;
      TuneOptions options = quick();
      options.progress = [&](const TuneProgress& progress) {
        CHECK_EQ(progress.total, 1);
        if (!progress.finished) return;
        ++num_calls;
        CHECK_EQ(name(progress.finished->outcome), "tuned");
      };
      const TuneReport report = tune(library, requests, options);
      CHECK_EQ(num_calls, 1);
      REQUIRE_EQ(report.problems.size(), 1);  // both round up to 8192
      const ProblemReport& tuned = report.problems[0];
      CAPTURE(tuned.reason);
      CHECK_EQ(name(tuned.outcome), "tuned");
      REQUIRE_EQ(tuned.search.trials.size(), kConfigs.size());
      const std::vector<TrialStatus> wanted{TrialStatus::ok,
                                            TrialStatus::ok,
                                            TrialStatus::ok,
                                            TrialStatus::rejected,
                                            TrialStatus::wrong_result,
                                            TrialStatus::wrong_result,
                                            TrialStatus::unstable_result,
                                            TrialStatus::wrong_result,
                                            TrialStatus::wrong_result,
                                            TrialStatus::compile_failed};
      for (std::size_t i = 0; i < wanted.size(); ++i) {
        CAPTURE(i);
        CAPTURE(tuned.search.trials[i].verdict.reason);
        CHECK_EQ(name(tuned.search.trials[i].verdict.status), name(wanted[i]));
      }
      CHECK_EQ(tuned.record.config["fault"], 0);
      CHECK_GT(tuned.record.median_us, 0.2);
      CHECK_LT(tuned.record.median_us, 100);
      CHECK_LE(tuned.record.error, 1);
      CHECK_EQ(report.measured, 3);
      CHECK_EQ(report.rejected, 1);
      CHECK_EQ(report.failed, 6);
      CHECK_GE(report.compiled, 8);
      CHECK(library.get("scale", problem(8000)).tuned());
    }
    KernelLibrary again = open_library(gpu.context, folder.path(), oracle);
    const TuneReport second = tune(again, requests, quick());
    CHECK_EQ(name(second.problems[0].outcome), "recorded");
    CHECK_EQ(second.compiled, 0);
    CHECK(again.get("scale", problem(6000)).tuned());
    CHECK_EQ(again.counts().compiled, 0);
    CHECK_EQ(again.counts().image_hits, 1);
    CHECK_EQ(again.counts().tuned, 1);
    CHECK_EQ(again.counts().defaulted, 0);

    TuneOptions force = quick();
    force.force = true;
    const TuneReport third = tune(again, requests, force);
    CHECK_EQ(name(third.problems[0].outcome), "tuned");
    CHECK_EQ(third.compiled, 0);  // every image is in the cache; what failed is not counted
  }
}

TEST_CASE("what is wrong with a large output is found where it is") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  const GpuFixture gpu;
  const TemporaryFolder folder;
  KernelLibrary library = open_library(gpu.context, folder.path());
  const Family& family = library.families().at("scale");
  const Verdict verdict =
      gate_config(library, family, problem(3000001), to_params(kConfigs[7]));  // forgets the last
  CHECK_EQ(name(verdict.status), "wrong_result");
  CHECK_GT(verdict.error, 1);
  CHECK_EQ(verdict.reason.substr(0, 13), "y[3000000] is");
}

TEST_CASE("a ready kernel serves every size of its bucket, in a graph too") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  const GpuFixture gpu;
  const TemporaryFolder folder;
  KernelLibrary library = open_library(gpu.context, folder.path());
  const std::vector<KernelRequest> requests{{"scale", problem(777)}, {"scale", problem(1)}};
  library.prepare(requests);
  CHECK_EQ(library.counts().compiled, 1);
  const ReadyKernel kernel = library.get("scale", problem(777));
  CHECK_FALSE(kernel.tuned());
  CHECK_EQ(library.counts().compiled, 1);
  CHECK_EQ(library.counts().defaulted, 1);
  for (const int n : {1, 512, 777, 1023})
    for (const bool in_graph : {false, true}) {
      std::vector<int> z;
      const auto y = launch_once(gpu, kernel, n, z, in_graph);
      CHECK(std::all_of(y.begin(), y.end(), [](float value) { return value == 5.0f; }));
      for (int i = 0; i < n; ++i) CHECK_EQ(z[static_cast<std::size_t>(i)], i + 7);
    }
  CHECK_THROWS_AS(library.get("absent", problem(1)), InputError);
  CHECK_THROWS_AS(library.get("scale", problem(0)), InputError);
}

TEST_CASE("an imported record is gated before its first use") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  const GpuFixture gpu;
  const TemporaryFolder source;
  std::vector<TuningRecord> records;
  {
    KernelLibrary library = open_library(gpu.context, source.path());
    const std::vector<KernelRequest> requests{{"scale", problem(1024)}};
    tune(library, requests, quick());
    records = library.records().all();
  }
  REQUIRE_EQ(records.size(), 1);
  records.push_back(records[0]);
  records[1].problem = problem(2048);
  records[1].config = {{"threads", 256}, {"fault", static_cast<int>(ScaleConfig::wrong)}};

  const TemporaryFolder folder;
  {
    KernelLibrary library = open_library(gpu.context, folder.path());
    // The hash of a template is no secret: a wrong config may come with the right one.
    records[1].template_hash =
        template_hash(library.families().at("scale"), records[1].problem, records[1].config,
                      library.arch(), library.families().templates());
    const ImportReport report =
        import_records(export_text(records), library.families(), folder.path());
    CHECK_EQ(report.accepted, 2);
  }
  KernelLibrary library = open_library(gpu.context, folder.path());
  CHECK(library.get("scale", problem(1024)).tuned());
  CHECK_FALSE(library.records().find("scale", problem(1024))->imported);
  CHECK_FALSE(library.get("scale", problem(2048)).tuned());
  CHECK_EQ(library.counts().gate_failed, 1);
  std::vector<int> z;
  CHECK_EQ(launch_once(gpu, library.get("scale", problem(2048)), 1500, z, false)[1499], 5.0f);
}

TEST_CASE("records of the same model are gated and kept, those of other GPUs are tried first") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  const GpuFixture gpu;
  const TemporaryFolder folder;
  {
    KernelLibrary library = open_library(gpu.context, folder.path());
    TuningRecord record;
    record.family = "scale";
    record.problem = problem(1024);
    record.config = {{"threads", 512}, {"fault", 0}};
    record.template_hash =
        template_hash(library.families().at("scale"), record.problem, record.config, library.arch(),
                      library.families().templates());
    record.measured_at = "2026-01-31T12:00:00Z";
    record.fingerprint = gpu.context.device().fingerprint();
    record.fingerprint["driver"] = "1.2.3";
    RecordStore(folder.path(), record.fingerprint).append(record);
    record.problem = problem(2048);
    record.fingerprint["num_sms"] = 1;
    RecordStore(folder.path(), record.fingerprint).append(record);
  }
  KernelLibrary library = open_library(gpu.context, folder.path());
  const ReadyKernel same = library.get("scale", problem(1024));
  CHECK(same.tuned());
  CHECK_EQ(same.config()["threads"], 512);
  CHECK_EQ(library.records().all().size(), 1);
  CHECK_FALSE(library.get("scale", problem(2048)).tuned());
  const std::vector<KernelRequest> requests{{"scale", problem(2048)}};
  const TuneReport report = tune(library, requests, quick());
  CHECK_EQ(report.problems[0].configs[1]["threads"], 512);
}

TEST_CASE("a spent budget leaves the rest to the defaults, and the next run resumes") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  const GpuFixture gpu;
  const TemporaryFolder folder;
  KernelLibrary library = open_library(gpu.context, folder.path());
  // The second takes most of the step, so that its turn comes first.
  const std::vector<KernelRequest> requests{{"scale", problem(128)}, {"scale", problem(64), 1000}};
  TuneOptions options = quick();
  options.budget_seconds = 1e-3;
  const TuneReport hurried = tune(library, requests, options);
  CHECK_EQ(name(hurried.problems[1].outcome), "tuned");
  CHECK_EQ(name(hurried.problems[0].outcome), "out_of_time");
  CHECK_FALSE(library.get("scale", problem(128)).tuned());
  const TuneReport resumed = tune(library, requests, quick());
  CHECK_EQ(name(resumed.problems[1].outcome), "recorded");
  CHECK_EQ(name(resumed.problems[0].outcome), "tuned");
  CHECK(library.get("scale", problem(128)).tuned());
}
