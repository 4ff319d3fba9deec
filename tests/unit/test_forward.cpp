#include <fmt/format.h>

#include <set>
#include <string>
#include <vector>

#include "autotune/problem.h"
#include "autotune/registry.h"
#include "model/forward.h"
#include "templates/embedded.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

ModelConfig small_config() {
  ModelConfig c;
  c.vocab_size = 512;
  c.hidden_size = 64;
  c.intermediate_size = 172;
  c.num_layers = 3;
  c.num_heads = 8;
  c.num_kv_heads = 4;
  c.head_dim = 8;
  c.max_position_embeddings = 512;
  c.rms_norm_eps = 1e-5;
  return c;
}

/// The same with codes for weights: AWQ; act-order; and projections that cannot be one matrix.
std::vector<ModelConfig> quantised_configs() {
  ModelConfig awq = small_config();
  awq.intermediate_size = 192;
  awq.quantization = Quantization();
  awq.quantization->group_size = 32;
  ModelConfig act_order = awq;
  act_order.quantization->method = QuantMethod::gptq;
  act_order.quantization->zero_points = false;
  act_order.quantization->act_order = true;
  act_order.quantization->lm_head = true;
  ModelConfig mixed = act_order;
  mixed.quantization->bits = 8;
  mixed.quantization->group_size = -1;
  mixed.quantization->modules_to_not_convert = {"self_attn.k_proj", "mlp.gate_proj"};
  return {awq, act_order, mixed};
}

ModelAddresses addresses(const ModelConfig& config) {
  ModelAddresses model = weight_layout(config);
  model.num_pages = 32;
  model.max_blocks = 8;
  model.max_positions = 512;
  return model;
}

}  // namespace

TEST_CASE("every node of a step is a legal problem of its family, with as many operands") {
  std::vector<ModelConfig> configs = quantised_configs();
  configs.push_back(small_config());
  const FamilyRegistry families = FamilyRegistry::shipped(embedded_templates());
  StepInputs inputs;
  inputs.log_capacity = 513;
  const StepShape shapes[] = {
      {.num_tokens = 1, .sample = true},
      {.num_tokens = 5, .batch = 5, .num_logits = 5, .sample = true},
      {.num_tokens = 37, .max_query_len = 37, .num_logits = 37},
      {.num_tokens = 37, .max_query_len = 37, .num_logits = 1, .sample = true},
      {.num_tokens = 40, .batch = 4, .max_query_len = 31, .num_logits = 4, .sample = true},
  };
  for (const Arch& arch : known_archs())
    for (const StepShape& shape : shapes)
      for (std::size_t i = 0; i < 2 * configs.size(); ++i) {
        const ModelConfig& config = configs[i / 2];
        const DType dtype = i % 2 == 0 ? DType::bf16 : DType::f16;
        const ForwardPlan plan = plan_forward(config, dtype, addresses(config), shape, inputs);
        for (const Node& node : plan.nodes) {
          INFO(arch.name(), " ", node.name, " ", to_text(node.problem));
          const Family& family = families.at(node.family);
          const auto why = family.unsupported(node.problem, arch);
          CHECK_MESSAGE(!why, why.value_or(""));
          CHECK_EQ(family.operands(node.tuned_as).size(), node.operands.size());
          // What is launched differs from what was tuned in dynamic fields alone: one image.
          Params launched = node.problem, tuned = node.tuned_as;
          for (const std::string& field : family.dynamic_fields()) {
            launched.erase(field);
            tuned.erase(field);
          }
          CHECK_EQ(to_key(launched), to_key(tuned));
          // A config that was tuned in the bucket serves the actual sizes.
          const Params usual = family.default_config(node.tuned_as, arch);
          const auto rejected = family.reject_reason(node.problem, usual, arch);
          CHECK_MESSAGE(!rejected, rejected.value_or(""));
        }
      }
}

