#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "model/activation_plan.h"
#include "model/config.h"
#include "model/step_fusion.h"
#include "model/weight_layout.h"
#include "runtime/base/dtype.h"
#include "templates/params.h"

namespace quern {

/// Per-step inputs in device memory, i32 unless said otherwise.
struct StepInputs {
  std::uint64_t ids = 0;          // [num_tokens]
  std::uint64_t positions = 0;    // [num_tokens]
  std::uint64_t sequence = 0;     // [num_tokens]: row of the block table
  std::uint64_t block_table = 0;  // [batch, max_blocks]
  std::uint64_t kv_len = 0;       // [batch], this step's tokens included
  std::uint64_t query_start = 0;  // [batch + 1]; prefill only
  std::uint64_t logits_rows = 0;  // [num_logits]: which tokens get logits; prefill only
  std::uint64_t logits = 0;       // f32 [num_logits, vocab_size], written
  // Sampling, one entry a sequence; see templates/sampling.
  std::uint64_t sampling = 0;                        // [batch, 8]
  std::uint64_t next_ids = 0;                        // [batch], written
  std::uint64_t next_position = 0, next_kv_len = 0;  // [batch], advanced
  std::uint64_t log = 0;                             // [batch, log_capacity], written
  int log_capacity = 0;
};

/// How big a step is. A step takes a ragged batch: any mix of prefill chunks and single tokens.
struct StepShape {
  int num_tokens = 1;
  int batch = 1;          // sequences
  int max_query_len = 1;  // 1: every sequence has exactly one token, and decode attention serves
  int num_logits = 1;     // tokens that get logits; num_tokens = all of them
  bool sample = false;    // choose the next token and advance
};

/// One operand of a node: an address that never moves, or a tensor of the plan.
struct NodeOperand {
  std::uint64_t address = 0;
  int tensor = -1;
};

/// One kernel of a step.
struct Node {
  std::string name;    // "layers.3.qkv"
  std::string family;  // of templates/
  Params problem;      // as launched
  Params tuned_as;     // as looked up: what varies by request is put into buckets
  std::vector<NodeOperand> operands;
};

/// The forward pass as an ordered list of nodes, with the arena that their activations need.
/// Pure: no device is touched, so a model's problems can be listed and its images compiled for a
/// GPU that is not here.
struct ForwardPlan {
  std::vector<Node> nodes;
  ActivationPlan activations;
};

/// `fusion` says which row kernels are left to products; where a layer's weights do not allow it, or
/// no kernel serves it (served()), they stay.
ForwardPlan plan_forward(const ModelConfig& config, DType dtype, const ModelAddresses& model,
                         const StepShape& shape, const StepInputs& inputs,
                         const StepFusion& fusion = {});

/// One tuning problem of a model and how often one step runs it.
struct ModelProblem {
  std::string family;
  Params problem;
  int count = 0;
};
/// The shape of a decode step of so many sequences, and of a prefill chunk of so many tokens.
StepShape decode_shape(int batch);
StepShape prefill_shape(int tokens);

/// Distinct problems of one step.
std::vector<ModelProblem> step_problems(const ModelConfig& config, DType dtype,
                                        const ModelAddresses& layout, const StepShape& shape,
                                        const StepFusion& fusion);
/// Distinct problems of decode steps of these batch sizes and prefill chunks of these lengths, for
/// weights laid out like this (weight_layout()), whichever way row kernels are fused
/// (step_fusions()): what is to be measured so that the way can be chosen.
std::vector<ModelProblem> model_problems(const ModelConfig& config, DType dtype,
                                         const ModelAddresses& layout,
                                         const std::vector<int>& batches,
                                         const std::vector<int>& prompts);
/// The same with the layout that the config alone promises.
std::vector<ModelProblem> model_problems(const ModelConfig& config, DType dtype,
                                         const std::vector<int>& batches,
                                         const std::vector<int>& prompts);

}  // namespace quern
