#include "autotune/row_family.h"
#include "compiler/nvrtc.h"
#include "runtime/base/error.h"
#include "templates/embedded.h"
#include "tests/support/support.h"

using namespace quern;

TEST_CASE("every row kernel compiles for every architecture, without warnings or spills") {
  std::unique_ptr<Nvrtc> nvrtc;
  try {
    nvrtc = std::make_unique<Nvrtc>();
  } catch (const DeviceError&) {
  }
  QUERN_SKIP_IF(!nvrtc, "NVRTC is not installed");
  const RowFamily family(embedded_templates());
  std::size_t turn = 0;
  for (const auto& [name, kernel] : family.kernels())
    for (const Arch& arch : known_archs()) {
      ++turn;  // walks through sizes, dtypes and configs: all of them together would take minutes
      Params problem{{"kernel", name}, {"rows", 16}, {"cols", turn % 2 ? 172 : 4096}};
      constexpr const char* dtypes[] = {"bf16", "f16", "f32"};
      for (const std::string& param : kernel.dtype_params())
        problem[param] = dtypes[(turn + problem.size()) % 3];
      for (const dsl::ScalarInfo& scalar : kernel.scalars()) problem[scalar.name] = 1e-5;
      const auto candidates = family.candidates(problem, arch);
      const Params& config = candidates[turn / 2 % candidates.size()];
      const KernelSource source = family.source(problem, config, arch);
      CAPTURE(to_text(problem));
      CAPTURE(to_text(config));
      CAPTURE(arch.name());
      const KernelImage image =
          nvrtc->compile({to_text(problem), source.source, source.entry, arch, source.options}, {});
      CHECK_EQ(image.report.spill_store_bytes, 0);
      CHECK(image.log.find("warning") == std::string::npos);
    }
}
