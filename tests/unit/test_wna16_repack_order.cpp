// The device's repacking and the host's give the same codes: the family's definition on the CPU
// against model/kernel_order.h.
#include <cstring>
#include <string>
#include <vector>

#include "model/kernel_order.h"
#include "templates/gemm_wna16/repack.h"
#include "tests/support/quantised_checkpoint.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

/// One projection of 48 rows, or two of 24 whose rows are interleaved.
void check_codes(bool awq, bool act_order, bool interleaved) {
  CAPTURE(awq);
  CAPTURE(act_order);
  CAPTURE(interleaved);
  ThreadPool pool(2);
  const auto family = make_wna16_repack_family();
  Quantization quantization;
  quantization.method = awq ? QuantMethod::awq : QuantMethod::gptq;
  quantization.act_order = act_order;
  quantization.group_size = 64;
  quantization.zeros_minus_one = false;
  const std::int64_t n = 48, k = 256, rows = interleaved ? n / 2 : n;
  const test::TemporaryFolder folder;
  test::CheckpointWriter writer;
  std::vector<test::PlainQuantised> plain;
  for (unsigned i = 0; i < (interleaved ? 2u : 1u); ++i) {
    plain.push_back(test::random_quantised(rows, k, quantization, 3 + i));
    plain[i].groups = plain[0].groups;
    writer.add("p" + std::to_string(i), plain[i], quantization);
  }
  writer.write(folder.path() / "all.safetensors");
  const Checkpoint file(folder.path() / "all.safetensors");
  std::vector<QuantisedLinear> linears;
  for (std::size_t i = 0; i < plain.size(); ++i)
    linears.push_back(load_quantised_linear(file, "p" + std::to_string(i), rows, k, quantization));
  std::vector<const QuantisedLinear*> parts;
  for (const QuantisedLinear& linear : linears) parts.push_back(&linear);
  const QuantisedMatrix matrix =
      join(parts, pool, JoinParts::all, interleaved ? JoinRows::interleaved : JoinRows::in_order);
  const KernelOrder expected = kernel_order(matrix, DType::f16, pool);
  const auto operands_of = [&](const char* part, bool ordered) {
    const Params problem = {{"part", part},
                            {"source", awq ? "awq" : "gptq_v2"},
                            {"n", n},
                            {"k", k},
                            {"group_size", 64},
                            {"act_order", ordered},
                            {"interleaved", interleaved}};
    std::vector<HostTensor> operands;
    for (const OperandSpec& spec : family->operands(problem)) operands.push_back({spec, {}});
    return std::pair(problem, operands);
  };
  const auto append = [](HostTensor& tensor, const void* from, std::size_t bytes) {
    const auto* first = static_cast<const std::byte*>(from);
    tensor.data.insert(tensor.data.end(), first, first + bytes);
  };
  const auto check = [](const HostTensor& out, const void* wanted, std::size_t bytes) {
    REQUIRE_EQ(out.data.size(), bytes);
    CHECK_EQ(std::memcmp(out.data.data(), wanted, bytes), 0);
  };
  auto [codes, of_codes] = operands_of("codes", act_order);
  for (const QuantisedLinear& linear : linears)
    append(of_codes[0], linear.qweight.data(), linear.qweight.size_bytes());
  if (act_order) append(of_codes[1], matrix.order.data(), 4 * matrix.order.size());
  family->cpu_reference(codes, of_codes);
  check(of_codes.back(), expected.codes.data(), 4 * expected.codes.size());
  auto [scales, of_scales] = operands_of("scales", false);
  for (const QuantisedLinear& linear : linears)
    append(of_scales[0], linear.scales.data.data(), linear.scales.data.size());
  family->cpu_reference(scales, of_scales);
  check(of_scales.back(), expected.scales.data(), 2 * expected.scales.size());
  if (expected.zeros.empty()) return;
  auto [zeros, of_zeros] = operands_of("zeros", false);
  for (const QuantisedLinear& linear : linears)
    append(of_zeros[0], linear.qzeros.data(), linear.qzeros.size_bytes());
  family->cpu_reference(zeros, of_zeros);
  check(of_zeros.back(), expected.zeros.data(), expected.zeros.size());
}

}  // namespace

TEST_CASE("what the family's definition repacks is what the host orders") {
  for (const bool awq : {true, false})
    for (const bool act_order : {false, true})
      for (const bool interleaved : {false, true})
        if (!awq || !act_order) check_codes(awq, act_order, interleaved);
}
