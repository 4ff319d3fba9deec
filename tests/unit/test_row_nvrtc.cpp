#include "autotune/row_family.h"
#include "compiler/nvrtc.h"
#include "runtime/base/error.h"
#include "templates/embedded.h"
#include "tests/support/row_problems.h"
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
      constexpr DType dtypes[] = {DType::bf16, DType::f16, DType::f32, DType::e4m3, DType::i8};
      constexpr std::int64_t cols[] = {172, 4096, 65536};
      const Params problem = test::row_problem(family, kernel, 16, cols[turn % 3], dtypes[turn % 5],
                                               dtypes[(turn + 1) % 5]);
      const auto candidates = family.candidates(problem, arch);
      const Params& config = candidates[turn / 2 % candidates.size()];
      const KernelSource source = family.source(problem, config, arch);
      CAPTURE(to_text(problem));
      CAPTURE(to_text(config));
      CAPTURE(arch.name());
      const KernelImage image =
          nvrtc->compile({to_text(problem), source.source, source.entry, arch, source.options}, {});
      // A word or two ptxas spills of its own accord, far below the limit of registers.
      CHECK_LE(image.report.spill_store_bytes, 8);
      CHECK(image.log.find("warning") == std::string::npos);
    }
}
