#include "model/weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <utility>

#include "runtime/base/error.h"

namespace quern {
namespace {

TensorView take(const Checkpoint& checkpoint, const std::string& tensor,
                std::vector<std::int64_t> shape) {
  const TensorView& view = checkpoint.at(tensor);
  if (view.shape != shape)
    throw InputError(fmt::format("tensor \"{}\" is [{}], but the config makes it [{}]", tensor,
                                 fmt::join(view.shape, ", "), fmt::join(shape, ", ")));
  if (view.dtype != DType::f32 && view.dtype != DType::f16 && view.dtype != DType::bf16)
    throw InputError(
        fmt::format("tensor \"{}\" has elements of type {}, which is not f32, f16 or bf16", tensor,
                    name(view.dtype)));
  return view;
}

}  // namespace

ModelWeights load_weights(const std::filesystem::path& folder, const ModelConfig& config) {
  if (config.quantization)
    throw InputError(fmt::format("quantised checkpoints ({}) cannot be loaded by this version",
                                 config.quantization->method));
  ModelWeights weights{Checkpoint(folder), {}, {}, {}, {}};
  const Checkpoint& file = weights.checkpoint;
  const std::int64_t hidden = config.hidden_size;
  weights.embedding = take(file, "model.embed_tokens.weight", {config.vocab_size, hidden});
  weights.final_norm = take(file, "model.norm.weight", {hidden});
  weights.lm_head = config.tie_word_embeddings
                        ? weights.embedding
                        : take(file, "lm_head.weight", {config.vocab_size, hidden});
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    const auto layer_tensor = [&](const char* tensor, std::vector<std::int64_t> shape) {
      return take(file, fmt::format("model.layers.{}.{}.weight", i, tensor), std::move(shape));
    };
    weights.layers.push_back({
        .input_norm = layer_tensor("input_layernorm", {hidden}),
        .q_proj = layer_tensor("self_attn.q_proj", {config.q_size(), hidden}),
        .k_proj = layer_tensor("self_attn.k_proj", {config.kv_size(), hidden}),
        .v_proj = layer_tensor("self_attn.v_proj", {config.kv_size(), hidden}),
        .o_proj = layer_tensor("self_attn.o_proj", {hidden, config.q_size()}),
        .post_attention_norm = layer_tensor("post_attention_layernorm", {hidden}),
        .gate_proj = layer_tensor("mlp.gate_proj", {config.intermediate_size, hidden}),
        .up_proj = layer_tensor("mlp.up_proj", {config.intermediate_size, hidden}),
        .down_proj = layer_tensor("mlp.down_proj", {hidden, config.intermediate_size}),
    });
  }
  return weights;
}

}  // namespace quern
