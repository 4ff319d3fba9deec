#include "compiler/nvrtc.h"
#include "runtime/base/error.h"
#include "tests/support/fragments.h"
#include "tests/support/support.h"

using namespace quern;
using namespace quern::test;

TEST_CASE("fragments compile inside other kernels for every architecture") {
  std::unique_ptr<Nvrtc> nvrtc;
  try {
    nvrtc = std::make_unique<Nvrtc>();
  } catch (const DeviceError&) {
  }
  QUERN_SKIP_IF(!nvrtc, "NVRTC is not installed");
  const auto check = [&](const char* text, const dsl::Fragment& fragment,
                         const std::string& function, int parts) {
    const dsl::Kernel kernel = dsl::parse(text, "k.qk").at(0);
    dsl::Binding binding;
    for (const std::string& param : kernel.dtype_params()) binding.dtypes[param] = DType::bf16;
    const std::string source =
        dsl::emit_fragment(kernel, binding, fragment) + fragment_kernel(fragment, function, parts);
    for (const Arch& arch : known_archs()) {
      CAPTURE(kernel.name());
      CAPTURE(arch.name());
      const KernelImage image = nvrtc->compile({kernel.name(), source, "tiles", arch, {}}, {});
      CHECK_EQ(image.report.spill_store_bytes, 0);
      CHECK(image.log.find("warning") == std::string::npos);
    }
  };
  check(kBiasGelu, {.input = "acc"}, "epilogue", 1);
  check(kSwiglu, {.input = "acc"}, "epilogue", 2);
  check(kScores, {.input = "s", .name = "ScoreModifier", .output = "t"}, "score_modifier", 1);
}
