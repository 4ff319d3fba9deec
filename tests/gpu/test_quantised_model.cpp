#include <algorithm>

#include "model/cpu_backend.h"
#include "model/gpu_backend.h"
#include "model/gpu_session.h"
#include "tests/support/gpu.h"
#include "tests/support/quantised_checkpoint.h"
#include "tests/support/reference_data.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

/// The bundled model with codes for weights, on the GPU and on the CPU: the same codes, so that
/// only the rounding of activations lies between them.
void check_against_cpu(GpuSession& session, const Quantization& quantization,
                       bool own_orders = false) {
  CAPTURE(quantization.text());
  CAPTURE(own_orders);
  const test::TemporaryFolder folder;
  test::write_quantised_model(test::bundled_model(), folder.path(), quantization, own_orders);
  const test::Expected expected =
      test::load_expected(test::bundled_model() / "expected.safetensors");
  const auto ids =
      std::span(expected.input_ids).first(std::min<std::size_t>(70, expected.input_ids.size()));
  const ModelConfig config = load_config(folder.path());
  CpuBackend cpu(folder.path());
  GpuBackend gpu(config, session.open(config, load_weights(folder.path(), config),
                                      gpu_dtype(config), {.max_context = 256}));
  const auto reference = cpu.forward(ids, LogitRows::all);
  const auto logits = gpu.forward(ids, LogitRows::all);
  const test::LogitError error = test::logit_error(logits, reference);
  MESSAGE(quantization.text() << ": relative error of logits " << error.norm_wise << " by norm");
  CHECK_LT(error.norm_wise, 1.5e-2);
  // Decode steps go through the graph, with kernels for one row.
  GenerateOptions options;
  options.max_new_tokens = 12;
  const Generation out =
      gpu.generate(std::vector<std::int32_t>{expected.input_ids[0]}, options, {});
  CHECK_EQ(out.ids.size(), 12);
}

Quantization gptq(int bits, std::int64_t group_size, bool zero_points, bool act_order) {
  Quantization out;
  out.method = QuantMethod::gptq;
  out.bits = bits;
  out.group_size = group_size;
  out.zero_points = zero_points;
  out.act_order = act_order;
  out.zeros_minus_one = true;
  return out;
}

}  // namespace

TEST_CASE("quantised models of every kind give the CPU's logits") {
  QUERN_SKIP_IF(!test::gpu_available(), driver_problem());
  const test::TemporaryFolder cache;
  GpuSession session({0, cache.path(), {}, {}});
  check_against_cpu(session, Quantization());  // AWQ, group 128
  check_against_cpu(session, gptq(4, 32, true, true));
  check_against_cpu(session, gptq(4, 64, false, true), /*own_orders=*/true);
  check_against_cpu(session, gptq(8, -1, false, false));
  check_against_cpu(session, gptq(8, 128, true, true));
}
