// Runs a model on the CPU, and compiles a kernel of its own, through the installed package.
#include <quern/autotune/tuner.h>
#include <quern/compiler/dsl.h>
#include <quern/model/engine.h>

#include <cstdio>

int main(int, char** argv) {
  quern::Engine engine({.model = argv[1], .device = "cpu"});
  const auto generation = engine.generate(engine.tokenizer().encode("Once upon a time"),
                                          {.sampling = {}, .max_new_tokens = 8});
  const auto kernels = quern::dsl::parse(
      "kernel twice(x: T[n]) -> (y: T[n]) { y = T(2.0 * f32(x)) }", "twice.qk");
  const std::string llvm =
      quern::dsl::emit_llvm(kernels.at(0), {{{"T", quern::DType::f32}}, {{"n", 64}}});
  std::printf("%zu tokens, %zu kernel\n", generation.output_ids.size(), kernels.size());
  return generation.output_ids.size() == 8 && !llvm.empty() ? 0 : 1;
}
