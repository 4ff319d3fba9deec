#include <memory>

#include "autotune/trial_tools.h"
#include "compiler/nvrtc.h"
#include "runtime/base/error.h"
#include "templates/embedded.h"
#include "tests/support/support.h"

using namespace quern;

TEST_CASE("the kernels around a trial compile for every architecture") {
  std::unique_ptr<Nvrtc> nvrtc;
  try {
    nvrtc = std::make_unique<Nvrtc>();
  } catch (const DeviceError&) {
  }
  QUERN_SKIP_IF(!nvrtc, "NVRTC is not installed");
  for (const Arch& arch : known_archs()) {
    CAPTURE(arch.name());
    try {
      const KernelImage image = nvrtc->compile(
          {"trial tools", trial_tools_source(), "quern_compare_f32", arch, {}}, embedded_templates());
      CHECK_EQ(image.report.spill_store_bytes, 0);
      CHECK(image.log.find("warning") == std::string::npos);
    } catch (const CompileError& error) {
      FAIL(error.log());
    }
  }
}
