#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "autotune/problem.h"
#include "autotune/registry.h"
#include "model/forward.h"
#include "model/fusion_choice.h"
#include "model/row_interleave.h"
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
      {.num_tokens = 130, .max_query_len = 130, .sample = true},
  };
  for (const Arch& arch : known_archs())
    for (const StepShape& shape : shapes)
      for (std::size_t i = 0; i < 2 * configs.size(); ++i) {
        const ModelConfig& config = configs[i / 2];
        const DType dtype = i % 2 == 0 ? DType::bf16 : DType::f16;
        std::map<std::string, Node> nodes;  // distinct problems of all ways to fuse
        const ModelAddresses model = addresses(config);
        for (const StepFusion& fusion : step_fusions(dtype, model, shape.num_tokens))
          for (Node& node : plan_forward(config, dtype, model, shape, inputs, fusion).nodes) {
            std::string key = node.family + to_key(node.problem);
            nodes.emplace(std::move(key), std::move(node));
          }
        for (const auto& [key, node] : nodes) {
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

TEST_CASE("row kernels are left to the products that fusion names, where weights allow it") {
  ModelConfig config = small_config();
  config.intermediate_size = 176;
  const auto nodes = [&](const StepFusion& fusion, DType dtype, int tokens, int layer) {
    std::string out;
    for (const Node& node :
         plan_forward(config, dtype, addresses(config), decode_shape(tokens), {}, fusion).nodes) {
      const std::string prefix = fmt::format("layers.{}.", layer);
      if (!node.name.starts_with(prefix)) continue;
      const bool row = node.family == "row", fused = node.family == "fused_gemm";
      out += node.name.substr(prefix.size());
      if (row) out += fmt::format("={}", node.problem.at("kernel").get<std::string>());
      if (node.family == "fused_gemm_wna16") out += "=codes+";
      if (fused) out += "=";
      if (fused || node.family == "fused_gemm_wna16")
        out += fmt::format("{}{}{}", node.problem.at("prologue").get<std::string>(),
                           node.problem.at("prologue") == "" ? "" : "+",
                           node.problem.at("epilogue").get<std::string>());
      out += " ";
    }
    return out;
  };
  const StepFusion swiglu{true, NormKernel::adds, NormKernel::adds};
  const StepFusion adding{false, NormKernel::alone, NormKernel::alone};
  const StepFusion all{true, NormKernel::none, NormKernel::none};
  CHECK_EQ(nodes({}, DType::bf16, 1, 1),
           "input_norm=add_rmsnorm qkv rope_append attention o post_norm=add_rmsnorm gate_up "
           "silu_mul=silu_mul_interleaved down ");
  CHECK_EQ(nodes(swiglu, DType::bf16, 1, 1),
           "input_norm=add_rmsnorm qkv rope_append attention o post_norm=add_rmsnorm "
           "gate_up=swiglu down ");
  CHECK_EQ(nodes(adding, DType::bf16, 200, 1),
           "input_norm=residual_rmsnorm qkv rope_append attention o=add post_norm=residual_rmsnorm "
           "gate_up silu_mul=silu_mul_interleaved down=add ");
  const char* const fewest =
      "qkv=rmsnorm+cast rope_append attention o=add gate_up=rmsnorm+swiglu down=add ";
  CHECK_EQ(nodes(all, DType::bf16, 1, 0), fewest);
  CHECK_EQ(nodes(all, DType::bf16, 4, 2), fewest);
  // What no kernel normalises is left to a row kernel: f16, many rows, a gate_up without SwiGLU.
  const char* const normed =
      "input_norm=residual_rmsnorm qkv rope_append attention o=add post_norm=residual_rmsnorm "
      "gate_up=swiglu down=add ";
  CHECK_EQ(nodes(all, DType::f16, 1, 1), normed);
  CHECK_EQ(nodes(all, DType::bf16, 5, 1), normed);
  CHECK_EQ(nodes({false, NormKernel::none, NormKernel::none}, DType::bf16, 1, 1),
           "qkv=rmsnorm+cast rope_append attention o=add post_norm=residual_rmsnorm gate_up "
           "silu_mul=silu_mul_interleaved down=add ");
  // Rows of gate and up that make no groups of 8 are not interleaved.
  config.intermediate_size = 172;
  CHECK_EQ(nodes(all, DType::bf16, 1, 1),
           "qkv=rmsnorm+cast rope_append attention o=add post_norm=residual_rmsnorm gate_up "
           "silu_mul=silu_mul down=add ");
  // Products of codes normalise in f16 too.
  config = quantised_configs()[0];
  const char* const of_codes =
      "qkv=codes+rmsnorm+cast rope_append attention o=codes+add gate_up=codes+rmsnorm+swiglu "
      "down=codes+add ";
  CHECK_EQ(nodes({}, DType::bf16, 1, 1),
           "input_norm=add_rmsnorm qkv rope_append attention o post_norm=add_rmsnorm gate_up "
           "silu_mul=silu_mul_interleaved down ");
  CHECK_EQ(nodes(swiglu, DType::bf16, 1, 1),
           "input_norm=add_rmsnorm qkv rope_append attention o post_norm=add_rmsnorm "
           "gate_up=codes+swiglu down ");
  CHECK_EQ(nodes(adding, DType::bf16, 1, 1),
           "input_norm=residual_rmsnorm qkv rope_append attention o=codes+add "
           "post_norm=residual_rmsnorm gate_up silu_mul=silu_mul_interleaved down=codes+add ");
  CHECK_EQ(nodes(all, DType::bf16, 1, 1), of_codes);
  CHECK_EQ(nodes(all, DType::f16, 1, 1), of_codes);
  CHECK_EQ(nodes(all, DType::f16, 64, 1),
           "input_norm=residual_rmsnorm qkv rope_append attention o=codes+add "
           "post_norm=residual_rmsnorm gate_up=codes+swiglu down=codes+add ");
  // Their columns are gathered first, and a gate_up of two matrices is left alone.
  config = quantised_configs()[1];
  CHECK_EQ(nodes(all, DType::bf16, 1, 1),
           "input_norm=residual_rmsnorm qkv.gather=gather_columns qkv rope_append attention "
           "o.gather=gather_columns o=codes+add post_norm=residual_rmsnorm "
           "gate_up.gather=gather_columns gate_up=codes+swiglu down.gather=gather_columns "
           "down=codes+add ");
  config = quantised_configs()[2];
  CHECK_EQ(nodes(all, DType::bf16, 1, 1),
           "input_norm=residual_rmsnorm qkv.0 qkv.1 qkv.2 qkv.concatenate=concatenate_columns "
           "rope_append attention o=codes+add post_norm=residual_rmsnorm gate_up.0 gate_up.1 "
           "gate_up.concatenate=concatenate_columns silu_mul=silu_mul down=codes+add ");
  // Codes and elements in turn: whichever product comes next says whether its input is normalised
  // by a kernel.
  config = quantised_configs()[0];
  config.quantization->modules_to_not_convert = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"};
  CHECK_EQ(nodes(all, DType::bf16, 1, 1),
           "qkv=codes+rmsnorm+cast rope_append attention o=codes+add gate_up=rmsnorm+swiglu "
           "down=add ");
  config.quantization->modules_to_not_convert = {"self_attn", "layers.2"};
  CHECK_EQ(nodes(all, DType::bf16, 1, 0),
           "qkv=rmsnorm+cast rope_append attention o=add gate_up=codes+rmsnorm+swiglu "
           "down=codes+add ");
  CHECK_EQ(nodes(all, DType::bf16, 1, 2), fewest);
}

TEST_CASE("products of codes are told of the codes and the expression") {
  ModelConfig config = quantised_configs()[0];
  const ModelAddresses model = addresses(config);
  const ForwardPlan plan = plan_forward(config, DType::f16, model, decode_shape(3), {},
                                        {true, NormKernel::alone, NormKernel::alone});
  const auto fused = [&](const std::string& name) -> const Node& {
    const auto found = std::ranges::find(plan.nodes, name, &Node::name);
    REQUIRE(found != plan.nodes.end());
    REQUIRE_EQ(found->family, "fused_gemm_wna16");
    return *found;
  };
  const Node& gate_up = fused("layers.1.gate_up");
  CHECK_EQ(to_text(gate_up.problem),
           "m=3 n=384 k=64 dtype=f16 bits=4 group_size=32 zero_points=true prologue= "
           "epilogue=swiglu Y=f16");
  CHECK_EQ(gate_up.operands.size(), 5);  // x, codes, scales, zeros, y
  const Node& down = fused("layers.1.down");
  CHECK_EQ(to_text(down.problem),
           "m=3 n=64 k=192 dtype=f16 bits=4 group_size=32 zero_points=true prologue= epilogue=add "
           "R=f32");
  CHECK_EQ(down.operands.size(), 5);
  CHECK_EQ(down.operands[0].tensor, gate_up.operands[4].tensor);
  // The residual stream, which o has added to in place.
  CHECK_EQ(down.operands[4].tensor, fused("layers.1.o").operands[4].tensor);
}

TEST_CASE("fusions that are measured are those that some layer's weights allow") {
  const auto fusions = [](const ModelConfig& config, DType dtype, int tokens) {
    return step_fusions(dtype, addresses(config), tokens);
  };
  ModelConfig dense = small_config();
  dense.intermediate_size = 176;
  CHECK_EQ(fusions(dense, DType::bf16, 1).size(), 15);  // 18 less gate_up normalising alone
  CHECK_EQ(fusions(dense, DType::f16, 1).size(), 8);
  CHECK_EQ(fusions(dense, DType::bf16, 129), std::vector<StepFusion>{{}});
  // Codes normalise whatever their elements are; with act-order they gather columns first.
  ModelConfig codes = quantised_configs()[0];
  for (const DType dtype : {DType::bf16, DType::f16}) {
    CHECK_EQ(fusions(codes, dtype, 1).size(), 15);
    for (const int tokens : {5, 128}) {
      const auto all = fusions(codes, dtype, tokens);
      CHECK_EQ(all.size(), 8);
      CHECK_EQ(all.front(), StepFusion{});
      CHECK(std::ranges::none_of(all, [](const StepFusion& fusion) {
        return fusion.post_norm == NormKernel::none || fusion.input_norm == NormKernel::none;
      }));
    }
  }
  CHECK_EQ(fusions(quantised_configs()[1], DType::bf16, 1).size(), 8);
  CHECK_EQ(fusions(codes, DType::bf16, 129), std::vector<StepFusion>{{}});
  CHECK_EQ(fusions(quantised_configs()[2], DType::bf16, 1).size(), 4);  // no SwiGLU
  // One layer is enough to normalise.
  codes = quantised_configs()[1];
  codes.quantization->modules_to_not_convert = {"layers.1.self_attn"};
  CHECK_EQ(fusions(codes, DType::bf16, 1).size(), 12);
  codes.quantization->modules_to_not_convert = {"layers.1"};
  CHECK_EQ(fusions(codes, DType::bf16, 1).size(), 15);
}

TEST_CASE("fusing takes no more memory") {
  for (const ModelConfig& config :
       {small_config(), quantised_configs()[0], quantised_configs()[1]}) {
    const ModelAddresses model = addresses(config);
    for (const int tokens : {1, 300}) {
      const auto bytes = [&](const StepFusion& fusion) {
        return plan_forward(config, DType::bf16, model, prefill_shape(tokens), {}, fusion)
            .activations.total_bytes();
      };
      for (const StepFusion& fusion : step_fusions(DType::bf16, model, 1))
        CHECK_LE(bytes(served(fusion, tokens)), bytes({}));
    }
  }
}

TEST_CASE("the way to fuse is the one with the least sum of times") {
  ModelConfig config = small_config();
  config.intermediate_size = 176;
  const ModelAddresses model = addresses(config);
  std::map<std::string, double> us;  // by kernel or epilogue; what is not named takes 10
  std::set<std::string> unknown;
  const auto what = [](const std::string& family, const Params& p) {
    if (family == "row") return p.at("kernel").get<std::string>();
    if (family != "fused_gemm") return fmt::format("{} {}", family, p.value("n", 0));
    return p.at("prologue").get<std::string>() + p.at("epilogue").get<std::string>() +
           (p.at("k") == 176 ? " down" : "");
  };
  const ProblemTime measured = [&](const std::string& family,
                                   const Params& p) -> std::optional<double> {
    const std::string name = what(family, p);
    if (unknown.contains(name) || unknown.contains("all")) return std::nullopt;
    const auto found = us.find(name);
    return found == us.end() ? 10 : found->second;
  };
  const ProblemTime estimated = [&](const std::string& family, const Params& p) {
    return std::optional(family == "row" ? 2.0 : p.value("prologue", "") == "" ? 10.0 : 13.0);
  };
  const auto chosen = [&](int tokens) {
    return choose_fusion(config, DType::bf16, model, decode_shape(tokens), measured, estimated);
  };
  // Products take as long with and without an expression, and a row kernel 2 us.
  us = {{"add_rmsnorm", 2}, {"residual_rmsnorm", 2}, {"silu_mul_interleaved", 2}};
  FusionChoice choice = chosen(1);
  CHECK_EQ(choice.fusion, StepFusion{true, NormKernel::none, NormKernel::none});
  CHECK(choice.measured);
  // Three kernels in each of three layers, and the last norm is no slower.
  CHECK(choice.saved_us == doctest::Approx(3 * 3 * 2.4));
  CHECK_EQ(to_text(choice),
           "gate_up computes SwiGLU; o adds to the residual stream; gate_up normalises its input; "
           "down adds to the residual stream; qkv normalises its input | saves 21.6 us of a step, "
           "measured");
  // A prologue that costs more than the kernel it saves.
  us["rmsnormcast"] = 13;
  CHECK_EQ(chosen(1).fusion, StepFusion{true, NormKernel::none, NormKernel::adds});
  us["swiglu"] = 13;
  us["rmsnormswiglu"] = 15;
  CHECK_EQ(chosen(1).fusion, StepFusion{});
  CHECK_EQ(to_text(chosen(1)), "nothing");
  us["add down"] = 9;
  CHECK_EQ(chosen(128).fusion, StepFusion{false, NormKernel::adds, NormKernel::alone});
  // Where products are bound by arithmetic, times measured apart do not decide.
  CHECK_EQ(chosen(129).fusion, StepFusion{});
  // What was not measured is not taken where the rest was, and estimates decide if nothing was.
  us = {{"add_rmsnorm", 2}, {"residual_rmsnorm", 2}, {"silu_mul_interleaved", 2}};
  unknown = {"rmsnormcast", "rmsnormswiglu"};
  choice = chosen(1);
  CHECK_EQ(choice.fusion, StepFusion{true, NormKernel::adds, NormKernel::adds});
  CHECK(choice.measured);
  unknown = {"all"};
  choice = chosen(1);
  CHECK_EQ(choice.fusion, StepFusion{true, NormKernel::adds, NormKernel::adds});
  CHECK_FALSE(choice.measured);
  CHECK(choice.saved_us == doctest::Approx(3 * 2.4));
  // Nor is a product left unfused that was measured fused alone.
  unknown = {"gemm 352"};
  us["swiglu"] = 100;
  CHECK(chosen(16).fusion.swiglu);
}

TEST_CASE("interleaved rows are 8 of each matrix in turn") {
  constexpr std::size_t cols = 5, rows = 24;
  std::vector<std::size_t> expected, got;  // matrix * 1000 + element
  for (std::size_t group = 0; group < rows / 8; ++group)
    for (std::size_t matrix = 0; matrix < 2; ++matrix)
      for (std::size_t i = 0; i < 8 * cols; ++i)
        expected.push_back(matrix * 1000 + group * 8 * cols + i);
  for (const std::size_t piece : {1, 7, 40, 64, 240}) {  // elements copied at once at most
    got.clear();
    while (got.size() < 2 * rows * cols) {
      const InterleavedRun run = interleaved_run(got.size(), cols);
      for (std::size_t i = 0; i < std::min(run.count, piece); ++i)
        got.push_back(run.matrix * 1000 + run.first + i);
    }
    CHECK_EQ(got, expected);
  }
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
