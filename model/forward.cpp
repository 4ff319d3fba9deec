#include "model/forward.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "autotune/problem.h"
#include "model/row_interleave.h"

namespace quern {
namespace {

/// Context that attention is tuned at: long enough to be bound by the KV stream, short enough for a
/// trial to be quick.
constexpr int kTunedContext = 1024;

/// Type of what is summed or rotated before it is rounded for the next product: the residual stream,
/// what the sub-layers add to it, and q, k and v before RoPE. In bf16 these five took the relative
/// error of one golden model's logits from 1.4% to 1.8%; in fp32 they cost a few percent of prefill.
constexpr DType kUnrounded = DType::f32;

/// Builds the list node by node; every tensor of the plan is named by the node that writes it.
class Builder {
 public:
  Builder(const ModelConfig& config, DType dtype, const ModelAddresses& model,
          const StepShape& shape, const StepInputs& inputs, const StepFusion& fusion)
      : config_(config),
        dtype_(dtype),
        model_(model),
        shape_(shape),
        in_(inputs),
        fusion_(served(fusion, shape.num_tokens)) {}

  ForwardPlan build() {
    const std::int64_t tokens = shape_.num_tokens;
    const std::int64_t hidden = config_.hidden_size, q_size = config_.q_size();
    const std::int64_t qkv_size = q_size + 2 * config_.kv_size();
    residual_ = tensor(tokens * hidden, kUnrounded);
    normed_ = tensor(tokens * hidden);
    embedding("embedding", in_.ids, at(model_.embedding), config_.vocab_size, shape_.num_tokens,
              residual_, kUnrounded);
    for (std::int64_t i = 0; i < config_.num_layers; ++i) {
      const LayerAddresses& layer = model_.layers.at(static_cast<std::size_t>(i));
      const auto label = [&](const char* what) { return fmt::format("layers.{}.{}", i, what); };
      const NodeOperand qkv = tensor(tokens * qkv_size, kUnrounded);
      if (fusion_.input_norm == NormKernel::none && can_normalise(layer.qkv, dtype_) && !branch_) {
        normalising_product(label("qkv"), layer.input_norm, layer.qkv[0], "cast",
                            {{"Y", quern::name(kUnrounded)}}, qkv);
      } else {
        norm(label("input_norm"), layer.input_norm);
        linears(label("qkv"), normed_, layer.qkv, qkv, kUnrounded);
      }
      const NodeOperand q = tensor(tokens * q_size);
      rope_append(label("rope_append"), qkv, layer, q);
      const NodeOperand attended = tensor(tokens * q_size);
      attention(label("attention"), q, layer, attended);
      add_to_residual(label("o"), attended, layer.o, fusion_.post_norm);
      const NodeOperand activated = tensor(tokens * config_.intermediate_size);
      feed_forward(label, layer, activated);
      add_to_residual(label("down"), activated, layer.down, fusion_.input_norm);
    }
    norm("final_norm", model_.final_norm);
    NodeOperand last = normed_;
    if (shape_.num_logits != shape_.num_tokens) {
      last = tensor(static_cast<std::int64_t>(shape_.num_logits) * hidden);
      embedding("last_rows", in_.logits_rows, normed_, shape_.num_tokens, shape_.num_logits, last,
                dtype_);
    }
    linear("lm_head", last, model_.lm_head, at(in_.logits), shape_.num_logits, DType::f32);
    if (shape_.sample) sample();
    plan_.activations.place();
    return std::move(plan_);
  }

 private:
  NodeOperand tensor(std::int64_t elements, std::optional<DType> dtype = {}) {
    return {0, plan_.activations.add(
                   bytes_for(dtype.value_or(dtype_), static_cast<std::size_t>(elements)))};
  }
  static NodeOperand at(std::uint64_t address) { return {address, -1}; }

  /// `bucketed` names the fields that vary by request and are rounded up for lookup;
  /// `fixed` the ones that lookup holds at a usual value.
  void node(std::string name, std::string family, Params problem,
            const std::vector<std::string>& bucketed, const Params& fixed,
            std::vector<NodeOperand> operands) {
    Params tuned_as = problem;
    for (const std::string& field : bucketed)
      tuned_as[field] = bucket(problem.at(field).get<int>());
    for (const auto& [field, value] : fixed.items()) tuned_as[field] = value;
    const int index = static_cast<int>(plan_.nodes.size());
    for (const NodeOperand& operand : operands)
      if (operand.tensor >= 0) plan_.activations.use(operand.tensor, index);
    plan_.nodes.push_back({std::move(name), std::move(family), std::move(problem),
                           std::move(tuned_as), std::move(operands)});
  }

