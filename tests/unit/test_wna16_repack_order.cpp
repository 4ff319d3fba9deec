// The device's repacking and the host's give the same codes: the family's definition on the CPU
// against model/kernel_order.h.
#include <cstring>
#include <vector>

#include "model/kernel_order.h"
#include "templates/gemm_wna16/repack.h"
#include "tests/support/quantised_checkpoint.h"
#include "tests/support/support.h"

using namespace quern;

TEST_CASE("codes repacked by the family's definition are those of the host") {
  ThreadPool pool(2);
  const auto family = make_wna16_repack_family();
  for (const bool awq : {true, false})
    for (const bool act_order : {false, true}) {
      if (awq && act_order) continue;
      Quantization quantization;
      quantization.method = awq ? QuantMethod::awq : QuantMethod::gptq;
      quantization.act_order = act_order;
      quantization.group_size = 64;
      const std::int64_t n = 48, k = 256;
      const test::TemporaryFolder folder;
      test::CheckpointWriter writer;
      writer.add("p", test::random_quantised(n, k, quantization, 3), quantization);
      writer.write(folder.path() / "one.safetensors");
      const Checkpoint file(folder.path() / "one.safetensors");
      const QuantisedLinear linear = load_quantised_linear(file, "p", n, k, quantization);
      const QuantisedLinear* const parts[] = {&linear};
      const QuantisedMatrix matrix = join(parts, pool);
      const KernelOrder expected = kernel_order(matrix, DType::f16, pool);
      const Params problem = {{"part", "codes"},  {"source", awq ? "awq" : "gptq_v2"},
                              {"n", n},           {"k", k},
                              {"group_size", 64}, {"act_order", act_order}};
      std::vector<HostTensor> operands;
      for (const OperandSpec& spec : family->operands(problem)) operands.push_back({spec, {}});
      const auto put = [](HostTensor& tensor, const void* from, std::size_t bytes) {
        tensor.data.resize(bytes);
        std::memcpy(tensor.data.data(), from, bytes);
      };
      put(operands[0], linear.qweight.data(), linear.qweight.size_bytes());
      if (act_order) put(operands[1], matrix.order.data(), 4 * matrix.order.size());
      family->cpu_reference(problem, operands);
      REQUIRE_EQ(operands.back().data.size(), 4 * expected.codes.size());
      CHECK_EQ(std::memcmp(operands.back().data.data(), expected.codes.data(),
                           operands.back().data.size()),
               0);
    }
}
