#include "templates/common/wgmma.h"

#include <fmt/format.h>

namespace quern {

std::string wgmma_product(const std::string& name, DType dtype, int n) {
  const int count = n / 2;  // accumulators of a thread
  constexpr int kSteps = 4;  // of 32 bytes along k
  std::string registers, operands;
  for (int i = 0; i < count; ++i) {
    registers += fmt::format("{}%{}", i == 0 ? "" : ",", i);
    operands += fmt::format("{}\"+f\"(d[{}])", i == 0 ? "" : ", ", i);
  }
  std::string text = fmt::format(
      "struct {} {{\n"
      "  static __device__ __forceinline__ void run(float (&d)[{}], quern::u64 a, quern::u64 b) {{\n"
      "    asm volatile(\"{{\\n.reg .b64 a, b;\\nmov.b64 a, %{};\\nmov.b64 b, %{};\\n\"\n",
      name, count, count, count + 1);
  const std::string_view type = dtype == DType::f16 ? "f16" : "bf16";
  for (int step = 0; step < kSteps; ++step) {
    text += fmt::format(
        "      \"wgmma.mma_async.sync.aligned.m64n{}k16.f32.{}.{} {{{}}}, a, b, 1, 1, 1, 0, 0;\\n\"\n",
        n, type, type, registers);
    if (step + 1 < kSteps) text += "      \"add.s64 a, a, 2;\\nadd.s64 b, b, 2;\\n\"\n";
  }
  text += fmt::format("      \"}}\" : {}\n      : \"l\"(a), \"l\"(b));\n  }}\n}};\n", operands);
  return text;
}

}  // namespace quern