  /// Gathers `count` of the `rows` rows of a table.
  void embedding(std::string name, std::uint64_t ids, NodeOperand table, std::int64_t rows,
                 int count, NodeOperand out, DType out_dtype) {
    node(std::move(name), "embedding",
         {{"num_tokens", count},
          {"vocab_size", rows},
          {"hidden_size", config_.hidden_size},
          {"dtype", quern::name(dtype_)},
          {"out_dtype", quern::name(out_dtype)}},
         {"num_tokens"}, {{"vocab_size", kTunedContext}}, {at(ids), table, out});
  }

  Params row_problem(const char* kernel, std::int64_t rows, std::int64_t cols) const {
    return {{"kernel", kernel}, {"rows", rows}, {"cols", cols}, {"T", quern::name(dtype_)}};
  }

  /// What o or down leaves: the sum in the residual stream, or what is still to be added to it.
  void add_to_residual(const std::string& name, NodeOperand x, const LinearWeight& w,
                       NormKernel next) {
    if (next != NormKernel::adds) {
      fused_product(name, x, w, "", "add", {{"R", quern::name(kUnrounded)}}, {residual_});
      return;
    }
    branch_ = tensor(shape_.num_tokens * w.out_features(), kUnrounded);
    linear(name, x, w, *branch_, shape_.num_tokens, kUnrounded);
  }

  /// normed_ = the residual stream, with what is still to be added to it, normalised.
  void norm(std::string name, std::uint64_t weight) {
    Params problem = row_problem(branch_ ? "add_rmsnorm" : "residual_rmsnorm", shape_.num_tokens,
                                 config_.hidden_size);
    problem["R"] = quern::name(kUnrounded);
    problem["eps"] = config_.rms_norm_eps;
    std::vector<NodeOperand> operands = {residual_, at(weight), normed_};
    if (branch_) operands.insert(operands.begin(), *branch_);
    branch_.reset();
    node(std::move(name), "row", problem, {"rows"}, Params::object(), std::move(operands));
  }

  /// activated[m, intermediate_size] = silu(gate) * up, of the normalised residual stream.
  template <class Label>
  void feed_forward(const Label& label, const LayerAddresses& layer, NodeOperand activated) {
    const LinearWeight& first = layer.gate_up.front();
    const bool swiglu = fusion_.swiglu && first.interleaved;
    const Params result = {{"Y", quern::name(dtype_)}};
    if (swiglu && fusion_.post_norm == NormKernel::none && can_normalise(layer.gate_up, dtype_) &&
        !branch_) {
      normalising_product(label("gate_up"), layer.post_norm, first, "swiglu", result, activated);
      return;
    }
    norm(label("post_norm"), layer.post_norm);
    if (swiglu) {
      fused_product(label("gate_up"), normed_, first, "", "swiglu", result, {activated});
      return;
    }
    const NodeOperand gate_up = tensor(shape_.num_tokens * 2 * config_.intermediate_size);
    linears(label("gate_up"), normed_, layer.gate_up, gate_up, dtype_);
    Params problem = row_problem("silu_mul", shape_.num_tokens, config_.intermediate_size);
    if (first.interleaved) {
      problem = {{"kernel", "silu_mul_interleaved"},
                 {"rows", shape_.num_tokens},
                 {"groups", config_.intermediate_size / kInterleavedRows},
                 {"lanes", kInterleavedRows},
                 {"T", quern::name(dtype_)}};
    }
    node(label("silu_mul"), "row", problem, {"rows"}, Params::object(), {gate_up, activated});
  }

  /// y = epilogue(rms_norm(residual stream) w^T).
  void normalising_product(const std::string& name, std::uint64_t gamma, const LinearWeight& w,
                           const char* epilogue, Params fields, NodeOperand y) {
    fields["eps"] = config_.rms_norm_eps;
    fields["stream"] = quern::name(kUnrounded);
    fused_product(name, residual_, w, "rmsnorm", epilogue, fields, {at(gamma), y});
  }

  /// `fields` and `others` are what the prologue and the epilogue have to themselves.
  void fused_product(const std::string& name, NodeOperand x, const LinearWeight& w,
                     const char* prologue, const char* epilogue, const Params& fields,
                     const std::vector<NodeOperand>& others) {
    Params problem = product_problem(w, shape_.num_tokens);
    add_codes(problem, w);
    problem["prologue"] = prologue;
    problem["epilogue"] = epilogue;
    problem.update(fields);
    product(name, w.quantised() ? "fused_gemm_wna16" : "fused_gemm", std::move(problem), x, w,
            others);
  }

  /// y[m, out] = x[m, in] w^T.
  void linear(const std::string& name, NodeOperand x, const LinearWeight& w, NodeOperand y, int m,
              DType out) {
    Params problem = product_problem(w, m);
    problem["out_dtype"] = quern::name(out);
    add_codes(problem, w);
    product(name, w.quantised() ? "gemm_wna16" : "gemm", std::move(problem), x, w, {y});
  }