TEST_CASE("a node reads only what an earlier node wrote, and memory is reused") {
  const ModelConfig config = small_config();
  const ForwardPlan plan = plan_forward(config, DType::bf16, addresses(config),
                                        {.num_tokens = 300, .max_query_len = 300}, {});
  std::set<int> written;
  for (const Node& node : plan.nodes)
    for (const NodeOperand& operand : node.operands)
      if (operand.tensor >= 0) written.insert(operand.tensor);
  CHECK_GT(written.size(), 20);
  std::size_t sum = 0;
  for (const int tensor : written) sum += plan.activations.offset(tensor) > 0;
  CHECK_GT(sum, 0);
  // Far less than all activations of all layers: a few rows of the widest tensors.
  CHECK_LT(plan.activations.total_bytes(), 300u * 2u * (64 * 4 + 2 * 172 + 172 + 4 * 64) * 2u);
}

TEST_CASE("quantised projections get products of codes, with their columns gathered if need be") {
  ModelConfig config = quantised_configs()[0];
  const auto nodes = [&](const ModelAddresses& model) {
    std::string out;
    for (const Node& node :
         plan_forward(config, DType::f16, model, {.num_tokens = 3, .batch = 3, .num_logits = 3}, {})
             .nodes)
      if (node.name.starts_with("layers.1.") || node.name.starts_with("lm_head"))
        if (node.family.starts_with("gemm") || node.name.find("gather") != node.name.npos ||
            node.name.find("concatenate") != node.name.npos)
          out += fmt::format("{} {} {}\n", node.name, node.family, node.operands.size());
    return out;
  };
  CHECK_EQ(nodes(addresses(config)),
           "layers.1.qkv gemm_wna16 5\n"
           "layers.1.o gemm_wna16 5\n"
           "layers.1.gate_up gemm_wna16 5\n"
           "layers.1.down gemm_wna16 5\n"
           "lm_head gemm 3\n");
  config = quantised_configs()[1];
  config.quantization->modules_to_not_convert = {"mlp.down_proj"};
  CHECK_EQ(nodes(addresses(config)),
           "layers.1.qkv.gather row 3\n"
           "layers.1.qkv gemm_wna16 4\n"
           "layers.1.o.gather row 3\n"
           "layers.1.o gemm_wna16 4\n"
           "layers.1.gate_up.gather row 3\n"
           "layers.1.gate_up gemm_wna16 4\n"
           "layers.1.down gemm 3\n"
           "lm_head.gather row 3\n"
           "lm_head gemm_wna16 4\n");
  // One of several projections that is stored otherwise keeps them apart.
  config = quantised_configs()[2];
  CHECK_EQ(nodes(addresses(config)),
           "layers.1.qkv.0 gemm_wna16 4\n"
           "layers.1.qkv.1 gemm 3\n"
           "layers.1.qkv.2 gemm_wna16 4\n"
           "layers.1.qkv.concatenate row 4\n"
           "layers.1.o gemm_wna16 4\n"
           "layers.1.gate_up.0 gemm 3\n"
           "layers.1.gate_up.1 gemm_wna16 4\n"
           "layers.1.gate_up.concatenate row 4\n"
           "layers.1.down gemm_wna16 4\n"
           "lm_head gemm_wna16 4\n");
}

TEST_CASE("problems of a model are distinct, bucketed and counted") {
  const ModelConfig config = small_config();
  const auto problems = model_problems(config, DType::bf16, {1, 3, 4}, {100, 128});
  std::set<std::string> keys;
  int gemms = 0;
  for (const ModelProblem& p : problems) {
    CHECK(keys.insert(p.family + to_key(p.problem)).second);
    CHECK_GT(p.count, 0);
    gemms += p.family == "gemm";
  }
  // qkv, o, gate_up, down at m = 1, 4 and 128, lm_head at 1 and 4; o and qkv differ in n.
  CHECK_EQ(gemms, 4 * 3 + 2);
}
