#include "templates/common/wgmma.h"

#include <fmt/format.h>

namespace quern {

namespace {

/// "f32.bf16.bf16" and the elements of k that an instruction takes, 32 bytes.
struct Form {
  const char *types, *sums;
  int k;
  bool integers, transposable;
};
Form form_of(DType dtype) {
  switch (dtype) {
    case DType::i8:
      return {"s32.s8.s8", "int", 32, true, false};
    case DType::e4m3:
      return {"f32.e4m3.e4m3", "float", 32, false, false};
    case DType::f16:
      return {"f32.f16.f16", "float", 16, false, true};
    default:
      return {"f32.bf16.bf16", "float", 16, false, true};
  }
}

/// One function: the four steps of 32 bytes along k; the first starts the sums where `start`.
std::string steps(const Form& form, int n, const char* function, bool start) {
  const int count = n / 2;  // accumulators of a thread
  constexpr int kSteps = 4;
  std::string registers, operands;
  for (int i = 0; i < count; ++i) {
    registers += fmt::format("{}%{}", i == 0 ? "" : ",", i);
    operands += fmt::format("{}\"{}\"(d[{}])", i == 0 ? "" : ", ", form.integers ? "+r" : "+f", i);
  }
  std::string text = fmt::format(
      "  static __device__ __forceinline__ void {}({} (&d)[{}], quern::u64 a, quern::u64 b) {{\n"
      "    asm volatile(\"{{\\n.reg .b64 a, b;\\nmov.b64 a, %{};\\nmov.b64 b, %{};\\n\"\n",
      function, form.sums, count, count, count + 1);
  const char* tail = form.integers ? "" : form.transposable ? ", 1, 1, 0, 0" : ", 1, 1";
  for (int step = 0; step < kSteps; ++step) {
    text +=
        fmt::format("      \"wgmma.mma_async.sync.aligned.m64n{}k{}.{} {{{}}}, a, b, {}{};\\n\"\n",
                    n, form.k, form.types, registers, start && step == 0 ? 0 : 1, tail);
    if (step + 1 < kSteps) text += "      \"add.s64 a, a, 2;\\nadd.s64 b, b, 2;\\n\"\n";
  }
  return text + fmt::format("      \"}}\" : {}\n      : \"l\"(a), \"l\"(b));\n  }}\n", operands);
}

}  // namespace

std::string wgmma_product(const std::string& name, DType dtype, int n) {
  const Form form = form_of(dtype);
  std::string text = fmt::format("struct {} {{\n", name) + steps(form, n, "run", false);
  // Sums of 8 bits may be taken over part of k at a time.
  if (form.k == 32) text += steps(form, n, "start", true);
  return text + "};\n";
}

}  // namespace quern
