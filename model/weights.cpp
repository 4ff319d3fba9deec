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

Projection take_projection(const Checkpoint& file, const ModelConfig& config,
                           const std::string& module, std::int64_t out, std::int64_t in) {
  if (config.quantization && config.quantization->applies_to(module))
    return load_quantised_linear(file, module, out, in, *config.quantization);
  return take(file, module + ".weight", {out, in});
}

}  // namespace

ModelWeights load_weights(const std::filesystem::path& folder, const ModelConfig& config) {
  ModelWeights weights{Checkpoint(folder), {}, {}, {}, {}};
  const Checkpoint& file = weights.checkpoint;
  const std::int64_t hidden = config.hidden_size, inner = config.intermediate_size;
  weights.embedding = take(file, "model.embed_tokens.weight", {config.vocab_size, hidden});
  weights.final_norm = take(file, "model.norm.weight", {hidden});
  if (config.tie_word_embeddings)
    weights.lm_head = weights.embedding;
  else
    weights.lm_head = take_projection(file, config, "lm_head", config.vocab_size, hidden);
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    const auto norm = [&](const char* module) {
      return take(file, fmt::format("model.layers.{}.{}.weight", i, module), {hidden});
    };
    const auto projection = [&](const char* module, std::int64_t out, std::int64_t in) {
      return take_projection(file, config, fmt::format("model.layers.{}.{}", i, module), out, in);
    };
    weights.layers.push_back({
        .input_norm = norm("input_layernorm"),
        .q_proj = projection("self_attn.q_proj", config.q_size(), hidden),
        .k_proj = projection("self_attn.k_proj", config.kv_size(), hidden),
        .v_proj = projection("self_attn.v_proj", config.kv_size(), hidden),
        .o_proj = projection("self_attn.o_proj", hidden, config.q_size()),
        .post_attention_norm = norm("post_attention_layernorm"),
        .gate_proj = projection("mlp.gate_proj", inner, hidden),
        .up_proj = projection("mlp.up_proj", inner, hidden),
        .down_proj = projection("mlp.down_proj", hidden, inner),
    });
  }
  return weights;
}

}  // namespace quern