  /// What every family of products is told of x[m, in] w^T.
  Params product_problem(const LinearWeight& w, int m) const {
    return {
        {"m", m}, {"n", w.out_features()}, {"k", w.in_features}, {"dtype", quern::name(dtype_)}};
  }
  /// What those of codes are told besides.
  static void add_codes(Params& problem, const LinearWeight& w) {
    if (!w.quantised()) return;
    problem["bits"] = w.bits;
    problem["group_size"] = w.group_size;
    problem["zero_points"] = w.zero_points;
  }

  /// A product of x and w, with x gathered as w has its columns; `others` are the operands after w.
  void product(const std::string& name, const char* family, Params problem, NodeOperand x,
               const LinearWeight& w, const std::vector<NodeOperand>& others) {
    if (w.reordered) {
      const int m = problem.at("m").get<int>();
      const NodeOperand gathered = tensor(m * w.in_features);
      Params gather = row_problem("gather_columns", m, w.in_features);
      gather["inputs"] = w.in_features;
      node(name + ".gather", "row", gather, {"rows"}, Params::object(),
           {x, at(w.order), gathered});
      x = gathered;
    }
    std::vector<NodeOperand> operands = {x, at(w.weight)};
    if (w.quantised()) operands.push_back(at(w.scales));
    if (w.zero_points) operands.push_back(at(w.zeros));
    operands.insert(operands.end(), others.begin(), others.end());
    node(name, family, std::move(problem), {"m"}, Params::object(), std::move(operands));
  }

  /// Products of one input, side by side in the columns of y: as one where the weights are one
  /// matrix, else one by one and put together.
  void linears(const std::string& name, NodeOperand x, const std::vector<LinearWeight>& parts,
               NodeOperand y, DType out) {
    const int m = shape_.num_tokens;
    if (parts.size() == 1) {
      linear(name, x, parts[0], y, m, out);
      return;
    }
    std::vector<NodeOperand> columns;
    std::int64_t width = 0;
    Params problem = row_problem("concatenate_columns", m, 0);
    problem["T"] = quern::name(out);
    const char* const axes[] = {"a_cols", "b_cols", "c_cols"};
    const char* const firsts[] = {nullptr, "first_b", "first_c"};
    for (std::size_t i = 0; i < parts.size(); ++i) {
      columns.push_back(tensor(m * parts[i].out_features(), out));
      linear(fmt::format("{}.{}", name, i), x, parts[i], columns.back(), m, out);
      problem[axes[i]] = parts[i].out_features();
      if (i > 0) problem[firsts[i]] = width;
      width += parts[i].out_features();
    }
    if (parts.size() == 2) {  // a third operand that begins where y ends
      columns.push_back(columns[1]);
      problem["c_cols"] = problem["b_cols"];
      problem["first_c"] = width;
    }
    problem["cols"] = width;
    columns.push_back(y);
    node(name + ".concatenate", "row", problem, {"rows"}, Params::object(), std::move(columns));
  }

  int tuned_blocks() const { return kTunedContext / model_.page_size; }

  Params heads() const {
    return {{"num_heads", config_.num_heads},
            {"num_kv_heads", config_.num_kv_heads},
            {"head_dim", config_.head_dim},
            {"page_size", model_.page_size}};
  }

  void rope_append(std::string name, NodeOperand qkv, const LayerAddresses& layer, NodeOperand q) {
    Params problem = {{"num_tokens", shape_.num_tokens},
                      {"batch", shape_.batch},
                      {"max_blocks", model_.max_blocks},
                      {"num_pages", model_.num_pages},
                      {"max_positions", model_.max_positions}};
    problem.update(heads());
    problem["dtype"] = quern::name(dtype_);
    problem["qkv_dtype"] = quern::name(kUnrounded);
    problem["bias"] = false;
    const auto batch = static_cast<int>(bucket(shape_.batch));
    node(std::move(name), "rope_append", problem, {"num_tokens", "batch"},
         {{"max_blocks", blocks_for(batch)},
          {"num_pages", batch * blocks_for(batch)},
          {"max_positions", blocks_for(batch) * model_.page_size}},
         {qkv, at(model_.rope_table), at(in_.positions), at(in_.sequence), at(in_.block_table),
          at(layer.k_cache), at(layer.v_cache), q});
  }

  /// Pages a sequence has in a tuning problem: room for the step's own tokens at least.
  int blocks_for(int batch) const {
    const auto tokens = static_cast<int>(bucket(shape_.num_tokens)) / batch;
    return std::max(tuned_blocks(), (tokens + model_.page_size - 1) / model_.page_size);
  }

