#include "autotune/build_ahead.h"

#include "runtime/base/error.h"
#include "tests/support/scale_family.h"
#include "tests/support/support.h"

using namespace quern;
using test::ScaleConfig;
using test::ScaleFamily;

TEST_CASE("images are built for a GPU that is not here, once") {
  std::unique_ptr<Nvrtc> nvrtc;
  std::string problem;
  try {
    nvrtc = std::make_unique<Nvrtc>();
  } catch (const DeviceError& error) {
    problem = error.what();
  }
  QUERN_SKIP_IF(!nvrtc, problem);
  const test::TemporaryFolder folder;
  ImageStore images(folder.path());
  FamilyRegistry families(ScaleFamily::templates());
  families.add(std::make_unique<ScaleFamily>(
      ScaleFamily::Oracle::host,
      std::vector<ScaleConfig>{{}, {128, 0}, {256, ScaleConfig::no_compile}}));
  // Both sizes are arguments of the same image.
  const std::vector<KernelRequest> requests{{"scale", {{"n", 100}, {"scale", 3}}},
                                            {"scale", {{"n", 5000}, {"scale", 3}}}};
  const Arch arch = parse_arch("sm_80");
  BuildReport report = build_ahead(families, *nvrtc, images, requests, {arch, {}});
  CHECK_EQ(report.images, 1);
  CHECK_EQ(report.compiled, 1);
  CHECK(report.failed.empty());
  report = build_ahead(families, *nvrtc, images, requests, {arch, {}}, {.all_candidates = true, .farm = {}, .progress = {}});
  CHECK_EQ(report.images, 2);
  CHECK_EQ(report.compiled, 1);
  CHECK_EQ(report.failed.size(), 1);
  CHECK_EQ(images.verify().size(), 2);

  // What was recorded on such a GPU is built too.
  TuningRecord record;
  record.family = "scale";
  record.problem = {{"n", 128}, {"scale", 3}};
  record.config = {{"threads", 32}, {"fault", 0}};
  record.template_hash = std::string(32, 'a');
  record.fingerprint = {{"name", "A100"}, {"compute_capability", "8.0"}};
  record.measured_at = "2026-01-31T12:00:00Z";
  RecordStore(folder.path(), record.fingerprint).append(record);
  CHECK_EQ(build_ahead(families, *nvrtc, images, requests, {arch, {}}).images, 2);
  CHECK_EQ(build_ahead(families, *nvrtc, images, requests, {parse_arch("sm_90a"), {}}).images, 1);

  // A known device gets what was recorded on it, before what its relatives found; and the tuner's
  // candidates include everybody's.
  const ordered_json mine = {{"name", "A100"}, {"compute_capability", "8.0"}, {"driver", "2"}};
  CHECK_EQ(build_ahead(families, *nvrtc, images, requests, {arch, mine}).images, 2);
  record.fingerprint = mine;
  record.config["threads"] = 64;
  RecordStore(folder.path(), mine).append(record);
  const BuildReport own = build_ahead(families, *nvrtc, images, requests, {arch, mine});
  CHECK_EQ(own.images, 2);
  CHECK_EQ(own.compiled, 1);
  CHECK_EQ(build_ahead(families, *nvrtc, images, requests, {arch, {}}).images, 3);
  CHECK_EQ(build_ahead(families, *nvrtc, images, requests, {arch, mine}, {.all_candidates = true, .farm = {}, .progress = {}})
               .images,
           4);

  const std::vector<KernelRequest> bad{{"scale", {{"n", 0}, {"scale", 3}}}};
  CHECK_EQ(build_ahead(families, *nvrtc, images, bad, {arch, {}}).failed.size(), 1);
  const std::vector<KernelRequest> unknown{{"absent", Params::object()}};
  CHECK_THROWS_AS(build_ahead(families, *nvrtc, images, unknown, {arch, {}}), InputError);
}
