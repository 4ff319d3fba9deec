#include "model/config.h"

#include <fmt/format.h>

#include <algorithm>

#include "model/json_reader.h"
#include "runtime/base/error.h"

namespace quern {
namespace {

// No published dense model comes near these; what exceeds them is a damaged or hostile file.
constexpr std::int64_t kMaxVocab = 1 << 22;
constexpr std::int64_t kMaxWidth = 1 << 20;  // hidden_size, intermediate_size, q_size
constexpr std::int64_t kMaxLayers = 4096;
constexpr std::int64_t kMaxHeads = 1 << 14;
constexpr std::int64_t kMaxHeadDim = 1024;
constexpr std::int64_t kMaxPositions = 1 << 26;

Architecture parse_architecture(const JsonReader& in) {
  std::string name;
  if (in.has("architectures")) {
    const json& names = in.array("architectures");
    if (names.size() != 1 || !names[0].is_string())
      throw InputError(
          fmt::format("\"architectures\" in {} must name one architecture", in.where()));
    name = names[0].get<std::string>();
  } else {
    name = in.text("model_type");
  }
  if (name == "LlamaForCausalLM" || name == "llama") return Architecture::llama;
  if (name == "MistralForCausalLM" || name == "mistral") return Architecture::mistral;
  throw InputError(fmt::format(
      "{} describes a {}, but only LlamaForCausalLM and MistralForCausalLM are supported",
      in.where(), name));
}

RopeScaling parse_llama3_scaling(const JsonReader& in) {
  RopeScaling scaling;
  scaling.factor = in.number("factor", 1, 1e6);
  scaling.low_freq_factor = in.number("low_freq_factor", 1e-6, 1e6);
  scaling.high_freq_factor = in.number("high_freq_factor", 1e-6, 1e6);
  scaling.original_max_position_embeddings =
      in.integer("original_max_position_embeddings", 1, kMaxPositions);
  if (scaling.high_freq_factor <= scaling.low_freq_factor)
    throw InputError(
        fmt::format("\"high_freq_factor\" must exceed \"low_freq_factor\" in {}", in.where()));
  return scaling;
}

void parse_rope(const JsonReader& in, ModelConfig& config) {
  const bool is_new = in.has("rope_parameters");
  const char* key = is_new ? "rope_parameters" : "rope_scaling";
  // Llama-2's config has no rope_theta at all: transformers' default is the paper's 10000.
  config.rope_theta = in.number_or("rope_theta", 10000, 1, 1e12);
  if (!in.has(key)) return;
  const JsonReader rope = in.object(key);
  if (is_new) config.rope_theta = rope.number_or("rope_theta", config.rope_theta, 1, 1e12);
  const std::string type = rope.has("rope_type") ? rope.text("rope_type")
                           : rope.has("type")    ? rope.text("type")
                                                 : "default";
  if (type == "llama3")
    config.rope_scaling = parse_llama3_scaling(rope);
  else if (type != "default")
    throw InputError(fmt::format(
        "\"rope_type\" in {} is \"{}\", but only \"default\" and \"llama3\" are supported",
        rope.where(), type));
}

DType parse_torch_dtype(const JsonReader& in) {
  const char* key = in.has("dtype") ? "dtype" : "torch_dtype";
  const std::string name = in.optional_text(key).value_or("bfloat16");
  if (name == "bfloat16") return DType::bf16;
  if (name == "float16") return DType::f16;
  if (name == "float32") return DType::f32;
  throw InputError(fmt::format("\"{}\" in {} is \"{}\", which is not a supported data type", key,
                               in.where(), name));
}

/// Adds "eos_token_id", one id or a list, to the stop ids.
void add_stop_ids(const json& object, const std::string& where, ModelConfig& config) {
  const auto found = object.find("eos_token_id");
  if (found == object.end() || found->is_null()) return;
  const json ids = found->is_array() ? *found : json::array({*found});
  for (const json& id : ids) {
    const json one{{"eos_token_id", id}};
    const auto value = static_cast<std::int32_t>(
        JsonReader(one, where).integer("eos_token_id", -1, config.vocab_size - 1));
    // -1 is how some configs say "none".
    if (value >= 0 &&
        std::ranges::find(config.stop_token_ids, value) == config.stop_token_ids.end())
      config.stop_token_ids.push_back(value);
  }
}

void refuse_if_true(const JsonReader& in, const char* key) {
  if (in.boolean_or(key, false))
    throw InputError(
        fmt::format("\"{}\" in {} is true, but biases are not supported", key, in.where()));
}

}  // namespace

ModelConfig parse_config(const json& config_json, const std::string& where) {
  const JsonReader in(config_json, where);
  ModelConfig config;
  config.architecture = parse_architecture(in);
  config.vocab_size = in.integer("vocab_size", 1, kMaxVocab);
  config.hidden_size = in.integer("hidden_size", 1, kMaxWidth);
  config.intermediate_size = in.integer("intermediate_size", 1, kMaxWidth);
  config.num_layers = in.integer("num_hidden_layers", 1, kMaxLayers);
  config.num_heads = in.integer("num_attention_heads", 1, kMaxHeads);
  config.num_kv_heads = in.integer_or("num_key_value_heads", config.num_heads, 1, kMaxHeads);
  if (config.num_heads % config.num_kv_heads != 0)
    throw InputError(
        fmt::format("\"num_attention_heads\" in {} is {}, which is not a multiple of "
                    "\"num_key_value_heads\", {}",
                    where, config.num_heads, config.num_kv_heads));
  if (!in.has("head_dim") && config.hidden_size % config.num_heads != 0)
    throw InputError(fmt::format(
        "\"hidden_size\" in {} is {}, which is not a multiple of \"num_attention_heads\", {}",
        where, config.hidden_size, config.num_heads));
  config.head_dim = in.has("head_dim") ? in.integer("head_dim", 2, kMaxHeadDim)
                                       : config.hidden_size / config.num_heads;
  if (config.head_dim % 2 != 0 || config.head_dim < 2 || config.head_dim > kMaxHeadDim)
    throw InputError(fmt::format("\"head_dim\" in {} is {}, but it must be even and at most {}",
                                 where, config.head_dim, kMaxHeadDim));
  if (config.q_size() > kMaxWidth)
    throw InputError(
        fmt::format("\"num_attention_heads\" times \"head_dim\" in {} is absurdly large", where));
  config.max_position_embeddings = in.integer("max_position_embeddings", 1, kMaxPositions);
  config.rms_norm_eps = in.number("rms_norm_eps", 1e-30, 1);
  parse_rope(in, config);
  if (config.architecture == Architecture::mistral) {
    // transformers' MistralConfig assumes 4096 where the key is absent; null switches it off.
    if (!config_json.contains("sliding_window"))
      config.sliding_window = 4096;
    else if (in.has("sliding_window"))
      config.sliding_window = in.integer("sliding_window", 1, kMaxPositions);
  }
  if (in.has("hidden_act") && in.text("hidden_act") != "silu")
    throw InputError(fmt::format("\"hidden_act\" in {} is \"{}\", but only \"silu\" is supported",
                                 where, in.text("hidden_act")));
  refuse_if_true(in, "attention_bias");
  refuse_if_true(in, "mlp_bias");
  config.tie_word_embeddings = in.boolean_or("tie_word_embeddings", false);
  config.dtype = parse_torch_dtype(in);
  if (in.has("bos_token_id"))
    config.bos_token_id =
        static_cast<std::int32_t>(in.integer("bos_token_id", 0, config.vocab_size - 1));
  add_stop_ids(config_json, where, config);
  if (in.has("quantization_config"))
    config.quantization = parse_quantization(in.object("quantization_config"));
  if (config.tie_word_embeddings && config.quantization && config.quantization->lm_head)
    throw InputError(fmt::format(
        "{} ties the output projection to the embedding and quantises it, which cannot both be",
        where));
  return config;
}

ModelConfig load_config(const std::filesystem::path& folder) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored))
    throw InputError(fmt::format("there is no model folder {}", folder.string()));
  const auto path = folder / "config.json";
  ModelConfig config = parse_config(read_json_file(path), path.string());
  const auto generation_path = folder / "generation_config.json";
  if (std::filesystem::exists(generation_path, ignored)) {
    const json generation = read_json_file(generation_path);
    const JsonReader check(generation, generation_path.string());
    add_stop_ids(generation, generation_path.string(), config);
  }
  return config;
}

}  // namespace quern