  void attention(std::string name, NodeOperand q, const LayerAddresses& layer, NodeOperand out) {
    const bool decode = shape_.max_query_len == 1;
    const auto batch = static_cast<int>(bucket(shape_.batch));
    Params problem;
    if (!decode) problem["num_tokens"] = shape_.num_tokens;
    problem["batch"] = shape_.batch;
    if (!decode) problem["max_query_len"] = shape_.max_query_len;
    problem["max_blocks"] = model_.max_blocks;
    problem["num_pages"] = model_.num_pages;
    if (decode) problem["max_kv_len"] = model_.max_positions;
    problem.update(heads());
    problem["window"] = config_.sliding_window.value_or(0);
    problem["dtype"] = quern::name(dtype_);
    Params fixed = {{"max_blocks", blocks_for(batch)}, {"num_pages", batch * blocks_for(batch)}};
    if (decode) fixed["max_kv_len"] = kTunedContext;
    std::vector<NodeOperand> operands = {q, at(layer.k_cache), at(layer.v_cache),
                                         at(in_.block_table)};
    if (!decode) operands.push_back(at(in_.query_start));
    operands.push_back(at(in_.kv_len));
    operands.push_back(out);
    node(std::move(name), decode ? "decode_attention" : "prefill_attention", problem,
         decode ? std::vector<std::string>{"batch"}
                : std::vector<std::string>{"num_tokens", "batch", "max_query_len"},
         fixed, std::move(operands));
  }

  void sample() {
    node("sampling", "sampling",
         {{"batch", shape_.batch},
          {"vocab_size", config_.vocab_size},
          {"log_capacity", in_.log_capacity}},
         {"batch"}, {{"log_capacity", kTunedContext}},
         {at(in_.logits), at(in_.sampling), at(in_.next_ids), at(in_.next_position),
          at(in_.next_kv_len), at(in_.log)});
  }

  const ModelConfig& config_;
  DType dtype_;
  const ModelAddresses& model_;
  const StepShape& shape_;
  const StepInputs& in_;
  StepFusion fusion_;
  ForwardPlan plan_;
  NodeOperand residual_;  // the residual stream, [num_tokens, hidden_size]
  NodeOperand normed_;    // the same, normalised
  std::optional<NodeOperand> branch_;  // what is still to be added to the stream
};

}  // namespace

ForwardPlan plan_forward(const ModelConfig& config, DType dtype, const ModelAddresses& model,
                         const StepShape& shape, const StepInputs& inputs,
                         const StepFusion& fusion) {
  return Builder(config, dtype, model, shape, inputs, fusion).build();
}

StepShape decode_shape(int batch) {
  return {.num_tokens = batch, .batch = batch, .num_logits = batch, .sample = true};
}

StepShape prefill_shape(int tokens) {
  return {.num_tokens = tokens, .max_query_len = tokens, .sample = true};
}

std::vector<ModelProblem> step_problems(const ModelConfig& config, DType dtype,
                                        const ModelAddresses& layout, const StepShape& shape,
                                        const StepFusion& fusion) {
  StepInputs inputs;
  inputs.log_capacity = kTunedContext;
  std::vector<ModelProblem> problems;
  std::map<std::string, std::size_t> known;
  for (const Node& node : plan_forward(config, dtype, layout, shape, inputs, fusion).nodes) {
    const auto [at, fresh] =
        known.try_emplace(node.family + to_key(node.tuned_as), problems.size());
    if (fresh) problems.push_back({node.family, node.tuned_as, 0});
    ++problems[at->second].count;
  }
  return problems;
}

std::vector<ModelProblem> model_problems(const ModelConfig& config, DType dtype,
                                         const ModelAddresses& layout,
                                         const std::vector<int>& batches,
                                         const std::vector<int>& prompts) {
  std::vector<StepShape> shapes;
  for (const int batch : batches) shapes.push_back(decode_shape(batch));
  for (const int prompt : prompts) shapes.push_back(prefill_shape(prompt));
  std::vector<ModelProblem> problems;
  std::map<std::string, std::size_t> known;
  for (const StepShape& shape : shapes) {
    std::map<std::string, int> counts;  // the most that any of the ways launches
    for (const StepFusion& fusion : step_fusions(dtype, layout, shape.num_tokens))
      for (ModelProblem& p : step_problems(config, dtype, layout, shape, fusion)) {
        const std::string key = p.family + to_key(p.problem);
        const auto [at, fresh] = known.try_emplace(key, problems.size());
        int& counted = counts[key];
        const int more = std::max(0, p.count - counted);
        counted += more;
        if (fresh) problems.push_back({p.family, std::move(p.problem), 0});
        problems[at->second].count += more;
      }
  }
  return problems;
}

std::vector<ModelProblem> model_problems(const ModelConfig& config, DType dtype,
                                         const std::vector<int>& batches,
                                         const std::vector<int>& prompts) {
  return model_problems(config, dtype, weight_layout(config), batches, prompts);
}

}  // namespace quern
