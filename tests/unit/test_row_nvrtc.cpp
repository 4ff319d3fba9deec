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
    for (const Arch& arch : known_archs())
      for (const std::int64_t cols : {172, 4096}) {
        Params problem{{"kernel", name}, {"rows", 16}, {"cols", cols}};
        constexpr const char* dtypes[] = {"bf16", "f16", "f32"};
        for (const std::string& param : kernel.dtype_params()) problem[param] = dtypes[turn++ % 3];
        for (const dsl::ScalarInfo& scalar : kernel.scalars()) problem[scalar.name] = 1e-5;
        // The default and one more: all of them would take minutes.
        const auto candidates = family.candidates(problem, arch);
        for (const std::size_t i : {std::size_t{0}, turn % candidates.size()}) {
          const KernelSource source = family.source(problem, candidates[i], arch);
          CAPTURE(to_text(problem));
          CAPTURE(to_text(candidates[i]));
          CAPTURE(arch.name());
          const KernelImage image = nvrtc->compile(
              {to_text(problem), source.source, source.entry, arch, source.options}, {});
          CHECK_EQ(image.report.spill_store_bytes, 0);
          CHECK(image.log.find("warning") == std::string::npos);
          if (i == 0 && candidates.size() == 1) break;
        }
      }
}
